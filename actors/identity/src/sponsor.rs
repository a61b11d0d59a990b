//! Who stands for what acts on its own: the user of an agent, as that user stands in a tenant now.
//!
//! Invariant: what is answered here is good as long as none of [`Sponsor::carried`] has passed:
//! whatever changes what a user may do in a tenant raises one of them.

use supervision::Refusal;
use types::{Scopes, TenantId, UserId};

use crate::service::Identity;
use crate::tenant::Tenant;
use crate::token_cache::{CarriedEpoch, OwnerClass, OwnerKey};
use crate::unless_erased;
use crate::user::MadeUnder;

/// A user who is a member of a tenant, while both are on.
#[derive(Clone, Debug)]
pub struct Sponsor {
    /// The role in the tenant.
    pub role: String,
    /// What the membership covers.
    pub scopes: Scopes,
    /// What is made now is made under this.
    pub made_under: MadeUnder,
    /// What was made under less than this is over.
    pub counts_from: MadeUnder,
    /// The epochs of the tenant, of the user, and of the user in the tenant.
    pub carried: [CarriedEpoch; 3],
}

impl Identity {
    /// How a user stands in a tenant; `None` when nobody may act for them there: either is off or
    /// erased, or the user is no member.
    pub async fn sponsor(
        &self,
        user: UserId,
        tenant: TenantId,
    ) -> Result<Option<Sponsor>, Refusal> {
        let system = self.system()?;
        let stands = |it: &Tenant| it.is_active().then_some(it.epoch);
        let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(tenant));
        let epoch = unless_erased(tenants.look(&address, system.system_origin(), stands).await)?;
        let account = self.account(user, Some(tenant)).await?.filter(|account| account.active);
        let (Some(epoch), Some(account)) = (epoch, account) else { return Ok(None) };
        let made_under = account.made_under();
        let Some((_, membership)) = account.membership else { return Ok(None) };
        let of = |class, id, epoch| CarriedEpoch { owner: OwnerKey { class, id }, epoch };
        Ok(Some(Sponsor {
            role: membership.role,
            scopes: membership.scopes,
            made_under,
            counts_from: account.keys_from,
            carried: [
                of(OwnerClass::Tenant, tenant.0, epoch),
                of(OwnerClass::User, user.0, account.epoch),
                CarriedEpoch {
                    owner: OwnerKey::member(tenant.0, user.0),
                    epoch: account.membership_epoch,
                },
            ],
        }))
    }
}
