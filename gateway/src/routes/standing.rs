//! For whom, and as which app, a service asks on the internal routes.
//!
//! A runtime names its app, its tenant and its user in headers or in the request, as published
//! clients do; what it names twice must be the same, or it is 403. Whom it names must be there: the
//! tenant, the user as its member, the app as one that they may know of.

use supervision::{IdempotencyKey, Origin, Refusal};
use types::{AppId, TenantId, UserId};

use crate::app::App;
use crate::authenticate::Entered;
use crate::once::Key;

/// What a request names beside its headers; empty for what it does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Named<'a> {
    /// Where it stands: `body`, `query` or `path`.
    pub(super) place: &'static str,
    pub(super) extension_id: &'a str,
    /// `default` names nothing.
    pub(super) tenant_id: &'a str,
    pub(super) user_id: &'a str,
}

/// A service that was let in for a tenant.
pub(super) struct Standing {
    /// The service, with all that it named.
    pub(super) entered: Entered,
    /// The tenant, which is never the platform's own.
    pub(super) tenant: TenantId,
    /// The user that it asks for.
    pub(super) user: Option<UserId>,
    /// The app that it asks as.
    pub(super) app: Option<AppId>,
    place: &'static str,
}

impl Standing {
    /// The app; 422 when none was named.
    pub(super) fn app(&self) -> Result<&AppId, Refusal> {
        let message = "name the app here or in X-Extension-ID";
        self.app.as_ref().ok_or_else(|| Refusal::invalid_at(self.place, "extension_id", message))
    }

    /// The user; 422 when none was named.
    pub(super) fn user(&self) -> Result<UserId, Refusal> {
        let message = "name the user here or in X-Acting-User";
        self.user.ok_or_else(|| Refusal::invalid_at(self.place, "user_id", message))
    }

    /// Who asks, as records show it.
    pub(super) fn origin(&self, app: &App) -> Origin {
        app.origin(&self.entered.caller, self.entered.request)
    }

    /// The client's key for an operation of this service's.
    pub(super) fn key(&self, key: &Key, operation: &str, body: &[u8]) -> Option<IdempotencyKey> {
        key.of(&self.entered.caller, operation, body)
    }
}

/// The app that a service asks as: 403 when headers and request name two.
pub(super) fn app_named(entered: &Entered, named: &Named<'_>) -> Result<Option<AppId>, Refusal> {
    let own = entered.caller.app.clone();
    if named.extension_id.is_empty() {
        return Ok(own);
    }
    let app = AppId::new(named.extension_id);
    let unfit =
        |error: types::IdError| Refusal::invalid_at(named.place, "extension_id", error.to_string());
    let app = app.map_err(unfit)?;
    match own.is_some_and(|own| own != app) {
        true => Err(Refusal::forbidden("extension_id is not the app that the headers name")),
        false => Ok(Some(app)),
    }
}

fn user_named(entered: &Entered, named: &Named<'_>) -> Result<Option<UserId>, Refusal> {
    let own = entered.caller.user;
    if named.user_id.is_empty() {
        return Ok(own);
    }
    let user: Result<UserId, _> = named.user_id.parse();
    let user = user.map_err(|_| Refusal::not_found("user"))?;
    match own.is_some_and(|own| own != user) {
        true => Err(Refusal::forbidden("user_id is not the user in X-Acting-User")),
        false => Ok(Some(user)),
    }
}

fn tenant_named(
    entered: &Entered,
    named: &Named<'_>,
    user: Option<UserId>,
) -> Result<TenantId, Refusal> {
    if entered.caller.tenant != TenantId::SYSTEM {
        return entered.tenant_named(named.tenant_id);
    }
    let unfit = |message| Refusal::invalid_at(named.place, "tenant_id", message);
    match (named.tenant_id, user) {
        // A user's own tenant has the user's number.
        ("" | "default", Some(user)) => Ok(user.direct_tenant()),
        ("" | "default", None) => Err(unfit("name the tenant here or in X-Tenant-ID")),
        (text, _) => text.parse().map_err(|_| unfit("is not an id")),
    }
}

/// Finds out for whom a service asks. 403 for what was named twice otherwise, 404 for what is not
/// there, 422 for what is no id, or when no tenant is named at all.
pub(super) async fn standing(
    app: &App,
    mut entered: Entered,
    named: Named<'_>,
) -> Result<Standing, Refusal> {
    let (id, user) = (app_named(&entered, &named)?, user_named(&entered, &named)?);
    let tenant = tenant_named(&entered, &named, user)?;
    if (tenant, user) != (entered.caller.tenant, entered.caller.user) {
        app.identity.admit_service(tenant, user).await?;
    }
    let caller = &mut entered.caller;
    (caller.tenant, caller.user, caller.app) = (tenant, user, id.clone());
    let standing = Standing { entered, tenant, user, app: id, place: named.place };
    if let Some(id) = &standing.app {
        let origin = standing.origin(app);
        app.extensions.admit_runtime(&app.system, (id, tenant, user), &origin).await?;
    }
    Ok(standing)
}
