//! The way out for the payment provider: the same client, under the same rules.

use axum::http::Method;
use billing::payments::stripe::{Outgoing, Wire};
use extensions::outgoing::{Answered, Post};
use futures::future::{BoxFuture, FutureExt as _};

use super::Egress;

impl Wire for Egress {
    fn send(&self, request: Outgoing) -> BoxFuture<'static, Result<(u16, Vec<u8>), String>> {
        let Outgoing { method, url, headers, body, answer_bytes_max, ends } = request;
        let method = if method == "GET" { Method::GET } else { Method::POST };
        let sent = Egress::send(self, method, Post { url, headers, body, answer_bytes_max, ends });
        async move {
            let Answered { status, body, .. } = sent.await.map_err(|error| error.to_string())?;
            Ok((status, body))
        }
        .boxed()
    }
}
