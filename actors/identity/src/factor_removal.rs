//! Helping a user who has lost every second factor, recovery codes included.
//!
//! An operator removes them. A tenant's owner does for a member who has asked for it, with a login
//! whose password was right and whose second factor is missing. Either says why; the user is told
//! by mail, and every session ends. Where a tenant asks for a second factor, the next login begins
//! with enrolling one.
//!
//! Deliberate limits
//! - An owner helps only who belongs to no tenant but this and their own: second factors are the
//!   user's everywhere, and one tenant's owner shall not take another's protection away.
//! - What was asked for holds for [`ASKED_MS`], and no longer than the password.

use supervision::{Entity as _, Origin, Refusal};
use types::{TenantId, UserId};

use crate::login::origin_of;
use crate::mail::Letter;
use crate::second_factor::{AskRemoval, Asked, Clear, SecondFactors, Why, no_factor, not_asked};
use crate::service::Identity;

/// How long a tenant's owner may remove what a member has asked for, in milliseconds: a day.
pub const ASKED_MS: i64 = 24 * 3_600_000;
/// The longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 500;

/// Who removes a user's factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remover {
    /// An operator.
    Operator,
    /// The owner of a tenant that the user belongs to.
    Owner(TenantId),
}

/// A removal that somebody else asks for.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Its id: repeated with it, it is one.
    pub id: u128,
    /// Whose factors.
    pub user: UserId,
    /// Who removes them. That they are one, the caller has checked.
    pub by: Remover,
    /// Why.
    pub reason: String,
}

impl Identity {
    /// A user whose password was right asks the owner of the tenant they log in to for the end of
    /// their factors, and is told by mail. 401 `invalid_login_token`, 409 `no_second_factor`.
    pub async fn ask_factor_removal(
        &self,
        login_token: &str,
        address: &str,
        request: supervision::RequestRef,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let (user, tenant) = self.half_logged_in(&system, login_token, address).await?;
        let account = self.account(user, Some(tenant)).await?;
        let account = account.ok_or_else(|| Refusal::not_found("user"))?;
        let asked = Asked {
            tenant,
            epoch: account.epoch,
            password_changes: account.password_changes,
            until: system.clock().now().plus_ms(ASKED_MS),
        };
        let (factors, origin) = (self.factors_address(user)?, origin_of(user, request));
        let directory = system.directory::<SecondFactors>();
        directory.ask(&factors, AskRemoval { asked }, origin.clone()).await?;
        let letter = Letter::FactorRemovalAsked {};
        self.tell_user(user, letter, system.new_id(), origin).await
    }

    /// Removes all second factors of a user, and waits until every session has ended. Answers how
    /// many there were. 422 without a reason, 404 for nobody the remover may help, 409
    /// `no_second_factor`, `removal_not_asked`, `other_tenants`.
    pub async fn remove_factors(&self, removal: Removal, origin: Origin) -> Result<usize, Refusal> {
        let Removal { id, user, by, reason } = removal;
        let length = reason.trim().chars().take(REASON_CHARS_MAX + 1).count();
        if !(1..=REASON_CHARS_MAX).contains(&length) {
            let message = format!("must say why, in at most {REASON_CHARS_MAX} characters");
            return Err(Refusal::invalid("reason", message));
        }
        let (system, missing) = (self.system()?, || Refusal::not_found("user"));
        let account = self.account(user, None).await?.ok_or_else(missing)?;
        let asked = match by {
            Remover::Operator => None,
            Remover::Owner(tenant) => Some(self.asked_of(user, tenant).await?),
        };
        let is_for_this = |asked: &Asked| {
            (asked.epoch, asked.password_changes) == (account.epoch, account.password_changes)
        };
        if asked.is_some_and(|asked| !is_for_this(&asked)) {
            return Err(not_asked());
        }
        let address = self.factors_address(user)?;
        if system.locate(SecondFactors::KIND, address.id()).is_none() {
            return Err(no_factor());
        }
        let why = Why::Removed { reason, sessions_from: account.sessions_from };
        let factors = system.directory::<SecondFactors>();
        let removed = factors.ask(&address, Clear { id, why, asked }, origin.clone()).await?;
        factors.wait(&address, origin).await?;
        Ok(removed)
    }

    /// What a member has asked this tenant's owner for.
    async fn asked_of(&self, user: UserId, tenant: TenantId) -> Result<Asked, Refusal> {
        self.member(tenant, user).await?;
        let system = self.system()?;
        let own = [tenant, user.direct_tenant()];
        if self.tenants_of(user).await?.iter().any(|other| !own.contains(other)) {
            let message = "this user belongs to other tenants too: an operator can help them";
            return Err(Refusal::conflict("other_tenants", message));
        }
        let now = system.clock().now();
        let asked = self.look_at_factors(&system, user, move |factors| factors.asked(now)).await?;
        let asked = asked.flatten().filter(|asked| asked.tenant == tenant);
        asked.ok_or_else(not_asked)
    }

    /// Whoever reads an address's mail took over an account that was never verified: nothing that
    /// somebody else may have enrolled or made stays.
    pub(crate) async fn clear_reclaimed(
        &self,
        user: UserId,
        id: u128,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let (system, address) = (self.system()?, self.factors_address(user)?);
        if system.locate(SecondFactors::KIND, address.id()).is_some() {
            let clear = Clear { id, why: Why::Reclaimed, asked: None };
            system.directory::<SecondFactors>().ask(&address, clear, origin.clone()).await?;
        }
        for tenant in self.tenants_of(user).await? {
            self.end_old_keys(user, tenant, origin.clone()).await?;
        }
        Ok(())
    }
}
