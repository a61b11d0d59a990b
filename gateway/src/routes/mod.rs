//! The routes, one file a family: each handler is parse, one ask, view.

mod accounts;
mod actions;
mod admin_apps;
mod agencies;
mod agent_tokens;
mod agents;
mod auth;
mod backups;
mod billing;
mod calls;
mod confirmation_page;
mod confirmations;
mod console;
mod developer;
mod device;
mod device_page;
mod erasure;
mod events;
mod factor_removal;
mod factors;
pub(crate) mod freezes;
mod hosts;
mod import;
mod install_keys;
mod installs;
mod invitation_page;
mod issuing_keys;
mod keys;
mod limits;
mod login_form;
mod mail_pages;
mod marketplace;
mod me;
mod members;
mod oauth;
mod operator;
mod operator_actors;
mod operator_flights;
mod operator_users;
mod password;
mod payouts;
mod portability;
mod portal;
mod probes;
mod roles;
mod scopes;
mod secrets;
mod sessions;
mod signing_keys;
mod store;
mod tasks;
mod tenants;
mod usage;
mod users;
mod webhooks;

pub(crate) use confirmation_page::Tickets;
pub(crate) use portability::parse_key as parse_export_key;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use supervision::{Class, Refusal};
use tower::util::MapRequestLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::front::note_route;
use crate::openapi::{self, Documents};
use crate::problem::Problem;

/// Every route with its declaration, and the document that they make.
fn declared() -> (Router<App>, utoipa::openapi::OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(openapi::base())
        .merge(auth::router())
        .merge(password::router())
        .merge(factors::router())
        .merge(factor_removal::router())
        .merge(device::router())
        .merge(accounts::router())
        .merge(keys::router())
        .merge(sessions::router())
        .merge(billing::router())
        .merge(limits::router())
        .merge(usage::router())
        .merge(developer::router())
        .merge(portal::router())
        .merge(payouts::router())
        .merge(marketplace::router())
        .merge(installs::router())
        .merge(admin_apps::router())
        .merge(hosts::router())
        .merge(calls::router())
        .merge(secrets::router())
        .merge(store::router())
        .merge(install_keys::router())
        .merge(webhooks::router())
        .merge(oauth::router())
        .merge(confirmations::router())
        .merge(tasks::router())
        .merge(actions::router())
        .merge(events::router())
        .merge(operator::router())
        .merge(tenants::router())
        .merge(members::router())
        .merge(roles::router())
        .merge(scopes::router())
        .merge(agencies::router())
        .merge(agents::router())
        .merge(agent_tokens::router())
        .merge(users::router())
        .merge(me::router())
        .merge(operator_users::router())
        .merge(import::router())
        .merge(signing_keys::router())
        .merge(issuing_keys::router())
        .merge(operator_actors::router())
        .merge(operator_flights::router())
        .merge(freezes::router())
        .merge(backups::router())
        .merge(erasure::router())
        .merge(portability::router())
        .split_for_parts();
    openapi::declare_keys(&mut document);
    (router, document)
}

/// Secrets are for the client alone: no cache keeps them.
fn not_kept(mut response: Response<Body>) -> Response<Body> {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

/// The OpenAPI document of all declared routes.
pub fn document() -> utoipa::openapi::OpenApi {
    declared().1
}

/// The whole router.
pub fn router(app: App) -> Router {
    let (router, document) = declared();
    let documents = Documents::new(&document);
    router
        .merge(probes::router(documents))
        .merge(console::router())
        .merge(invitation_page::router())
        .merge(device_page::router())
        .merge(confirmation_page::router())
        .merge(mail_pages::router())
        .route_layer(MapRequestLayer::new(note_route))
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async {
            let message = "this route does not take this method";
            let refusal = Refusal::new(Class::BadRequest, "method_not_allowed", message);
            Problem(refusal).with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(app)
}
