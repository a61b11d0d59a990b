//! `/v1/internal/storage`: the files of an app in a tenant.
//!
//! Both ways are streams: an upload is stored piece by piece as it arrives and is a file once all
//! of it has come, a download is read piece by piece as it is taken. What is sent back is never a
//! page: it is an attachment, its type is not guessed, and nothing runs in it.
//!
//! Multipart forms are those of RFC 7578; names in `Content-Disposition` are written as RFC 6266
//! and RFC 8187 say.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use data_encoding::HEXLOWER;
use keeping::files::drawer::{self, LISTED_MAX, Uploading};
use keeping::files::{
    Begun, CONTENT_TYPE_BYTES_MAX, FILE_BYTES_MAX, FILE_TOO_LARGE, FilePath, Files, RemoveFile,
    StoredFile, too_large,
};
use multer::{Constraints, Multipart, SizeLimit};
use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::{AppId, TenantId, rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, Standing, standing};
use crate::app::App;
use crate::authenticate::{Entered, Service};
use crate::connection::BodyStalled;
use crate::extract::Query;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::paging;
use crate::problem::Problem;

/// How long an upload may take to arrive.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(120);
/// Bytes of a field that is not the file.
const FIELD_BYTES_MAX: u64 = 4 * 1024;
/// Bytes of a form beside the file.
const FORM_BYTES_MAX: u64 = 64 * 1024;
/// Parts of a form.
const PARTS_MAX: usize = 16;
/// The code of an upload that did not arrive in time.
const TOO_SLOW: &str = "body_too_slow";
/// The code of a body that is no form.
const NO_FORM: &str = "unsupported_media_type";
const UNTYPED: &str = "application/octet-stream";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(upload))
        .routes(routes!(download))
        .routes(routes!(remove))
        .routes(routes!(list))
}

/// A file and where it goes. The file comes last.
#[derive(ToSchema)]
#[expect(dead_code, reason = "what the document says; the form is read as it arrives")]
struct UploadForm {
    /// Where it goes; the file's own name when left out
    path: Option<String>,
    /// The app in `X-Extension-ID` when left out
    extension_id: Option<String>,
    /// The tenant in `X-Tenant-ID` when left out or `default`
    tenant_id: Option<String>,
    /// At most 25 MiB
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// A file.
#[derive(Serialize, ToSchema)]
struct FileView {
    path: String,
    /// Where it can be downloaded from, for a service
    url: String,
    /// Bytes
    size: u64,
    /// The SHA-256 of the content, in quotes
    etag: String,
    content_type: String,
    /// RFC 3339
    created_at: String,
}

impl FileView {
    fn of(tenant: TenantId, app: &AppId, path: &str, file: StoredFile) -> Self {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("path", path).append_pair("extension_id", app.as_str());
        query.append_pair("tenant_id", &tenant.to_string());
        Self {
            path: path.to_owned(),
            url: format!("/v1/internal/storage/download?{}", query.finish()),
            size: file.size,
            etag: etag(&file),
            content_type: file.content_type,
            created_at: rfc3339(file.at),
        }
    }
}

fn etag(file: &StoredFile) -> String {
    format!("\"{}\"", HEXLOWER.encode(&file.digest))
}

/// Files of an app.
#[derive(Serialize, ToSchema)]
struct FilesView {
    /// Their paths
    files: Vec<String>,
    items: Vec<FileView>,
    /// Null when there are no more
    next_cursor: Option<String>,
}

/// A file that is gone.
#[derive(Serialize, ToSchema)]
struct RemovedFileView {
    deleted: bool,
    path: String,
    size: u64,
}

/// Which file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FileQuery {
    path: String,
    /// The app in `X-Extension-ID` when left out
    #[serde(default)]
    extension_id: String,
    /// The tenant in `X-Tenant-ID` when left out or `default`
    #[serde(default)]
    tenant_id: String,
}

/// Which files.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// What their paths begin with
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    extension_id: String,
    #[serde(default)]
    tenant_id: String,
    /// 1 to 1,000, which is the default
    limit: Option<usize>,
    /// Where the page before ended
    cursor: Option<String>,
}

async fn of_app(
    app: &App,
    entered: Entered,
    place: &'static str,
    (extension_id, tenant_id): (&str, &str),
) -> Result<Standing, Refusal> {
    let of = standing(app, entered, Named { place, extension_id, tenant_id, user_id: "" }).await?;
    of.app()?;
    Ok(of)
}

/// What is answered to an upload that is refused.
fn refused(refusal: Refusal) -> Response<Body> {
    match refusal.code.as_str() {
        FILE_TOO_LARGE => Problem(refusal).with_status(StatusCode::PAYLOAD_TOO_LARGE),
        TOO_SLOW => Problem(refusal).with_status(StatusCode::REQUEST_TIMEOUT),
        NO_FORM => Problem(refusal).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        _ => Problem(refusal).into_response(),
    }
}

fn unreadable(error: multer::Error) -> Refusal {
    let malformed =
        |message: &str| Refusal::new(Class::BadRequest, "malformed_form", message.to_owned());
    match error {
        multer::Error::StreamSizeExceeded { .. } => too_large(),
        multer::Error::FieldSizeExceeded { field_name: Some(name), .. } if name != "file" => {
            Refusal::invalid("form", format!("{name} has more than {FIELD_BYTES_MAX} bytes"))
        }
        multer::Error::FieldSizeExceeded { .. } => too_large(),
        multer::Error::StreamReadFailed(inner) if BodyStalled::caused(&*inner) => {
            let message = "the server stops and the body did not arrive; nothing was changed";
            Refusal::new(Class::Busy, "busy", message).retry_after(1_000)
        }
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteStream => {
            let message = "the body ended before the form did";
            Refusal::new(Class::BadRequest, "body_incomplete", message)
        }
        _ => malformed("this is no multipart form"),
    }
}

/// The fields that come before the file.
#[derive(Default)]
struct Fields {
    path: String,
    extension_id: String,
    tenant_id: String,
}

impl Fields {
    fn named(&mut self, name: &str) -> Option<&mut String> {
        match name {
            "path" => Some(&mut self.path),
            "extension_id" => Some(&mut self.extension_id),
            "tenant_id" => Some(&mut self.tenant_id),
            _ => None,
        }
    }
}

/// An upload that has arrived, and where it goes.
struct Arrived {
    of: Standing,
    path: FilePath,
    uploading: Uploading,
}

fn form(request: Request) -> Result<Multipart<'static>, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Ok(boundary) = multer::parse_boundary(kind) else {
        let message = "send the file as multipart/form-data";
        return Err(Refusal::new(Class::BadRequest, NO_FORM, message));
    };
    let sizes = SizeLimit::new()
        .whole_stream(FILE_BYTES_MAX + FORM_BYTES_MAX)
        .per_field(FIELD_BYTES_MAX)
        .for_field("file", FILE_BYTES_MAX);
    let constraints = Constraints::new().size_limit(sizes);
    let body = request.into_body().into_data_stream();
    Ok(Multipart::with_constraints(body, boundary, constraints))
}

/// Takes a form in, up to its end. What it began is given up when it comes to nothing.
async fn take_in(
    app: &App,
    entered: Entered,
    mut form: Multipart<'static>,
) -> Result<Arrived, Refusal> {
    let (mut fields, mut entered, mut arrived) = (Fields::default(), Some(entered), None);
    let outcome = async {
        for _ in 0..PARTS_MAX {
            let Some(mut part) = form.next_field().await.map_err(unreadable)? else {
                return Ok(());
            };
            let name = part.name().unwrap_or_default().to_owned();
            if let Some(field) = fields.named(&name) {
                if arrived.is_some() {
                    return Err(Refusal::invalid(&name, "must come before the file"));
                }
                *field = part.text().await.map_err(unreadable)?;
            } else if name == "file" {
                let twice = || Refusal::invalid("file", "one at a time");
                let begun = begin(app, entered.take().ok_or_else(twice)?, &mut fields, &part);
                let arrived = arrived.insert(begun.await?);
                while let Some(bytes) = part.chunk().await.map_err(unreadable)? {
                    arrived.uploading.add(&bytes).await?;
                }
            }
        }
        Err(Refusal::invalid("form", format!("has more than {PARTS_MAX} parts")))
    };
    let outcome = tokio::time::timeout(UPLOAD_TIME_MAX, outcome).await;
    let too_slow = || {
        let message = format!("the file did not arrive within {UPLOAD_TIME_MAX:?}");
        Err(Refusal::new(Class::BadRequest, TOO_SLOW, message))
    };
    match (outcome.unwrap_or_else(|_| too_slow()), arrived) {
        (Ok(()), Some(arrived)) => Ok(arrived),
        (Ok(()), None) => Err(Refusal::invalid("file", "is required")),
        (Err(refusal), arrived) => {
            if let Some(Arrived { uploading, .. }) = arrived {
                uploading.give_up().await;
            }
            Err(refusal)
        }
    }
}

async fn begin(
    app: &App,
    entered: Entered,
    fields: &mut Fields,
    part: &multer::Field<'static>,
) -> Result<Arrived, Refusal> {
    let of = of_app(app, entered, "body", (&fields.extension_id, &fields.tenant_id)).await?;
    let path = match fields.path.as_str() {
        "" => part.file_name().unwrap_or_default(),
        path => path,
    };
    let path = FilePath::new(path)?;
    let content_type = part.content_type().map(ToString::to_string);
    let content_type = content_type.unwrap_or_else(|| UNTYPED.to_owned());
    if content_type.len() > CONTENT_TYPE_BYTES_MAX || HeaderValue::from_str(&content_type).is_err()
    {
        return Err(Refusal::invalid("file", "its type is none"));
    }
    let begun = Begun {
        upload: app.system.new_id(),
        tenant: of.tenant,
        app: of.app()?.clone(),
        path: path.as_str().to_owned(),
        content_type,
        by: of.user,
    };
    let uploading = Uploading::begin(&app.system, begun, of.origin(app)).await?;
    Ok(Arrived { of, path, uploading })
}

/// Makes what has arrived a file, and says whether it did. With a key the same content to the same
/// place is one upload.
async fn store(
    app: &App,
    arrived: &mut Arrived,
    key: &Key,
) -> Result<(Response<Body>, bool), Problem> {
    let Arrived { of, path, uploading } = arrived;
    let commit = uploading.finish().await?;
    let (tenant, id) = (of.tenant, of.app()?.clone());
    let operation = format!("upload {tenant} {id} {}", path.as_str());
    let (key, address) = (of.key(key, &operation, &commit.digest), Files::address(tenant));
    let once = once::begin_as(app, key, address.place()).await?;
    let is_stored = !matches!(once, Once::Answered(_));
    let path = path.as_str().to_owned();
    let view = move |file: StoredFile| FileView::of(tenant, &id, &path, file);
    let concluded =
        once.conclude(app, &address, commit, of.origin(app), (StatusCode::OK, view)).await?;
    Ok((concluded, is_stored))
}

/// Store a file of an app in a tenant; what was at its path is replaced at once
///
/// The fields come before the file, or stand in the headers. Paths have one spelling: slashes at
/// the ends and twice in a row are left out, `..` is refused. A file has at most 25 MiB (413), a
/// tenant's files 1 GiB together (507 `storage_quota_exceeded`). The same `Idempotency-Key` and
/// content answer the recorded outcome.
#[utoipa::path(post, path = "/v1/internal/storage/upload", tag = tag::GATEWAY,
    operation_id = "upload_file", security(("service_token" = [])),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 200, body = FileView), (status = 400), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 413), (status = 415), (status = 422),
        (status = 429), (status = 507)))]
async fn upload(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    request: Request,
) -> Result<Response<Body>, Response<Body>> {
    let form = form(request).map_err(refused)?;
    let mut arrived = take_in(&app, entered, form).await.map_err(refused)?;
    let outcome = store(&app, &mut arrived, &key).await;
    if !matches!(outcome, Ok((_, true))) {
        arrived.uploading.give_up().await;
    }
    outcome.map(|(response, _)| response).map_err(|problem| refused(problem.0))
}

/// The `Content-Disposition` of a download: an attachment, called as its path ends.
fn attachment(path: &FilePath) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._- ".contains(letter);
    let plain: String =
        path.name().chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    let is_attr = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let encoded = |byte: u8| match is_attr(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let encoded: String = path.name().bytes().map(encoded).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

/// A file's pieces from the second on, each read when the one before was taken.
fn pieces(app: App, tenant: TenantId, file: StoredFile, first: Vec<u8>) -> Body {
    let next = move |number: u32| {
        let (app, file) = (app.clone(), file.clone());
        async move {
            if number >= file.pieces {
                return None;
            }
            let read = move || drawer::piece(&app.system, tenant, &file, number);
            let read = tokio::task::spawn_blocking(read).await.ok().flatten();
            // Another took its place meanwhile: the answer ends before its length.
            let gone = || std::io::Error::other("the file was replaced or removed");
            Some((read.map(Bytes::from).ok_or_else(gone), number + 1))
        }
    };
    let first = futures::stream::iter([Ok(Bytes::from(first))]);
    Body::from_stream(futures::StreamExt::chain(first, futures::stream::unfold(1, next)))
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let tags = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut tags = tags.into_iter().flat_map(|text| text.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Download a file: an attachment, with the SHA-256 of its content as its `ETag`
///
/// `If-None-Match` answers 304 for what is known. When the file is replaced while it is read, the
/// answer ends before its length.
#[utoipa::path(get, path = "/v1/internal/storage/download", tag = tag::GATEWAY,
    operation_id = "download_file", security(("service_token" = [])),
    params(FileQuery, ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, content_type = "application/octet-stream",
            description = "The content, of the type that it was stored with"),
        (status = 304), (status = 401), (status = 403), (status = 404), (status = 422)))]
async fn download(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let path = FilePath::new(&query.path)?;
    let of = of_app(&app, entered, "query", (&query.extension_id, &query.tenant_id)).await?;
    let (system, tenant, id) = (app.system.clone(), of.tenant, of.app()?.clone());
    let at = path.clone();
    let read = move || {
        let found = drawer::find(&system, (tenant, &id), &at)?;
        let file = found.ok_or_else(|| Refusal::not_found("file"))?;
        let first = match file.pieces {
            0 => Some(Vec::new()),
            _ => drawer::piece(&system, tenant, &file, 0),
        };
        Ok::<_, Refusal>((file, first.ok_or_else(|| Refusal::not_found("file"))?))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (file, first) = read.map_err(|_| Refusal::crashed())??;
    let etag = etag(&file);
    let text = |text: &str| HeaderValue::from_str(text).map_err(|_| Refusal::crashed());
    let (kind, length) = (text(&file.content_type)?, file.size);
    let is_known = is_known(&headers, &etag);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(pieces(app.clone(), tenant, file, first)),
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, text(&etag)?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if !is_known {
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CONTENT_DISPOSITION, text(&attachment(&path))?);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let nothing = HeaderValue::from_static("sandbox; default-src 'none'");
        headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    }
    Ok(response)
}

/// Remove a file
#[utoipa::path(delete, path = "/v1/internal/storage", tag = tag::GATEWAY,
    operation_id = "remove_file", security(("service_token" = [])), params(FileQuery),
    responses((status = 200, body = RemovedFileView), (status = 401), (status = 403),
        (status = 404), (status = 422)))]
async fn remove(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<FileQuery>,
) -> Result<Json<RemovedFileView>, Problem> {
    let path = FilePath::new(&query.path)?;
    let of = of_app(&app, entered, "query", (&query.extension_id, &query.tenant_id)).await?;
    let (address, text) = (Files::address(of.tenant), path.as_str().to_owned());
    let remove = RemoveFile { tenant: of.tenant, app: of.app()?.clone(), path };
    let file = app.system.directory().ask(&address, remove, of.origin(&app)).await?;
    Ok(Json(RemovedFileView { deleted: true, path: text, size: file.size }))
}

/// Files of an app in a tenant, in the order of their paths
#[utoipa::path(get, path = "/v1/internal/storage/list", tag = tag::GATEWAY,
    operation_id = "list_files", security(("service_token" = [])), params(ListQuery),
    responses((status = 200, body = FilesView), (status = 401), (status = 403), (status = 404),
        (status = 422)))]
async fn list(
    State(app): State<App>,
    Service(entered): Service,
    Query(query): Query<ListQuery>,
) -> Result<Json<FilesView>, Problem> {
    paging::within("limit", query.limit, LISTED_MAX)?;
    let prefix = FilePath::prefix(&query.prefix)?;
    let of = of_app(&app, entered, "query", (&query.extension_id, &query.tenant_id)).await?;
    let (system, tenant, id) = (app.system.clone(), of.tenant, of.app()?.clone());
    let (limit, after) = (query.limit.unwrap_or(LISTED_MAX), query.cursor);
    let read = move || {
        let within = (prefix.as_str(), after.as_deref().filter(|text| !text.is_empty()));
        let (files, is_more) = drawer::list(&system, (tenant, &id), within, limit)?;
        let next_cursor = files.last().filter(|_| is_more).map(|(path, _)| path.clone());
        let view = |(path, file): (String, StoredFile)| FileView::of(tenant, &id, &path, file);
        let items: Vec<FileView> = files.into_iter().map(view).collect();
        let files = items.iter().map(|item| item.path.clone()).collect();
        Ok::<_, Refusal>(FilesView { files, items, next_cursor })
    };
    let read = tokio::task::spawn_blocking(read).await;
    Ok(Json(read.map_err(|_| Refusal::crashed())??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_called_as_its_path_ends() {
        let name = |text: &str| attachment(&FilePath::new(text).unwrap());
        assert_eq!(name("a/b.txt"), "attachment; filename=\"b.txt\"; filename*=UTF-8''b.txt");
        let quoted = name("a/\"é;.html");
        assert_eq!(quoted, "attachment; filename=\"___.html\"; filename*=UTF-8''%22%C3%A9%3B.html");
    }

    #[test]
    fn what_is_known_is_told_by_its_tag() {
        let known = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(text));
            is_known(&headers, "\"ab\"")
        };
        assert!(known("\"ab\"") && known("\"x\", W/\"ab\"") && known("*"));
        assert!(!known("\"abc\"") && !known("ab"));
    }
}
