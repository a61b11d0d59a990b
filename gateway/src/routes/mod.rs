//! The routes, one file a family: each handler is parse, one ask, view.

mod accounts;
mod acting;
mod actions;
mod admin_apps;
mod agencies;
mod agent_tokens;
mod agents;
mod audit;
mod auth;
mod automations;
mod automations_internal;
mod backups;
mod billing;
mod calls;
mod completions;
mod configuration;
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
mod key_room;
mod keys;
mod limits;
mod login_form;
mod mail_pages;
mod marketplace;
mod me;
mod members;
mod notices;
mod oauth;
mod oauth_page;
mod operator;
mod operator_actors;
mod operator_flights;
mod operator_users;
mod password;
mod payment_methods;
mod payments;
mod payouts;
mod portability;
mod portal;
mod probes;
mod registry;
mod registry_older;
mod reports;
mod roles;
mod sandbox_pages;
mod scopes;
mod secrets;
mod sessions;
mod signing_keys;
mod skeleton;
mod standing;
mod statement;
mod storage;
mod store;
mod stripe;
mod subscriptions;
mod tasks;
mod tenants;
mod tickets;
mod topups;
mod usage;
mod users;
mod webhooks;

pub(crate) use events::Published;
pub(crate) use portability::parse_key as parse_export_key;
pub(crate) use tickets::Tickets;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use supervision::{Class, Refusal};
use tower::util::MapRequestLayer;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::front::note_route;
use crate::named_user;
use crate::openapi::{self, Documents};
use crate::problem::Problem;

/// The routes on which services may name the user in `user_id`.
fn of_the_portal() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(developer::router())
        .merge(portal::router())
        .merge(payouts::router())
        .merge(statement::router())
        .merge(marketplace::router())
        .merge(hosts::router())
        .layer(axum::middleware::from_fn(named_user::named_user))
}

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
        .merge(topups::router())
        .merge(payment_methods::router())
        .merge(payments::router())
        .merge(stripe::router())
        .merge(subscriptions::router())
        .merge(of_the_portal())
        .merge(installs::router())
        .merge(registry::router())
        .merge(registry_older::router())
        .merge(admin_apps::router())
        .merge(calls::router())
        .merge(secrets::router())
        .merge(store::router())
        .merge(skeleton::router())
        .merge(storage::router())
        .merge(notices::router())
        .merge(configuration::router())
        .merge(completions::router())
        .merge(reports::router())
        .merge(install_keys::router())
        .merge(webhooks::router())
        .merge(oauth::router())
        .merge(confirmations::router())
        .merge(tasks::router())
        .merge(automations::router())
        .merge(automations_internal::router())
        .merge(actions::router())
        .merge(audit::router())
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
    openapi::declare_acting(&mut document);
    openapi::answers::declare(&mut document);
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
        .merge(oauth_page::router())
        .merge(mail_pages::router())
        .merge(sandbox_pages::router())
        .route_layer(MapRequestLayer::new(note_route))
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async {
            let message = "this route does not take this method";
            let refusal = Refusal::new(Class::BadRequest, "method_not_allowed", message);
            Problem(refusal).with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(app)
}
