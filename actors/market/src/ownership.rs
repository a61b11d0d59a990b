//! Whose an app is: its developer's, for as long as they belong to the tenant that it was made in.
//! Whoever left that tenant changes nothing of its apps, makes no new ones in it, and is paid for
//! by it no longer; whoever comes back has all of it again.

use std::sync::Arc;

use control::app::Details;
use identity::tenant::is_member;
use supervision::{Class, Refusal, System};

use crate::developer::Profile;
use crate::service::Principal;

/// Whether somebody develops an app.
pub(crate) async fn is_theirs(
    system: &Arc<System>,
    principal: &Principal,
    app: &Details,
) -> Result<bool, Refusal> {
    let Principal { user, origin, .. } = principal;
    Ok(app.developer == *user && is_member(system, app.tenant, *user, origin.clone()).await?)
}

/// 403 `developer_left` for a developer who has left the tenant that their apps are made in.
pub(crate) async fn check_still_there(
    system: &Arc<System>,
    principal: &Principal,
    profile: &Profile,
) -> Result<(), Refusal> {
    if is_member(system, profile.tenant, profile.user, principal.origin.clone()).await? {
        return Ok(());
    }
    let message = "you have left the tenant in which you became a developer";
    Err(Refusal::new(Class::Forbidden, "developer_left", message))
}
