//! `/console`: one page and its two files; what it shows comes from `/v1/operator`.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::app::App;
use crate::console;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/console", get(page))
        .route(console::SCRIPT_PATH, get(script))
        .route(console::STYLE_PATH, get(style))
}

async fn page() -> impl IntoResponse {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = HeaderValue::from_static(console::CONTENT_SECURITY_POLICY);
    let headers = [(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, console::page().into_string())
}

async fn script() -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/javascript; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], console::SCRIPT)
}

async fn style() -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/css; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], console::STYLE)
}
