//! `/v1/operator/actors`: one entity as an operator sees it, and what an operator may do to it.
//!
//! An entity is found by its kind and by its id however it was seen ([`types::spellings`]). What
//! does not activate, because it is in quarantine, is shown from its records, and what does not
//! even replay has its history at least.

use activity::operator_act::{self, Noted, REASON_CHARS_MAX};
use axum::Json;
use axum::extract::{Path, State};
use persistence::ReadError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use supervision::address::Place;
use supervision::system::Registered;
use supervision::{Refusal, Timestamp};
use types::{PlainText, TenantId, rfc3339, spellings};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::authenticate::Operator;
use crate::console::{ActorPage, HistoryEntry};
use crate::extract::{JsonBody, Query};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;
use crate::routes::freezes;

/// The most records of its history that an actor's page shows.
const HISTORY_SHOWN_MAX: usize = 100;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(actor)).routes(routes!(act))
}

/// What to show of an entity.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ActorQuery {
    /// The number of a record: the state right after it
    at: Option<u64>,
    /// The number of a record: the history before it
    before: Option<u64>,
    /// How many records of the history: 1 to 100, default 100
    limit: Option<usize>,
}

fn registered<'a>(app: &'a App, kind: &str) -> Result<&'a dyn Registered, Refusal> {
    app.system.kind(kind).ok_or_else(|| {
        let kinds: Vec<_> = app.system.kinds().iter().map(|kind| kind.kind()).collect();
        let mut refusal = Refusal::not_found("kind");
        refusal.message = format!("{}; the kinds are {}", refusal.message, kinds.join(", "));
        refusal.with_facts(&json!({ "kinds": kinds }))
    })
}

fn locate(app: &App, kind: &str, id: &str) -> Result<Place, Refusal> {
    registered(app, kind)?;
    let mut found = spellings(id).into_iter().filter_map(|id| app.system.locate(kind, &id));
    found.next().ok_or_else(|| Refusal::not_found(kind))
}

fn unreadable(error: ReadError) -> Refusal {
    Refusal::quarantined(&error.to_string())
}

/// Reads of the journal block: they run beside the requests.
async fn blocking<T: Send + 'static>(
    app: &App,
    read: impl FnOnce(&App) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let app = app.clone();
    tokio::task::spawn_blocking(move || read(&app)).await.map_err(|_| Refusal::crashed())?
}

/// One entity: its figures, its state now or at a record, its history
///
/// The id is taken as it is seen anywhere: `imp_t_…` and `imp_u_…` for whatever belongs to that
/// tenant or user, a UUID, or the id in the entity's stream.
#[utoipa::path(get, path = "/v1/operator/actors/{kind}/{id}", tag = tag::OPERATOR,
    params(("kind" = String, Path), ("id" = String, Path), ActorQuery),
    responses((status = 200, body = Object), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn actor(
    State(app): State<App>,
    Operator(_entered): Operator,
    Path((kind, id)): Path<(String, String)>,
    Query(query): Query<ActorQuery>,
) -> Result<Json<ActorPage>, Problem> {
    paging::within("limit", query.limit, HISTORY_SHOWN_MAX)?;
    let place = locate(&app, &kind, &id)?;
    let known = registered(&app, &kind)?;
    // To look at what is not in memory would bring it there.
    let is_live = known.actor_view(place.id()).is_some();
    let now = match query.at {
        None if is_live => known.observe(place.clone()).await.ok(),
        _ => None,
    };
    let freeze = freezes::of_entity(&app, place.kind(), place.id()).await;
    let page = blocking(&app, move |app| page(app, &place, &query, now)).await?;
    Ok(Json(ActorPage { freeze, ..page }))
}

/// The page. `now` is the state of the live entity, if that is wanted and it can be asked.
fn page(
    app: &App,
    place: &Place,
    query: &ActorQuery,
    now: Option<Value>,
) -> Result<ActorPage, Refusal> {
    let (kind, id) = (place.kind().to_owned(), place.id().to_owned());
    let known = registered(app, &kind)?;
    let head = app.system.journal().stream_head(&place.stream).map_err(unreadable)?;
    let at = query.at.unwrap_or(head).min(head);
    let seen = now.map_or_else(|| known.observe_at(place, at), Ok);
    let is_erased = seen.as_ref().is_err_and(Refusal::is_erased);
    let (state, state_error) = match seen {
        Ok(state) => (state, None),
        Err(refusal) => (Value::Null, Some(refusal.message)),
    };
    let newest = query.before.map_or(head, |before| before.saturating_sub(1).min(head));
    let shown = query.limit.unwrap_or(HISTORY_SHOWN_MAX);
    let quarantined = known.kind_view().quarantined.into_iter();
    let quarantine = quarantined.into_iter().find_map(|(of, why)| (of == id).then_some(why));
    let (view, history) = (known.actor_view(&id), history(app, place, newest, shown)?);
    let tenant_id = TenantId(place.home.0);
    let freeze = None;
    Ok(ActorPage {
        kind,
        id,
        tenant_id,
        view,
        quarantine,
        state,
        state_error,
        is_erased,
        freeze,
        at,
        head,
        history,
    })
}

/// Up to `shown` records, from `newest` back.
fn history(
    app: &App,
    place: &Place,
    newest: u64,
    shown: usize,
) -> Result<Vec<HistoryEntry>, Refusal> {
    let after = newest.saturating_sub(shown as u64);
    let records = app.system.journal().read(&place.stream, after, (newest - after) as usize);
    let entry = |record: persistence::Record| HistoryEntry {
        seq: record.header.seq,
        event: record.header.event.to_string(),
        command: record.header.command.to_string(),
        caller: record.header.caller.to_string(),
        time: rfc3339(Timestamp(record.header.time_ms)),
        link: data_encoding::HEXLOWER.encode(&record.link),
    };
    Ok(records.map_err(unreadable)?.into_iter().rev().map(entry).collect())
}

/// What to do with an entity.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum OperatorAction {
    /// Finish what it has and leave memory
    Passivate,
    /// End at once and start anew on the next message
    Restart,
    /// Take no command until released
    Quarantine,
    /// End its quarantine
    Release,
    /// Replay all records and compare with what snapshots give
    Verify,
}

impl OperatorAction {
    fn name(self) -> &'static str {
        match self {
            Self::Passivate => "passivate",
            Self::Restart => "restart",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Verify => "verify",
        }
    }

    /// What came of it, in a sentence.
    fn outcome(self, done: bool) -> &'static str {
        match (self, done) {
            (Self::Passivate, true) => "It finishes what it has and leaves memory.",
            (Self::Restart, true) => "It was ended; its next message starts it anew.",
            (Self::Passivate | Self::Restart, false) => "It was not in memory.",
            (Self::Quarantine, _) => "It takes no command until it is released.",
            (Self::Release, true) => "It takes commands again; its crashes are forgotten.",
            (Self::Release, false) => "Nothing was held against it.",
            (Self::Verify, true) => "All records and its snapshot give the same state.",
            (Self::Verify, false) => "Its records and its snapshot give different states.",
        }
    }

    fn carry_out(self, app: &App, place: &Place, reason: &str) -> Result<bool, Refusal> {
        let (known, id) = (registered(app, place.kind())?, place.id());
        Ok(match self {
            Self::Passivate => known.passivate(id),
            Self::Restart => known.kill(id),
            Self::Release => known.release(id),
            Self::Verify => known.verify(place)?,
            Self::Quarantine => {
                known.quarantine(id, reason);
                true
            }
        })
    }
}

/// An operator's act on one entity.
#[derive(Deserialize, ToSchema)]
struct ActRequest {
    action: OperatorAction,
    /// Why; it stands in the tenant's chain and in the platform's
    #[schema(value_type = String, min_length = 1, max_length = 500)]
    reason: PlainText<REASON_CHARS_MAX, 1>,
}

/// What came of an act.
#[derive(Serialize, ToSchema)]
struct ActResponse {
    /// Whether there was something to do; for `verify`, whether all is well
    done: bool,
    /// The same in a sentence
    message: &'static str,
}

/// Passivate, restart, quarantine, release or verify one entity
#[utoipa::path(post, path = "/v1/operator/actors/{kind}/{id}", tag = tag::OPERATOR,
    params(("kind" = String, Path), ("id" = String, Path)), request_body = ActRequest,
    responses((status = 200, body = ActResponse), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn act(
    State(app): State<App>,
    Operator(entered): Operator,
    Path((kind, id)): Path<(String, String)>,
    body: JsonBody<ActRequest>,
) -> Result<Json<ActResponse>, Problem> {
    let ActRequest { action, reason } = body.value;
    let place = locate(&app, &kind, &id)?;
    let origin = app.origin(&entered.caller, entered.request);
    let (kind, id) = (place.kind().to_owned(), place.id().to_owned());
    let act = Noted { kind, id, action: action.name().to_owned(), reason: reason.to_string() };
    operator_act::note(&app.system, place.home, act, origin).await?;
    let carry_out = move |app: &App| action.carry_out(app, &place, reason.as_str());
    let done = blocking(&app, carry_out).await?;
    Ok(Json(ActResponse { done, message: action.outcome(done) }))
}
