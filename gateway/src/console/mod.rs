//! The operator's console: one page, its style and its script's modules, and the JSON it shows.
//!
//! The server renders the page's landmarks once ([`page`]); the script logs in, asks for what it
//! shows with a bearer token, and keeps it up to date. Nothing comes from elsewhere and nothing is
//! inline, so it works offline under [`CONTENT_SECURITY_POLICY`](crate::assets). What it needs:
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /console`, `/console/FILE`, `/assets/FILE` | the page and its files, to everybody |
//! | `POST /v1/auth/login`, `/v1/auth/refresh` | `{access_token, refresh_token, expires_in}` |
//! | `GET /v1/operator/tree` | [`TreeView`] |
//! | `GET /v1/operator/stream` | server-sent events `tree`, each second, data [`TreeView`] |
//! | `GET /v1/operator/actors/{kind}/{id}?at=SEQ&before=SEQ&limit=N` | [`ActorPage`] |
//! | `POST` the same, `{action, reason}` | `{done, message}`: an act, noted before it is done |
//! | `GET /v1/operator/tenants/{id}/users` | a tenant's users without addresses and names |
//! | `DELETE /v1/operator/users/{id}/factors`, `{reason}` | `{removed}`: lost second factors |
//! | `GET /v1/operator/confirmations?limit=N&cursor=C` | what waits for somebody, in all tenants |
//! | `POST /v1/operator/confirmations/{id}/cancel`, `{reason}` | `{confirmation_id, state}` |
//! | `GET /v1/admin/apps/pending`, `/v1/admin/apps`, `/v1/admin/developers` | the marketplace |
//! | `POST /v1/admin/apps/{id}/{approve,reject,status}` | the app as it is then |
//! | `GET /v1/admin/payouts/pending`, `POST …/{id}/{approve,reject,paid}` | payouts |
//! | `POST /v1/users/{id}/erase`, `/v1/tenants/{id}/erase` | the receipt of an erasure |
//! | `POST /v1/operator/{tenants,users,apps}/{id}/freeze`, `…/resume` | a freeze, its receipt |
//!
//! Rates (per second) are made by the script from two trees that follow each other, so that the
//! server keeps no figures for who is looking. No state is edited here: what an operator may do
//! is what the acts are.

mod pages;

use activity::feed::FeedFigures;
use persistence::Statistics;
use serde::{Serialize, Serializer};
use supervision::monitor::{ActorView, KindView};
use supervision::supervisor::ChildView;
use types::TenantId;

pub use pages::page;

use crate::assets::Asset;
use crate::routes::freezes::FreezeView;

/// The files that the page is made of: one style, and the modules of the script.
pub const FILES: &[Asset] = &[
    Asset { name: "style.css", text: include_str!("style.css") },
    Asset { name: "confirmations.js", text: include_str!("confirmations.js") },
    Asset { name: "console.js", text: include_str!("console.js") },
    Asset { name: "act.js", text: include_str!("act.js") },
    Asset { name: "dom.js", text: include_str!("dom.js") },
    Asset { name: "entity.js", text: include_str!("entity.js") },
    Asset { name: "flights.js", text: include_str!("flights.js") },
    Asset { name: "freeze.js", text: include_str!("freeze.js") },
    Asset { name: "limits.js", text: include_str!("limits.js") },
    Asset { name: "market.js", text: include_str!("market.js") },
    Asset { name: "parts.js", text: include_str!("parts.js") },
    Asset { name: "session.js", text: include_str!("session.js") },
    Asset { name: "status.js", text: include_str!("status.js") },
    Asset { name: "text.js", text: include_str!("text.js") },
    Asset { name: "tree.js", text: include_str!("tree.js") },
    Asset { name: "users.js", text: include_str!("users.js") },
    Asset { name: "views.js", text: include_str!("views.js") },
];

/// The whole system at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct TreeView {
    /// How long the server has been up, in milliseconds.
    pub uptime_ms: u64,
    /// The journal's engine.
    pub engine: &'static str,
    /// The journal's figures.
    pub statistics: Statistics,
    /// HTTP requests answered since the start.
    pub requests: u64,
    /// The system's own actors, in the order they start.
    pub system: Vec<ChildView>,
    /// Who reads the event feed.
    pub feed: FeedFigures,
    /// Every kind.
    pub kinds: Vec<KindView>,
    /// Live actors; a server with very many lists some of them. Each goes out with its
    /// `tenant_id`.
    #[serde(serialize_with = "all_with_tenant")]
    pub actors: Vec<ActorView>,
    /// Reminders that wait for their time.
    pub reminders_waiting: usize,
    /// Reminders that the start found.
    pub reminders_recovered: usize,
    /// Entities with pending work that the start found and resumed.
    pub pending_recovered: usize,
}

/// One entity: what it is now or was, and how it came to that.
#[derive(Clone, Debug, Serialize)]
pub struct ActorPage {
    /// Its kind.
    pub kind: String,
    /// Its id, as its stream has it.
    pub id: String,
    /// The tenant in whose chain it records.
    pub tenant_id: TenantId,
    /// Its actor, with its `tenant_id`, if it is live.
    #[serde(serialize_with = "one_with_tenant")]
    pub view: Option<ActorView>,
    /// Why it is in quarantine, if it is.
    pub quarantine: Option<String>,
    /// The last freeze of the tenant, user or app that it is, with its receipt.
    pub freeze: Option<FreezeView>,
    /// The state after record `at`, redacted; null if it cannot be told.
    pub state: serde_json::Value,
    /// Why the state cannot be told.
    pub state_error: Option<String>,
    /// Whether that is because its key was erased.
    pub is_erased: bool,
    /// The number of the record that `state` is after.
    pub at: u64,
    /// The number of the last record.
    pub head: u64,
    /// Records, newest first: the newest ones, or those before the one that was asked for.
    pub history: Vec<HistoryEntry>,
}

/// An actor and whose it is.
#[derive(Serialize)]
struct Tenanted<'a> {
    /// As text: `home`, the same as a number, is beyond what a script can hold.
    tenant_id: TenantId,
    #[serde(flatten)]
    view: &'a ActorView,
}

impl<'a> From<&'a ActorView> for Tenanted<'a> {
    fn from(view: &'a ActorView) -> Self {
        Self { tenant_id: TenantId(view.home), view }
    }
}

fn all_with_tenant<S: Serializer>(views: &[ActorView], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(views.iter().map(Tenanted::from))
}

fn one_with_tenant<S: Serializer>(
    view: &Option<ActorView>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    view.as_ref().map(Tenanted::from).serialize(serializer)
}

/// One record of an entity.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryEntry {
    /// Its number in the stream.
    pub seq: u64,
    /// The event.
    pub event: String,
    /// The command that recorded it.
    pub command: String,
    /// Who asked.
    pub caller: String,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// Its link in the tenant's chain, hexadecimal SHA-256.
    pub link: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_landmarks_and_nothing_inline() {
        let html = page().into_string();
        for landmark in ["<header", "<nav", "<main", "lang=\"en\"", "aria-live=\"polite\""] {
            assert!(html.contains(landmark), "{landmark}");
        }
        for label in ["for=\"email\"", "for=\"password\"", "<title>", "name=\"viewport\""] {
            assert!(html.contains(label), "{label}");
        }
        for view in ["overview", "tree", "users", "apps", "payouts", "developers", "journal"] {
            assert!(html.contains(&format!("href=\"#/{view}\"")), "{view}");
        }
        for file in FILES {
            assert!(html.contains(&format!("\"/console/{}\"", file.name)), "{}", file.name);
        }
        for inline in ["<style", " style=", " onclick=", "<script>", "http://", "https://"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }

    #[test]
    fn the_assets_load_nothing_from_elsewhere() {
        for file in FILES {
            for forbidden in
                ["https://", "@import", "innerHTML", "eval(", "document.write", "localStorage"]
            {
                assert!(!file.text.contains(forbidden), "{}: {forbidden}", file.name);
            }
        }
    }

    #[test]
    fn every_module_that_is_imported_is_served() {
        let names: Vec<_> = FILES.iter().map(|file| file.name).collect();
        for file in FILES.iter().filter(|file| file.name.ends_with(".js")) {
            for import in file.text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap_or_default();
                assert!(names.contains(&name), "{} imports {name}", file.name);
            }
            assert!(file.text.lines().count() <= 700, "{} is too long", file.name);
        }
    }

    /// What the script reads: a field that goes missing here goes missing on the screen.
    #[test]
    fn an_actor_carries_its_tenant_as_text() {
        let view = ActorView {
            kind: "wallet".into(),
            id: "imp_t_0".into(),
            home: 7,
            status: "active",
            mailbox: 3,
            mailbox_max: 256,
            processed: 1,
            refused: 0,
            events: 1,
            seq: 1,
            live_ms: 1,
            idle_ms: 1,
            command: Some("debit"),
            command_ms: 2,
            turn_p50_us: 8,
            turn_p99_us: 64,
            pinned: false,
            last_error: None,
            crashes: supervision::monitor::CrashView::default(),
        };
        let json = serde_json::to_value(Tenanted::from(&view)).unwrap_or_default();
        assert_eq!(json["tenant_id"], "imp_t_00000000000000000000000007");
        for field in ["kind", "id", "status", "mailbox", "mailbox_max", "command_ms", "crashes"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
