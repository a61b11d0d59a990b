//! Who belongs to which tenant, as the gateway asks: changing it, telling the users, showing it.
//!
//! Invariants
//! - [`Identity::change_members`] answers once every user whom the change is about has been told
//!   and every token that says something else is refused.
//!
//! Deliberate limits
//! - When a user cannot be told now, the change stands and is told later; the answer is then 503
//!   `outcome_unknown`, and may be asked for again.

use futures::StreamExt as _;
use futures::future::join_all;
use supervision::{Class, Command, Entity as _, Handle, Origin, Refusal, System, Timestamp};
use types::{JsonBytes, Page, Scopes, TenantId, UserId, home_of};

use crate::claim::{Claim, EmailAddress, Namespace, claim_address};
use crate::service::{Identity, UserView};
use crate::tenant::{
    ATTRIBUTES_LABEL, MemberTerms, NoteTold, RemoveMember, SetActive, Tenant, Told, Untold,
};
use crate::token_cache::OwnerKey;
use crate::user::{HearMembership, MEMBERSHIPS_MAX, User};
use crate::{unix_ms, unless_erased};

/// The names that tenants are addressed by beside their ids, unique over the installation.
pub const TENANT_NAMES: Namespace = Namespace::new("tenant_name");
/// How many tenants one step of listing all reads.
const HOMES_STEP: usize = 1_000;
/// How many users are told at the same time.
const TELL_WIDTH: usize = 32;

/// Which of a tenant's members; all of them by default.
#[derive(Clone, Debug, Default)]
pub struct MemberFilter {
    /// Those with this role.
    pub role: Option<String>,
    /// Those whose role and grants cover this scope.
    pub scope: Option<String>,
    /// Those who are switched on in this tenant, or off.
    pub active: Option<bool>,
    /// This one alone; `Some(None)` is nobody.
    pub user: Option<Option<UserId>>,
}

impl MemberFilter {
    fn fits(&self, user: UserId, terms: &MemberTerms) -> bool {
        let membership = &terms.membership;
        self.role.as_ref().is_none_or(|role| *role == membership.role)
            && self.scope.as_ref().is_none_or(|scope| membership.scopes.covers(scope))
            && self.active.is_none_or(|active| active == terms.active)
            && self.user.is_none_or(|wanted| wanted == Some(user))
    }
}

/// One scope that a member has, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveScope {
    /// The scope.
    pub scope: String,
    /// `role:NAME` or `grant`.
    pub source: String,
}

impl Identity {
    /// The tenant that an id or a name stands for, if there is one.
    pub async fn tenant_named(&self, text: &str) -> Result<Option<TenantId>, Refusal> {
        let system = self.system()?;
        if let Ok(tenant) = text.parse() {
            let found = system.locate(Tenant::KIND, Tenant::address(tenant).id());
            return Ok(found.map(|_| tenant));
        }
        if types::AppId::new(text).is_err() {
            return Ok(None);
        }
        let claim = claim_address(TENANT_NAMES, text, self.claim_key());
        if system.locate(Claim::KIND, claim.id()).is_none() {
            return Ok(None);
        }
        let (claims, origin) = (system.directory::<Claim>(), system.system_origin());
        let confirmed = claims.look(&claim, origin, Claim::confirmed).await?;
        Ok(confirmed.map(|(_, target)| target.tenant))
    }

    /// Looks at a tenant; `None` when there is none.
    pub async fn look_tenant<R: Send + 'static>(
        &self,
        tenant: TenantId,
        look: impl FnOnce(&Tenant) -> R + Send + 'static,
    ) -> Result<Option<R>, Refusal> {
        let (system, address) = (self.system()?, Tenant::address(tenant));
        if system.locate(Tenant::KIND, address.id()).is_none() {
            return Ok(None);
        }
        let look = |tenant: &Tenant| tenant.details.is_some().then(|| look(tenant));
        let found = system.directory::<Tenant>().look(&address, system.system_origin(), look).await;
        unless_erased(found)
    }

    /// Asks a tenant for a change of its members or roles, and tells the users.
    pub async fn change_members<C>(
        &self,
        tenant: TenantId,
        command: C,
        origin: Origin,
    ) -> Result<<Tenant as Handle<C>>::Reply, Refusal>
    where
        C: Command,
        Tenant: Handle<C>,
    {
        let directory = self.system()?.directory::<Tenant>();
        let reply = directory.ask(&Tenant::address(tenant), command, origin.clone()).await?;
        self.tell_members(tenant, origin).await?;
        Ok(reply)
    }

    /// Tells every user who has not been told what they are in a tenant now, and refuses their
    /// tokens that say something else. 503 when somebody could not be told.
    pub async fn tell_members(&self, tenant: TenantId, origin: Origin) -> Result<(), Refusal> {
        let system = self.system()?;
        let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(tenant));
        let (mut after, mut failed) = (None, None);
        loop {
            let next = move |tenant: &Tenant| tenant.untold(after);
            let untold = tenants.look(&address, origin.clone(), next).await?;
            let Some(last) = untold.last() else { break };
            after = Some(last.told.user);
            let tell = |untold: Untold| {
                let (system, origin) = (system.clone(), origin.clone());
                async move {
                    let told = untold.told;
                    self.tell(&system, tenant, untold, origin).await.map(|()| told)
                }
            };
            let outcomes: Vec<Result<Told, Refusal>> = futures::stream::iter(untold)
                .map(tell)
                .buffer_unordered(TELL_WIDTH)
                .collect()
                .await;
            failed = failed.or_else(|| outcomes.iter().find_map(|it| it.as_ref().err()).cloned());
            let told = outcomes.into_iter().flatten().collect();
            tenants.ask(&address, NoteTold { told }, origin.clone()).await?;
        }
        failed.map_or(Ok(()), |refusal| {
            tracing::warn!(%tenant, %refusal, "a member could not be told of a change yet");
            Err(Refusal::in_doubt())
        })
    }

    async fn tell(
        &self,
        system: &System,
        tenant: TenantId,
        untold: Untold,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let Untold { told: Told { user, version }, since, membership } = untold;
        // A user who was never made has no tokens either.
        let Some(address) = self.user_address(user)? else { return Ok(()) };
        let hear = HearMembership { tenant, membership, since, version };
        let has_left = match system.directory::<User>().ask(&address, hear, origin.clone()).await {
            Ok(has_left) => has_left,
            Err(refusal) if refusal.class == Class::Conflict => {
                // One tenant too many: the tenant cannot have this member.
                let remove = RemoveMember { user, rights: Scopes::all() };
                let tenants = system.directory::<Tenant>();
                if let Err(refusal) = tenants.ask(&Tenant::address(tenant), remove, origin).await {
                    tracing::warn!(%tenant, %user, %refusal, "a member who cannot be one stays");
                }
                return Ok(());
            }
            Err(refusal) if refusal.class == Class::NotFound || refusal.is_erased() => {
                return Ok(());
            }
            Err(refusal) => return Err(refusal),
        };
        let now_ms = unix_ms(system.clock().now());
        self.epochs().raise(OwnerKey::member(tenant.0, user.0), version, now_ms);
        if has_left {
            // Whoever comes back begins anew: what was signed in then stays out.
            self.revoke_other_sessions(user, Some(tenant), None, origin.clone()).await?;
            self.end_old_keys(user, tenant, origin).await?;
        }
        Ok(())
    }

    /// 409 when a user belongs to as many tenants as one may.
    pub(crate) async fn check_room(&self, user: UserId) -> Result<(), Refusal> {
        let missing = || Refusal::not_found("user");
        let (system, address) = (self.system()?, self.user_address(user)?.ok_or_else(missing)?);
        let count = |user: &User| {
            let memberships = user.profile.as_ref().map_or(0, |it| it.memberships.len());
            memberships.max(user.told.len())
        };
        let users = system.directory::<User>();
        let count = users.look(&address, system.system_origin(), count).await?;
        let message = format!("a user belongs to at most {MEMBERSHIPS_MAX} tenants");
        let is_full = count >= MEMBERSHIPS_MAX;
        let refusal = || Refusal::conflict("too_many_memberships", message);
        (!is_full).then_some(()).ok_or_else(refusal)
    }

    /// Switches a tenant off for good, as far as its members can: every token for it is refused
    /// from now on. 409 `own_tenant` for a direct user's own, and the installation's.
    pub async fn delete_tenant(&self, tenant: TenantId, origin: Origin) -> Result<(), Refusal> {
        let direct = |tenant: &Tenant| tenant.details.as_ref().is_some_and(|it| it.direct);
        let direct = self.look_tenant(tenant, direct).await?;
        if direct.ok_or_else(|| Refusal::not_found("tenant"))? || tenant == TenantId::SYSTEM {
            let message = "a user's own tenant, and the installation's, are not switched off";
            return Err(Refusal::conflict("own_tenant", message));
        }
        self.change_tenant(tenant, SetActive { active: false }, origin).await.map(drop)
    }

    /// A page of a tenant's members, the oldest account first, and how many there are that fit. 404
    /// without such a tenant.
    pub async fn members(
        &self,
        tenant: TenantId,
        filter: MemberFilter,
        page: Page,
    ) -> Result<(Vec<UserView>, usize), Refusal> {
        let members = move |tenant: &Tenant| {
            let members = tenant.details.iter().flat_map(|it| it.members.keys());
            let terms = members.filter_map(|user| Some((*user, tenant.member_terms(*user)?)));
            let all: Vec<_> = terms.filter(|(user, terms)| filter.fits(*user, terms)).collect();
            let count = all.len();
            (page.of(all), count)
        };
        let members = self.look_tenant(tenant, members).await?;
        let (members, count) = members.ok_or_else(|| Refusal::not_found("tenant"))?;
        let views = members.into_iter().map(|(user, terms)| self.shown(tenant, user, terms));
        let views: Result<Vec<_>, Refusal> = join_all(views).await.into_iter().collect();
        Ok((views?, count))
    }

    /// A member as the tenant has them: it decides, and the user may be told a moment later.
    async fn shown(
        &self,
        tenant: TenantId,
        user: UserId,
        terms: MemberTerms,
    ) -> Result<UserView, Refusal> {
        let MemberTerms { membership, active, attributes } = terms;
        let (system, mut view) = (self.system()?, self.user(user, tenant).await?);
        let keys = system.journal().keys();
        let attributes = attributes.and_then(|it| it.open(keys, ATTRIBUTES_LABEL));
        if let Some(attributes) = attributes.and_then(|text| JsonBytes::new(&text).ok()) {
            view.attributes = attributes;
        }
        (view.role, view.scopes) = (membership.role, membership.scopes);
        view.active &= active;
        Ok(view)
    }

    /// Whom a text names among users: an id, or a whole e-mail address. Addresses are sealed, so
    /// that a part of one finds nobody.
    pub async fn user_named(&self, text: &str) -> Result<Option<UserId>, Refusal> {
        if let Ok(user) = text.trim().parse() {
            return Ok(Some(user));
        }
        let Ok(email) = EmailAddress::new(text) else { return Ok(None) };
        let (system, claim) = (self.system()?, email.claim(self.claim_key()));
        if system.locate(Claim::KIND, claim.id()).is_none() {
            return Ok(None);
        }
        let (claims, origin) = (system.directory::<Claim>(), system.system_origin());
        let confirmed = claims.look(&claim, origin, Claim::confirmed).await?;
        Ok(confirmed.map(|(_, target)| target.user))
    }

    /// The tenants that a user belongs to, the oldest first.
    pub async fn tenants_of(&self, user: UserId) -> Result<Vec<TenantId>, Refusal> {
        let tenants = |user: &User| {
            let memberships = user.profile.iter().flat_map(|profile| profile.memberships.keys());
            memberships.copied().collect()
        };
        self.tenants_by(user, tenants).await
    }

    /// The tenants that a user belongs to, or has ever belonged to.
    pub async fn tenants_ever(&self, user: UserId) -> Result<Vec<TenantId>, Refusal> {
        let tenants = |user: &User| {
            let now = user.profile.iter().flat_map(|profile| profile.memberships.keys());
            let all: std::collections::BTreeSet<TenantId> =
                now.chain(user.told.keys()).copied().collect();
            all.into_iter().collect()
        };
        self.tenants_by(user, tenants).await
    }

    async fn tenants_by(
        &self,
        user: UserId,
        tenants: impl FnOnce(&User) -> Vec<TenantId> + Send + 'static,
    ) -> Result<Vec<TenantId>, Refusal> {
        let Some(address) = self.user_address(user)? else { return Ok(Vec::new()) };
        let system = self.system()?;
        let tenants = |user: &User| Some(tenants(user));
        let found =
            system.directory::<User>().look(&address, system.system_origin(), tenants).await;
        Ok(unless_erased(found)?.unwrap_or_default())
    }

    /// A page of all tenants, by id. It reads the journal: for a thread that may block.
    pub fn all_tenants(&self, page: Page) -> Result<Vec<TenantId>, Refusal> {
        let (system, mut found, mut after) = (self.system()?, Vec::new(), None);
        let wanted = page.offset.saturating_add(page.limit);
        loop {
            let homes = system.journal().homes(after, HOMES_STEP);
            let homes = homes.map_err(|_| crate::internal("the list of tenants"))?;
            let tenants = homes.iter().map(|home| TenantId(home.0));
            // A home without a tenant is one of a sign-up that ended before it.
            let is_made = |tenant: &TenantId| {
                system.locate(Tenant::KIND, Tenant::address(*tenant).id()).is_some()
            };
            found.extend(tenants.filter(is_made));
            after = homes.last().copied();
            if homes.len() < HOMES_STEP || found.len() >= wanted {
                return Ok(page.of(found));
            }
        }
    }

    /// When anything of a tenant's was last recorded. It reads the journal: for a thread that may
    /// block.
    pub fn last_activity(&self, tenant: TenantId) -> Result<Option<Timestamp>, Refusal> {
        let system = self.system()?;
        let last = system.journal().read_chain(home_of(tenant), u64::MAX - 1, true, 1);
        let last = last.map_err(|_| crate::internal("a tenant's last record"))?;
        Ok(last.first().map(|record| Timestamp(record.header.time_ms)))
    }

    /// One member of a tenant. 404 for anybody else.
    pub async fn member(&self, tenant: TenantId, user: UserId) -> Result<UserView, Refusal> {
        let terms = move |tenant: &Tenant| tenant.member_terms(user);
        let terms = self.look_tenant(tenant, terms).await?.flatten();
        self.shown(tenant, user, terms.ok_or_else(|| Refusal::not_found("user"))?).await
    }

    /// What a member's tokens cover now, and why. 404 for no member.
    pub async fn effective_scopes(
        &self,
        tenant: TenantId,
        user: UserId,
    ) -> Result<Vec<EffectiveScope>, Refusal> {
        let sources = move |it: &Tenant| {
            let terms = it.member_terms(user)?;
            let covered = it.staff.covers(tenant, &terms.membership.role).unwrap_or_default();
            let grants = it.staff.grants.get(&user).cloned().unwrap_or_default();
            Some((covered, grants, terms.membership.role))
        };
        let sources = self.look_tenant(tenant, sources).await?.flatten();
        let (covered, grants, role) = sources.ok_or_else(|| Refusal::not_found("user"))?;
        // What the user was told is what tokens say; who is switched off has none.
        let view = self.user(user, tenant).await?;
        let source = |scope: &String| {
            let is_granted = grants.as_slice().contains(scope);
            // What neither has any more is the role's from before its last change.
            let is_of_role = covered.as_slice().contains(scope) || !is_granted;
            let source = if is_of_role { format!("role:{role}") } else { "grant".to_owned() };
            EffectiveScope { scope: scope.clone(), source }
        };
        Ok(view.scopes.as_slice().iter().map(source).collect())
    }
}
