//! What pages share on which somebody logs in to do one thing: the fields of the form, and the
//! session that it opens. Nothing of it stays in the browser.

use std::sync::Arc;

use identity::login::TokenLife;
use identity::service::VerifiedToken;
use maud::{Markup, html};
use supervision::{Origin, Refusal};
use types::TenantId;

use super::auth::{Credentials, log_in};
use crate::app::App;
use crate::authenticate::Anyone;

/// Where the credentials are typed in.
pub(super) fn credential_fields() -> Markup {
    html! {
        label for="email" { "E-mail address" }
        input #email name="email" type="email" autocomplete="username" required;
        label for="password" { "Password" }
        input #password name="password" type="password" autocomplete="current-password" required;
        label for="otp" { "Code of your authenticator app, if you have one" }
        input #otp name="otp" type="text" autocomplete="one-time-code" spellcheck="false";
    }
}

/// What was wrong with what was typed in before.
pub(super) fn problem_line(problem: Option<&str>) -> Markup {
    html! { @if let Some(problem) = problem { p.error role="alert" { (problem) } } }
}

/// What was typed in.
pub(super) struct Typed {
    pub email: String,
    pub password: String,
    /// Empty for none.
    pub otp: String,
    /// Where to; `None` for one's own.
    pub tenant: Option<TenantId>,
}

/// A session that a form has opened. It stays until [`Visit::leave`].
pub(super) struct Visit {
    /// Who it is.
    pub verified: Arc<VerifiedToken>,
    /// On whose behalf things are done.
    pub origin: Origin,
    refresh_token: String,
}

impl Visit {
    /// Logs in.
    pub(super) async fn enter(app: &App, who: Anyone, typed: Typed) -> Result<Self, Refusal> {
        let Typed { email, password, otp, tenant } = typed;
        let (otp, request) = (Some(otp).filter(|otp| !otp.is_empty()), who.request);
        let life = TokenLife::Standard;
        let credentials = Credentials { email, password, otp, tenant, life };
        let tokens = log_in(app, who, credentials).await?;
        let now = app.system.clock().now();
        let verified = app.identity.authenticate(&tokens.access_token, now).await?;
        let origin = app.origin(&verified.caller, request);
        Ok(Self { verified, origin, refresh_token: tokens.refresh_token })
    }

    /// Ends the session.
    pub(super) async fn leave(self, app: &App) -> Result<(), Refusal> {
        app.identity.logout(&self.refresh_token, self.origin.request).await
    }
}
