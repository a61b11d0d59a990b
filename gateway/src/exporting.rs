//! Exports over HTTP: the next piece is made when the connection has room for it, on a thread that
//! may block. A client that goes away ends its export; so do a freeze of its tenant or user and the
//! end of the server, and then the body breaks off, so that no part passes for the whole.

use std::io;

use activity::{Export, ExportFormat};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use supervision::Refusal;
use types::{TenantId, UserId};

use crate::app::App;
use crate::authenticate::Entered;
use crate::problem::Problem;

/// The media type of a table, with a header (RFC 4180, section 3).
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// An export that somebody takes.
struct Taken {
    app: App,
    whose: (TenantId, Option<UserId>),
    export: Export,
}

/// What an export is written as, by the name in a query; JSON without one. 422 for another.
pub fn format(name: Option<&str>) -> Result<ExportFormat, Refusal> {
    match name {
        None | Some("json") => Ok(ExportFormat::Json),
        Some("csv") => Ok(ExportFormat::Csv),
        Some("ndjson") => Ok(ExportFormat::Ndjson),
        Some(_) => Err(Refusal::invalid_at("query", "format", "csv, json or ndjson")),
    }
}

/// Answers with an export, as a file called `name`.
pub fn answer(
    app: &App,
    entered: &Entered,
    export: Export,
    format: ExportFormat,
    name: &str,
) -> Result<Response, Problem> {
    let (kind, ending) = match format {
        ExportFormat::Json => ("application/json", "json"),
        ExportFormat::Csv => (CSV, "csv"),
        ExportFormat::Ndjson => ("application/x-ndjson", "ndjson"),
    };
    let file = format!("attachment; filename=\"{name}.{ending}\"");
    let file = HeaderValue::from_str(&file).map_err(|_| Refusal::crashed())?;
    let whose = (entered.caller.tenant, entered.caller.user);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_DISPOSITION, file),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, body(Taken { app: app.clone(), whose, export })).into_response())
}

fn body(taken: Taken) -> Body {
    Body::from_stream(futures::stream::unfold(Some(taken), |taken| async move {
        let mut taken = taken?;
        loop {
            let (back, piece) = match next(taken).await {
                Ok(read) => read,
                Err(error) => return Some((Err(error), None)),
            };
            let piece = piece?;
            // A step that has found nothing.
            if !piece.is_empty() {
                return Some((Ok(Bytes::from(piece)), Some(back)));
            }
            taken = back;
        }
    }))
}

/// The next piece; an error where the export is to end before its end.
async fn next(taken: Taken) -> Result<(Taken, Option<Vec<u8>>), io::Error> {
    let (tenant, user) = taken.whose;
    let is_frozen = taken.app.identity.frozen().check(tenant, user).is_err();
    if is_frozen || *taken.app.stopping.borrow() {
        return Err(io::Error::other("the export was ended"));
    }
    let step = move || {
        let mut taken = taken;
        let piece = taken.export.next_piece();
        (taken, piece)
    };
    let (taken, piece) = tokio::task::spawn_blocking(step).await.map_err(io::Error::other)?;
    let piece = piece.map_err(|refusal| io::Error::other(refusal.message))?;
    Ok((taken, piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_one_of_three() {
        assert_eq!(format(None).unwrap(), ExportFormat::Json);
        assert_eq!(format(Some("csv")).unwrap(), ExportFormat::Csv);
        assert_eq!(format(Some("ndjson")).unwrap(), ExportFormat::Ndjson);
        assert!(format(Some("xml")).unwrap_err().message.starts_with("format: "));
    }
}
