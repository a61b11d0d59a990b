//! Who may be acted for: a service names a tenant and a user, and both must be there, be on, and
//! belong together.

use supervision::{Class, Refusal};
use types::{Caller, CallerKind, KeyIdentifier, TenantId, UserId};

use crate::api_key::ApiKeys;
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

    /// A caller who was let in before, with what is left of their rights: a user's, or a key's that
    /// still stands. Refused as [`Identity::admit_service`], and with 403 `key_revoked`.
    pub async fn as_of_now(&self, caller: Caller) -> Result<Caller, Refusal> {
        let user = caller.user.ok_or_else(|| Refusal::not_found("user"))?;
        let tenant = caller.tenant;
        self.admit_service(tenant, Some(user)).await?;
        let account = self.account(user, Some(tenant)).await?;
        let account = account.ok_or_else(|| Refusal::not_found("user"))?;
        if let (CallerKind::ApiKey, Some(key)) = (caller.kind, caller.credential) {
            let (system, id) = (self.system()?, KeyIdentifier(key));
            let look = move |keys: &ApiKeys| keys.get(id).cloned();
            let (keys, address) = (system.directory::<ApiKeys>(), ApiKeys::address(user, tenant));
            let key = unless_erased(keys.look(&address, system.system_origin(), look).await)?;
            let now = system.clock().now();
            let stands = key.is_some_and(|key| {
                !key.is_expired(now) && key.made_under.counts(account.keys_from)
            });
            let refusal = || off("key_revoked", "the key that asked for this is no more");
            stands.then_some(()).ok_or_else(refusal)?;
        }
        let (_, membership) = account.membership.ok_or_else(|| Refusal::not_found("user"))?;
        let scopes = caller.scopes.cut_to(&membership.scopes);
        Ok(Caller { scopes, role: membership.role, ..caller })
    }
}

fn off(code: &str, message: &str) -> Refusal {
    Refusal::new(Class::Forbidden, code, message)
}
