//! Tenants that leave, come, or are copied as sandboxes: `/v1/tenants/{tenant_id}/export`,
//! `/v1/operator/tenants/import`, `/v1/tenants/{tenant_id}/sandbox` and `…/clock`.
//!
//! An export is written on the server's disk first and answered from there, so that whoever reads
//! slowly keeps no part of the journal waiting, and an answer that begins is a whole file. Its key
//! goes along in a header, once.

use std::io;
use std::path::Path as FilePath;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use http_body_util::BodyExt as _;
use persistence::tenant_file::ExportKey;
use portability::sandbox::{Conclude, MoveClock, Sandbox, Sandboxes};
use portability::{Imported, Outgoing, Portability};
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::{TenantId, home_of, parse_rfc3339, rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::tenants::{Authority, authority};
use crate::app::App;
use crate::ask_once;
use crate::authenticate::{Operator, Someone};
use crate::extract::{JsonBody, OptionalBody};
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

/// The header that an export's key travels in.
const EXPORT_KEY: &str = "x-export-key";
/// The most bytes of a tenant's file that are taken.
const IMPORT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// How long the next piece of a file may take to arrive.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// How much of a file is read for one piece of an answer.
const PIECE_BYTES: usize = 256 * 1024;
/// The longest name of a sandbox, in characters.
const NAME_CHARS_MAX: usize = identity::tenant::NAME_CHARS_MAX;
/// What an export takes: the same as ending the tenant.
const EXPORT: &str = "tenants:delete";
const WRITE: &str = "tenants:write";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(export_tenant))
        .routes(routes!(import_tenant))
        .routes(routes!(open_sandbox))
        .routes(routes!(move_clock))
}

/// A tenant's whole chain in one encrypted file, for another installation
///
/// Takes the scope `tenants:delete` of a credential for this tenant, which its owners have. The key
/// that the file is sealed under is in the header `X-Export-Key`, and nowhere else: keep it.
/// Members go along by their e-mail addresses; passwords, sessions, API keys and second factors do
/// not.
#[utoipa::path(get, path = "/v1/tenants/{tenant_id}/export", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 401),
        (status = 403), (status = 404), (status = 409), (status = 503)))]
async fn export_tenant(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
) -> Result<Response, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(EXPORT)).await?;
    let outgoing = app.portability.export(&app.system, tenant).await?;
    let name = format!("attachment; filename=\"{tenant}.bailiwick\"");
    let text = |text: &str| HeaderValue::from_str(text).map_err(|_| Refusal::crashed());
    let mut key = text(&HEXLOWER.encode(outgoing.key.bytes()))?;
    key.set_sensitive(true);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(outgoing.exported.bytes)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_DISPOSITION, text(&name)?),
    ];
    let mut response = Response::new(pieces(outgoing));
    response.headers_mut().extend(headers);
    response.headers_mut().insert(EXPORT_KEY, key);
    Ok(response)
}

/// A file as a body. The permit of its export lasts as long.
fn pieces(outgoing: Outgoing) -> Body {
    let file = outgoing.file.try_clone().map(tokio::fs::File::from_std);
    let state = (file.ok(), outgoing);
    Body::from_stream(futures::stream::unfold(state, |(file, outgoing)| async move {
        let mut file = file?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), (Some(file), outgoing))),
            Err(error) => Some((Err(error), (None, outgoing))),
        }
    }))
}

/// A tenant that came.
#[derive(Serialize, ToSchema)]
struct ImportedTenant {
    /// The tenant, the same id as where it comes from
    tenant_id: String,
    /// How many records were taken over
    records: u64,
    /// How many entities they make
    entities: u64,
    /// Members who have an account here, found by their e-mail addresses
    members_found: usize,
    /// Members who were given an account; they set a password by mail
    members_created: usize,
    /// When it was exported
    exported_at: String,
    /// How many records its chain had
    chain_records: u64,
    /// The last link of that chain, hexadecimal
    chain_link: String,
    /// The Merkle root over all its links, hexadecimal
    chain_root: String,
}

impl From<Imported> for ImportedTenant {
    fn from(imported: Imported) -> Self {
        let Imported { manifest, tenant, records, entities, found, made } = imported;
        Self {
            tenant_id: tenant.to_string(),
            records,
            entities,
            members_found: found,
            members_created: made,
            exported_at: rfc3339(supervision::Timestamp(manifest.exported_ms)),
            chain_records: manifest.records,
            chain_link: HEXLOWER.encode(&manifest.link),
            chain_root: HEXLOWER.encode(&manifest.root),
        }
    }
}

/// Take in a tenant that another installation has exported
///
/// The body is the file, streamed; `X-Export-Key` is its key. Everything is checked before anything
/// is written: a file that is none, is cut short, changed, too new, or under another key is 422
/// with its own code; a tenant or app that is here already is 409. A tenant's id is never used
/// twice.
#[utoipa::path(post, path = "/v1/operator/tenants/import", tag = tag::OPERATOR,
    params(("X-Export-Key" = String, Header, description = "64 hexadecimal digits")),
    request_body(content_type = "application/octet-stream"),
    responses((status = 201, body = ImportedTenant), (status = 401), (status = 403),
        (status = 409), (status = 413), (status = 422), (status = 503)))]
async fn import_tenant(
    State(app): State<App>,
    Operator(entered): Operator,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Response> {
    let refused = |refusal: Refusal| Problem(refusal).into_response();
    let key = headers.get(EXPORT_KEY).and_then(|key| key.to_str().ok());
    let key = parse_key(key.unwrap_or_default()).map_err(refused)?;
    if app.system.journal().is_low_on_space() {
        return Err(refused(Refusal::low_space()));
    }
    let incoming = app.portability.receive(&app.system).map_err(refused)?;
    receive(&app, body, incoming.path()).await?;
    let origin = app.origin(&entered.caller, entered.request);
    let imported = app.portability.import(&app.system, incoming, key, origin).await;
    let imported = imported.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(ImportedTenant::from(imported))).into_response())
}

/// An export's key as it is shown.
pub(crate) fn parse_key(text: &str) -> Result<ExportKey, Refusal> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).ok();
    let key = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let message = "must be the 64 hexadecimal digits that came with the export";
    key.map(ExportKey::from_bytes)
        .ok_or_else(|| Refusal::invalid_at("header", "X-Export-Key", message))
}

/// Writes a body to a file as it arrives.
async fn receive(app: &App, mut body: Body, path: &FilePath) -> Result<(), Response> {
    let failed = |error: io::Error| {
        tracing::error!(%error, "an import could not be written down");
        let message = "the file could not be written down; the server's log says why";
        Problem(Refusal::new(Class::Crashed, "internal_error", message)).into_response()
    };
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut received = 0_u64;
    loop {
        let frame = tokio::time::timeout(PIECE_LIMIT, body.frame()).await;
        let frame = match frame {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                let message = "the body ended before its announced length";
                let refusal = Refusal::new(Class::BadRequest, "body_incomplete", message);
                return Err(Problem(refusal).into_response());
            }
            Err(_) => {
                let message = format!("nothing of the body arrived within {PIECE_LIMIT:?}");
                let refusal = Refusal::new(Class::BadRequest, "body_too_slow", message);
                return Err(Problem(refusal).with_status(StatusCode::REQUEST_TIMEOUT));
            }
        };
        let Ok(piece) = frame.into_data() else { continue };
        received += piece.len() as u64;
        if app.system.journal().is_low_on_space() {
            return Err(Problem(Refusal::low_space()).into_response());
        }
        if received > IMPORT_BYTES_MAX {
            let message = format!("the body has more than {IMPORT_BYTES_MAX} bytes");
            let refusal = Refusal::new(Class::BadRequest, "body_too_large", message);
            return Err(Problem(refusal).with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.sync_all().await.map_err(failed)
}

/// What to copy, and how to call it.
#[derive(Deserialize, ToSchema)]
struct SandboxRequest {
    /// What it is called: 1 to 255 characters; left out, as the tenant with `(sandbox)` behind
    #[serde(default)]
    name: Option<String>,
    /// RFC 3339; the tenant as it was then, instead of as it is
    #[serde(default)]
    at: Option<String>,
}

/// A sandbox.
#[derive(Serialize, ToSchema)]
struct SandboxResponse {
    /// The sandbox: log in with this `tenant_id` to act there
    tenant_id: String,
    /// Whose copy it is
    sandbox_of: String,
    name: String,
    sandbox: bool,
    /// Its own time
    now: String,
}

/// Copy a tenant into a sandbox whose clock can be moved
///
/// Takes the scope `tenants:write` of a credential for this tenant. The sandbox is a tenant of its
/// own with the same members, roles, documents and credits; nothing that is done in it touches the
/// tenant. It costs and earns nothing outside, and sends nobody mail. DELETE switches it off.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/sandbox", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)), request_body = SandboxRequest,
    responses((status = 201, body = SandboxResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422), (status = 503)))]
async fn open_sandbox(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    key: Key,
    body: OptionalBody<SandboxRequest>,
) -> Result<Response, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    let caller = &entered.caller;
    let name = match body.value.name {
        Some(name) => name,
        None => {
            let name = app.identity.look_tenant(tenant, |it| it.details.clone()).await?.flatten();
            let name = name.map(|details| details.name).unwrap_or_default();
            let kept: String = name.chars().take(NAME_CHARS_MAX - " (sandbox)".len()).collect();
            format!("{kept} (sandbox)")
        }
    };
    let length = name.trim().chars().take(NAME_CHARS_MAX + 1).count();
    if !(1..=NAME_CHARS_MAX).contains(&length) {
        return Err(Refusal::invalid("name", "must have 1 to 255 characters").into());
    }
    let time = |text: String| {
        let invalid = || Refusal::invalid("at", "must be an RFC 3339 time");
        parse_rfc3339(&text).ok_or_else(invalid)
    };
    let at = body.value.at.map(time).transpose()?;
    let address = Sandboxes::address(tenant);
    let operation = format!("sandbox {tenant}");
    let once = once::begin(&app, key, caller, address.place(), &operation, &body.bytes).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let origin = app.origin(caller, entered.request);
    let opened =
        app.portability.open_sandbox(&app.system, tenant, name.clone(), at, origin.clone());
    let sandbox = opened.await?;
    let response = SandboxResponse {
        tenant_id: sandbox.to_string(),
        sandbox_of: tenant.to_string(),
        name,
        sandbox: true,
        now: rfc3339(app.system.now_in(home_of(sandbox))),
    };
    once.conclude(&app, &address, Conclude, origin, (StatusCode::CREATED, |()| response)).await
}

/// By how much to move a clock.
#[derive(Deserialize, ToSchema)]
struct ClockRequest {
    /// 1 to 316,224,000, which is ten years
    #[schema(minimum = 1, maximum = 316_224_000)]
    advance_seconds: i64,
}

/// A sandbox's clock.
#[derive(Serialize, ToSchema)]
struct ClockResponse {
    tenant_id: TenantId,
    /// How far it is ahead of the real time, in seconds
    ahead_seconds: i64,
    /// Its time
    now: String,
}

/// Move a sandbox's clock ahead; what is due by then fires at once
///
/// Takes the scope `tenants:write` of a credential for the sandbox. Holds, grants, sessions and
/// whatever else of the sandbox expires does so by its clock. 404 for a tenant that is no sandbox.
#[utoipa::path(post, path = "/v1/tenants/{tenant_id}/clock", tag = tag::GATEWAY,
    params(("tenant_id" = String, Path)), request_body = ClockRequest,
    responses((status = 200, body = ClockResponse), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn move_clock(
    State(app): State<App>,
    Someone(entered): Someone,
    Path(tenant_id): Path<String>,
    key: Key,
    body: JsonBody<ClockRequest>,
) -> Result<Response, Problem> {
    let Authority { tenant, .. } = authority(&app, &entered, &tenant_id, Some(WRITE)).await?;
    if app.system.own_time(home_of(tenant)).is_none() {
        return Err(Refusal::not_found("sandbox").into());
    }
    let really_at = app.system.clock().now();
    let command = MoveClock { advance_seconds: body.value.advance_seconds, really_at };
    let operation = format!("clock {tenant}");
    let view = move |ahead_ms: i64| ClockResponse {
        tenant_id: tenant,
        ahead_seconds: ahead_ms / 1_000,
        now: rfc3339(really_at.plus_ms(ahead_ms)),
    };
    let response: Result<Response, Problem> = ask_once!(
        app,
        key,
        entered,
        &operation,
        body.bytes,
        Sandbox::address(tenant),
        command,
        StatusCode::OK,
        view
    );
    let response = response?;
    Portability::follow_clock(&app.system, tenant).await?;
    Ok(response)
}
