//! The app store as an extension's own runtime reaches it from outside: one document at a time, in
//! the name of a user, or looked up over all users of an app in a tenant.
//!
//! Invariants
//! - A write is a run of the user's session like any other: recorded, in the chain of actions, free
//!   of charge, and refused when the document changed meanwhile.
//! - With `if_match` it is applied to that version of the document or not at all.
//!
//! Deliberate limits
//! - A look-up without a user asks for at most [`USERS_ASKED_MAX`] users one after the other.
//! - An ordered query reads all matches first, at most as many as a `where` examines.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use persistence::codec;
use serde_json::{Map, Value};
use supervision::idempotency::Ticketed;
use supervision::{Class, IdempotencyKey, Origin, Refusal, System};
use types::{AppId, CallId, SharePercent, TenantId, UserId, home_of};

use crate::ir::{Document, Documents as _, Filter, Query, Reason, field_of};
use crate::runtime::{ATTEMPTS_MAX, Extensions};
use crate::session::{
    Action, ApplyRun, DOCUMENTS_CHANGED, ExtensionSession, Ran, RanItem, Scope, StoredDocument,
};
use crate::view::{EXAMINED_MAX, Rows, SystemRows, View};

/// How many users' documents a look-up without a user asks for.
pub const USERS_ASKED_MAX: usize = 10_000;

/// Whose documents.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// In which tenant.
    pub tenant: TenantId,
    /// The user's; `None` for whoever's they are.
    pub user: Option<UserId>,
    /// The app's.
    pub app: AppId,
    /// Their kind.
    pub kind: String,
}

/// A document, and in which version it is.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The document.
    pub document: Document,
    /// From 1 up, one more with each change.
    pub version: u64,
}

/// What is done to a document.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is made.
    Create {
        /// Its fields.
        data: Map<String, Value>,
    },
    /// Fields of it are set.
    Update {
        /// Its id.
        id: String,
        /// The fields.
        data: Map<String, Value>,
    },
    /// It is removed.
    Delete {
        /// Its id.
        id: String,
    },
}

impl Change {
    fn function(&self) -> (&'static str, Action) {
        match self {
            Self::Create { .. } => ("store.create", Action::Write),
            Self::Update { .. } => ("store.update", Action::Write),
            Self::Delete { .. } => ("store.delete", Action::Destructive),
        }
    }

    fn id(&self) -> Option<&str> {
        match self {
            Self::Create { .. } => None,
            Self::Update { id, .. } | Self::Delete { id } => Some(id),
        }
    }
}

/// Which documents are asked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// What they must match; `None` for all.
    pub filter: Option<Filter>,
    /// A field, `created_at` or `updated_at`; with a minus before it the largest first. As they
    /// were made when empty.
    pub order_by: String,
    /// How many to leave out first.
    pub offset: usize,
    /// How many at most.
    pub limit: usize,
}

fn refused(reason: Reason) -> Refusal {
    Refusal::new(Class::Invalid, &reason.code, reason.message)
}

/// 404 for a document that is not there.
pub fn no_document() -> Refusal {
    Refusal::not_found("document")
}

impl Shelf {
    fn scope(&self, user: UserId) -> Scope {
        Scope { tenant: self.tenant, user, app: self.app.clone() }
    }

    /// The users that have documents of this app, in the order of their ids.
    fn users(&self, rows: &impl Rows) -> Result<Vec<UserId>, Refusal> {
        let prefix =
            [&self.tenant.0.to_be_bytes()[..], self.app.as_str().as_bytes(), &[0]].concat();
        let (mut users, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let next = rows.rows(&prefix, after.as_deref(), 1).pop();
            let user = next.as_ref().and_then(|(key, _)| key.get(prefix.len()..)?.first_chunk());
            let Some(user) = user.map(|bytes: &[u8; 16]| u128::from_be_bytes(*bytes)) else {
                return Ok(users);
            };
            if users.len() >= USERS_ASKED_MAX {
                let message =
                    format!("this app has documents of more than {USERS_ASKED_MAX} users");
                return Err(Refusal::invalid("user_id", format!("{message}: name one")));
            }
            users.push(UserId(user));
            // A kind's name holds no byte above those of UTF-8.
            after = Some([&prefix[..], &user.to_be_bytes(), &[0xff]].concat());
        }
    }

    /// The user whose document it is.
    fn holder(&self, rows: &impl Rows, id: &str) -> Result<Option<UserId>, Refusal> {
        if let Some(user) = self.user {
            return Ok(Some(user));
        }
        for user in self.users(rows)? {
            if find(rows, &self.scope(user), &self.kind, id)?.is_some() {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }
}

fn find(rows: &impl Rows, scope: &Scope, kind: &str, id: &str) -> Result<Option<Entry>, Refusal> {
    let Some(number) = crate::view::read_id(id) else { return Ok(None) };
    let Some(row) = rows.row(&scope.document_key(kind, number)) else { return Ok(None) };
    let damaged = |_| Refusal::crashed();
    let stored: StoredDocument = codec::decode(&row).map_err(damaged)?;
    let version = stored.version;
    let document = crate::view::shown(number, &stored).map_err(refused)?;
    Ok(Some(Entry { document, version }))
}

/// The value that a document is ordered by.
fn order_of<'a>(document: &'a Document, field: &str) -> Option<std::borrow::Cow<'a, Value>> {
    use std::borrow::Cow;
    match field {
        "created_at" => Some(Cow::Owned(document.created_at.clone().into())),
        "updated_at" => Some(Cow::Owned(document.updated_at.clone().into())),
        _ => field_of(&document.data, field).map(Cow::Borrowed),
    }
}

/// Numbers before texts before all else; what has no such field comes last, either way round.
fn compare(left: Option<&Value>, right: Option<&Value>, is_falling: bool) -> Ordering {
    fn rank(value: Option<&Value>) -> u8 {
        match value {
            Some(Value::Number(_)) => 0,
            Some(Value::String(_)) => 1,
            Some(_) => 2,
            None => 3,
        }
    }
    let ranks = rank(left).cmp(&rank(right));
    let values = match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => {
            let pair = left.as_f64().zip(right.as_f64());
            pair.map_or(Ordering::Equal, |(left, right)| left.total_cmp(&right))
        }
        (Some(Value::String(left)), Some(Value::String(right))) => left.cmp(right),
        _ => Ordering::Equal,
    };
    ranks.then(if is_falling { values.reverse() } else { values })
}

fn search(
    rows: &impl Rows,
    shelf: &Shelf,
    now: supervision::Timestamp,
    search: &Search,
) -> Result<Vec<Document>, Refusal> {
    let users = match shelf.user {
        Some(user) => vec![user],
        None => shelf.users(rows)?,
    };
    let wanted = match search.order_by.is_empty() {
        true => search.offset.saturating_add(search.limit).min(EXAMINED_MAX),
        false => EXAMINED_MAX,
    };
    let mut found = Vec::new();
    for user in users {
        let mut view = View::new(rows, shelf.scope(user), now);
        let query = Query {
            kind: &shelf.kind,
            filter: search.filter.as_ref(),
            ids: None,
            limit: wanted.saturating_sub(found.len()).max(1),
        };
        found.extend(view.list(&query).map_err(refused)?);
        if found.len() >= wanted {
            break;
        }
    }
    let (field, is_falling) = match search.order_by.strip_prefix('-') {
        Some(field) => (field, true),
        None => (search.order_by.as_str(), false),
    };
    if !field.is_empty() {
        found.sort_by(|left, right| {
            let (left, right) = (order_of(left, field), order_of(right, field));
            compare(left.as_deref(), right.as_deref(), is_falling)
        });
    }
    Ok(found.into_iter().skip(search.offset).take(search.limit).collect())
}

impl Extensions {
    /// 404 unless the app is there for this tenant and user, and not frozen.
    async fn admit_store(
        &self,
        system: &Arc<System>,
        shelf: &Shelf,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        self.admit_runtime(system, (&shelf.app, shelf.tenant, shelf.user), origin).await
    }

    /// A document; 404 when there is none.
    pub async fn stored(
        &self,
        system: &Arc<System>,
        shelf: Shelf,
        id: String,
        origin: &Origin,
    ) -> Result<Entry, Refusal> {
        self.admit_store(system, &shelf, origin).await?;
        let rows = SystemRows::of_tenant(system, shelf.tenant);
        let read = move || {
            let user = shelf.holder(&rows, &id)?.ok_or_else(no_document)?;
            find(&rows, &shelf.scope(user), &shelf.kind, &id)?.ok_or_else(no_document)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::crashed())?
    }

    /// The documents that are asked for. 422 when a `where` looks at too many.
    pub async fn search_store(
        &self,
        system: &Arc<System>,
        shelf: Shelf,
        asked: Search,
        origin: &Origin,
    ) -> Result<Vec<Document>, Refusal> {
        self.admit_store(system, &shelf, origin).await?;
        let rows = SystemRows::of_tenant(system, shelf.tenant);
        let now = system.now_in(home_of(shelf.tenant));
        let read = move || search(&rows, &shelf, now, &asked);
        tokio::task::spawn_blocking(read).await.map_err(|_| Refusal::crashed())?
    }

    /// Changes a document. With a key the answer is recorded as `render` writes it. Refused: 404,
    /// 409 `version_conflict` when it is not in the version `if_match`, 422, 503.
    pub async fn change_store(
        &self,
        system: &Arc<System>,
        shelf: Shelf,
        change: Change,
        if_match: Option<u64>,
        (key, origin): (Option<IdempotencyKey>, Origin),
        render: impl Fn(&Changed) -> Vec<u8>,
    ) -> Result<Recorded, Refusal> {
        self.admit_store(system, &shelf, &origin).await?;
        let rows = SystemRows::of_tenant(system, shelf.tenant);
        let user = match change.id() {
            None => shelf.user,
            Some(id) => {
                let (shelf, id) = (shelf.clone(), id.to_owned());
                let found = tokio::task::spawn_blocking(move || shelf.holder(&rows, &id));
                found.await.map_err(|_| Refusal::crashed())??
            }
        };
        let user = user.ok_or_else(no_document)?;
        let scope = shelf.scope(user);
        let mut refusal = Refusal::busy();
        for _ in 0..ATTEMPTS_MAX {
            let ticket = match &key {
                None => None,
                Some(key) => match system.begin(scope.address().place(), key.clone()).await? {
                    supervision::Begin::Recorded(bytes) => return Ok(Recorded::Before(bytes)),
                    supervision::Begin::Fresh(ticket) => Some(ticket),
                },
            };
            let parts = (&scope, shelf.kind.as_str(), &change, if_match);
            match self.change_once(system, parts, (ticket, &origin), &render).await {
                Err(again) if again.code == DOCUMENTS_CHANGED => refusal = again,
                done => return done,
            }
        }
        Err(refusal)
    }

    async fn change_once(
        &self,
        system: &Arc<System>,
        (scope, kind, change, if_match): (&Scope, &str, &Change, Option<u64>),
        (ticket, origin): (Option<Ticketed>, &Origin),
        render: &impl Fn(&Changed) -> Vec<u8>,
    ) -> Result<Recorded, Refusal> {
        let begun = Instant::now();
        let rows = SystemRows::of_tenant(system, scope.tenant);
        if let Some(id) = change.id() {
            let present = find(&rows, scope, kind, id)?.ok_or_else(no_document)?;
            if if_match.is_some_and(|wanted| wanted != present.version) {
                let message = format!("the document is in version {}", present.version);
                let facts = serde_json::json!({"version": present.version});
                return Err(Refusal::conflict("version_conflict", message).with_facts(&facts));
            }
        }
        let now = system.now_in(home_of(scope.tenant));
        let mut view = View::new(&rows, scope.clone(), now);
        let id = match change {
            Change::Create { data } => view.create(kind, data.clone()).map_err(refused)?,
            Change::Update { id, data } => {
                view.update(kind, id, data).map_err(refused)?;
                id.clone()
            }
            Change::Delete { id } => {
                view.delete(kind, id).map_err(refused)?;
                id.clone()
            }
        };
        view.keep_item();
        let (reads, writes) = view.finish();
        let entry = writes.first().and_then(|write| Some((write.id, write.document.as_ref()?)));
        let entry = entry.map(|(id, stored)| {
            let version = stored.version;
            crate::view::shown(id, stored).map(|document| Entry { document, version })
        });
        let changed = Changed { id, entry: entry.transpose().map_err(refused)? };
        let (function, action) = change.function();
        let item = RanItem {
            index: 0,
            function: function.to_owned(),
            action,
            succeeded: true,
            price: 0,
            fee: 0,
            error_code: None,
            duration_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        let ran = Ran {
            id: CallId(system.new_id()),
            scope: scope.clone(),
            app_version: String::new(),
            items: vec![item],
            writes,
            hold: None,
            share: SharePercent::new(0).map_err(|_| Refusal::crashed())?,
            confirmation: None,
        };
        let (usage, events) = (Vec::new(), Vec::new());
        let command = ApplyRun { ran, reads, usage, is_started: false, events };
        let sessions = system.directory::<ExtensionSession>();
        let address = scope.address();
        match ticket {
            None => drop(sessions.ask(&address, command, origin.clone()).await?),
            Some(ticket) => {
                let body = render(&changed);
                let render = move |_| body;
                sessions.ask_once(&address, command, origin.clone(), ticket, render).await?;
            }
        }
        Ok(Recorded::Now(changed))
    }
}

/// How a change went.
pub enum Recorded {
    /// It was made now.
    Now(Changed),
    /// It had been made with the same key: what was recorded then.
    Before(Vec<u8>),
}

/// What a change made of a document.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Its id.
    pub id: String,
    /// What it is; `None` once removed.
    pub entry: Option<Entry>,
}
