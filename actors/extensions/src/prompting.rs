//! What an app's own runtime asks of the server beside its documents: whether it may act for
//! somebody at all, and to have a prompt completed.

use std::sync::Arc;
use std::time::Instant;

use supervision::{Class, Origin, Refusal, System};
use types::{AppId, TenantId, UserId, home_of};

use crate::completion::{COMPLETION_TIME_MAX, Completion, Prompt};
use crate::ir::Reason;
use crate::runtime::Extensions;

/// When to come back for a completion, in milliseconds.
const RETRY_MS: u64 = 2_000;

impl Extensions {
    /// 404 unless the app is there for this tenant and user; 403 while it is frozen.
    pub async fn admit_runtime(
        &self,
        system: &Arc<System>,
        (app, tenant, user): (&AppId, TenantId, Option<UserId>),
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let found = self.apps().find(system, app, origin).await?;
        if !found.is_visible_to(system, tenant, user, origin).await? {
            return Err(Refusal::not_found("app"));
        }
        self.settings().frozen.check_app(app)
    }

    /// Completes a prompt for an app's runtime: for nothing, as in a step. Refused: 503
    /// `ai_not_configured` (in a sandbox, too, which acts on nothing outside), `ai_busy` and the
    /// codes of an endpoint that fails, 422 for a prompt that will not do.
    pub async fn complete_for(
        &self,
        system: &Arc<System>,
        (app, tenant): (&AppId, TenantId),
        prompt: Prompt,
    ) -> Result<Completion, Refusal> {
        let is_real = system.own_time(home_of(tenant)).is_none();
        let completions = self.outside().and_then(|outside| outside.completions.as_ref());
        let completions = completions.filter(|_| is_real).ok_or_else(|| {
            let message = "this server has no model to complete prompts";
            Refusal::new(Class::Busy, "ai_not_configured", message)
        })?;
        let ends = Instant::now() + COMPLETION_TIME_MAX;
        completions.complete(app, prompt, ends).await.map_err(refused)
    }
}

fn refused(reason: Reason) -> Refusal {
    let class = match &*reason.code {
        "argument_invalid" => Class::Invalid,
        _ => Class::Busy,
    };
    let refusal = Refusal::new(class, &reason.code, reason.message);
    if class == Class::Busy { refusal.retry_after(RETRY_MS) } else { refusal }
}
