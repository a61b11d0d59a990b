//! Who may be acted for: a service names a tenant and a user, and both must be there, be on, and
//! belong together.

use supervision::{Class, Refusal};
use types::{TenantId, UserId};

use crate::service::Identity;
use crate::tenant::Tenant;
use crate::unless_erased;

impl Identity {
    /// Lets a service act in a tenant, for one of its members or for nobody: 404 for a tenant that
    /// is not there and for a user who is no member of it, 403 `tenant_inactive` and
    /// `account_disabled` while they are off, 403 `frozen` while they are frozen.
    pub async fn admit_service(
        &self,
        tenant: TenantId,
        user: Option<UserId>,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let look = |tenant: &Tenant| tenant.details.as_ref().map(|details| details.active);
        let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(tenant));
        let is_on = unless_erased(tenants.look(&address, system.system_origin(), look).await)?;
        if !is_on.ok_or_else(|| Refusal::not_found("tenant"))? {
            return Err(off("tenant_inactive", "this tenant is switched off"));
        }
        self.frozen().check(tenant, None)?;
        let Some(user) = user else { return Ok(()) };
        let account = self.account(user, Some(tenant)).await?;
        let account = account.filter(|account| account.membership.is_some());
        let is_on = account.ok_or_else(|| Refusal::not_found("user"))?.active;
        let refusal = || off("account_disabled", "this account is switched off");
        is_on.then_some(()).ok_or_else(refusal)?;
        self.frozen().check(tenant, Some(user))
    }
}

fn off(code: &str, message: &str) -> Refusal {
    Refusal::new(Class::Forbidden, code, message)
}
