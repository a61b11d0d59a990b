//! For whom a request is that names a tenant and a user in its body or query.
//!
//! A credential of a user's or an app's names its own, and may leave them out. What a service names
//! there counts as if it stood in its headers, which it must equal where they name something.

use supervision::Refusal;
use types::{Caller, CallerKind, TenantId, UserId};

use crate::app::App;
use crate::authenticate::Entered;

/// The caller with the tenant and user that a request names, each empty for none. 403 for others
/// than the credential's own, 422 for what is no id, and as at the door for whom a service names.
pub(super) async fn acting(
    app: &App,
    entered: &Entered,
    (tenant_id, user_id): (&str, &str),
) -> Result<Caller, Refusal> {
    let mut caller = entered.caller.clone();
    let is_service = caller.kind == CallerKind::Service;
    let is_free = is_service && caller.tenant == TenantId::SYSTEM;
    caller.tenant = match tenant_id {
        "" | "default" => caller.tenant,
        named if is_free => {
            named.parse().map_err(|_| Refusal::invalid("tenant_id", "is not an id"))?
        }
        named => entered.tenant_named(named)?,
    };
    caller.user = match user_id {
        "" if is_service => caller.user,
        named if is_service && caller.user.is_none() => {
            let user: Result<UserId, _> = named.parse();
            Some(user.map_err(|_| Refusal::invalid("user_id", "is not an id"))?)
        }
        named => Some(entered.user_named(named)?),
    };
    if (caller.tenant, caller.user) != (entered.caller.tenant, entered.caller.user) {
        app.identity.admit_service(caller.tenant, caller.user).await?;
    }
    Ok(caller)
}
