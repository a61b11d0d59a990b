//! The files of the pages: scripts and styles that are part of the binary, with their types and an
//! entity tag each (RFC 9110, section 8.8.3), so that a browser that has one asks but does not
//! load it again, and never runs the parts of two versions together.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use data_encoding::HEXLOWER;
use persistence::record::sha256;
use supervision::Refusal;

use crate::problem::Problem;

/// What a page may load: its own styles and scripts, and this server's API.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";
/// The bytes of a digest that make a tag.
const TAG_BYTES: usize = 16;

/// A file by its name in the address.
pub struct Asset {
    /// The name, with `.js` or `.css` behind it.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// The palette that all pages share.
pub const SHARED: &[Asset] = &[Asset { name: "palette.css", text: include_str!("palette.css") }];

impl Asset {
    fn kind(&self) -> HeaderValue {
        HeaderValue::from_static(match self.name.ends_with(".css") {
            true => "text/css; charset=utf-8",
            false => "text/javascript; charset=utf-8",
        })
    }
}

/// The file of this name, or that the browser has it already.
pub fn serve(assets: &[Asset], name: &str, asked: &HeaderMap) -> Result<Response, Problem> {
    let asset = assets.iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Refusal::not_found("file"))?;
    let digest = sha256(&[asset.text.as_bytes()]);
    let tag = format!("\"{}\"", HEXLOWER.encode(&digest[..TAG_BYTES]));
    let has_it = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| {
        let mut tags = tags.to_str().unwrap_or_default().split(',');
        tags.any(|known| known.trim().trim_start_matches("W/") == tag)
    });
    let mut response = match has_it {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => asset.text.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, asset.kind());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// A page, under [`CONTENT_SECURITY_POLICY`].
pub fn page(html: impl Into<String>) -> Response {
    let mut response = Html(html.into()).into_response();
    let headers = response.headers_mut();
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_browser_has_is_not_sent_again() {
        let first = serve(SHARED, "palette.css", &HeaderMap::new()).unwrap();
        assert_eq!(first.headers()["content-type"], "text/css; charset=utf-8");
        let mut asked = HeaderMap::new();
        asked.insert(header::IF_NONE_MATCH, first.headers()["etag"].clone());
        let again = serve(SHARED, "palette.css", &asked).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        asked.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"older\""));
        assert_eq!(serve(SHARED, "palette.css", &asked).unwrap().status(), StatusCode::OK);
        assert!(serve(SHARED, "../Cargo.toml", &asked).is_err());
    }
}
