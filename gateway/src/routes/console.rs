//! `/console`: one page and its files; what it shows comes from `/v1/operator`.

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use crate::app::App;
use crate::problem::Problem;
use crate::{assets, console};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/console", get(page))
        .route("/console/{file}", get(file))
        .route("/assets/{file}", get(shared))
}

async fn page() -> Response {
    assets::page(console::page())
}

async fn file(Path(name): Path<String>, asked: HeaderMap) -> Result<Response, Problem> {
    assets::serve(console::FILES, &name, &asked)
}

async fn shared(Path(name): Path<String>, asked: HeaderMap) -> Result<Response, Problem> {
    assets::serve(assets::SHARED, &name, &asked)
}
