//! Inviting somebody to a tenant and accepting, as the gateway asks for it.

use persistence::{RowRange, codec};
use supervision::{Address, Class, Origin, Refusal, Timestamp};
use types::{Caller, InvitationId, Scopes, TenantId, UserId, owner_of_tenant};

use crate::claim::{Claim, EmailAddress};
use crate::invitation::{
    Accept, EMAIL_LABEL, INVITATIONS_FAMILY, Invitation, InvitationRow, Invite, Revoke, rows_prefix,
};
use crate::mail_link::{LinkKey, Purpose};
use crate::role::{OPERATOR_ROLE, check_within};
use crate::service::Identity;
use crate::tenant::{Inviter, Tenant, void as joining_void};

/// An open invitation, as the tenant's members may see it. The address is in clear: not for logs.
#[derive(Clone)]
pub struct InvitationView {
    /// The id.
    pub id: InvitationId,
    /// Who; empty once erased.
    pub email: String,
    /// As what.
    pub role: String,
    /// By whom; `None` for a service that acts for nobody.
    pub invited_by: Option<UserId>,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when it can be accepted.
    pub expires_at: Timestamp,
}

impl InvitationView {
    /// An invitation to an address in clear.
    pub fn new(invited: impl Into<InvitationRow>, email: String) -> Self {
        let invited = invited.into();
        let InvitationRow { id, role, invited_by, created_at, expires_at, .. } = invited;
        Self { id, email, role, invited_by, created_at, expires_at }
    }
}

/// Who invites: on whose word, in whose name, and what they may give now.
#[derive(Clone, Debug)]
pub struct Inviting {
    /// On whose word.
    pub inviter: Inviter,
    /// In whose name.
    pub by: Option<UserId>,
    /// What they may give.
    pub rights: Scopes,
}

/// Where somebody has joined.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The invitation, which the answer is recorded with.
    pub address: Address<Invitation>,
    /// The tenant.
    pub tenant: TenantId,
    /// As what.
    pub role: String,
}

impl Identity {
    /// What invites an address to a tenant, if `rights` cover the role. 422 for no address or no
    /// role, 403 `beyond_own_rights`, 409 `already_member`.
    pub async fn invitation(
        &self,
        id: InvitationId,
        tenant: TenantId,
        email: &str,
        role: String,
        inviting: Inviting,
    ) -> Result<Invite, Refusal> {
        let Inviting { inviter, by: invited_by, rights } = inviting;
        let (email, system) = (EmailAddress::new(email)?, self.system()?);
        self.admit_mail(&tenant.to_string())?;
        if !self.may_mail(&email)? {
            let message = "this address was sent too many mails; try again later";
            return Err(Refusal::new(Class::TooMany, "too_many_mails", message).retry_after(60_000));
        }
        let claim = email.claim(self.claim_key());
        let (claims, origin) = (system.directory::<Claim>(), system.system_origin());
        let owner = claims.look(&claim, origin, Claim::confirmed).await?;
        let owner = owner.map(|(_, target)| target.user);
        let wanted = role.clone();
        let found = move |it: &Tenant| {
            let members = it.details.as_ref().map(|it| &it.members);
            let is_member = members.zip(owner).is_some_and(|(it, owner)| it.contains_key(&owner));
            let role_id = it.staff.role_id(tenant, &wanted);
            (it.staff.covers(tenant, &wanted), role_id, is_member)
        };
        let found = self.look_tenant(tenant, found).await?;
        let (covered, role_id, is_member) = found.ok_or_else(|| Refusal::not_found("tenant"))?;
        let covered = covered.ok_or_else(|| Refusal::invalid("role", "there is no such role"))?;
        check_within(&covered, &rights)?;
        if is_member {
            let message = "this address belongs to a member of the tenant";
            return Err(Refusal::conflict("already_member", message));
        }
        let email_tag = claim.id().to_owned();
        Ok(Invite { id, tenant, email, email_tag, role, role_id, invited_by, inviter })
    }

    /// 410 `invitation_void` unless this user is an operator now.
    pub(crate) async fn check_operator(&self, user: UserId) -> Result<(), Refusal> {
        let account = self.account(user, Some(TenantId::SYSTEM)).await?;
        let account = account.filter(|account| account.active);
        let membership = account.and_then(|account| account.membership);
        let is_operator = membership.is_some_and(|(_, it)| it.scopes.covers(OPERATOR_ROLE));
        is_operator.then_some(()).ok_or_else(joining_void)
    }

    fn invitation_view(&self, invited: InvitationRow) -> Result<InvitationView, Refusal> {
        let keys = self.system()?.journal().keys().clone();
        let email = invited.email.open(&keys, EMAIL_LABEL).unwrap_or_default();
        Ok(InvitationView::new(invited, email))
    }

    /// A tenant's open invitations, the oldest first: at most `limit` after one.
    pub fn invitations(
        &self,
        tenant: TenantId,
        after: Option<InvitationId>,
        limit: usize,
    ) -> Result<Vec<InvitationView>, Refusal> {
        let key = |id: InvitationId| [rows_prefix(tenant), id.0.to_be_bytes().to_vec()].concat();
        let rows = self.system()?.rows(&RowRange {
            shard: owner_of_tenant(tenant).shard(),
            family: INVITATIONS_FAMILY,
            prefix: rows_prefix(tenant),
            after: after.map(key),
            newest_first: false,
            limit,
        });
        let rows = rows.into_iter();
        let rows = rows.filter_map(|(_, row)| codec::decode::<InvitationRow>(&row).ok());
        rows.map(|row| self.invitation_view(row)).collect()
    }

    /// Takes an invitation of a tenant's back. 404 when it is not that tenant's, 410 when it is
    /// over.
    pub async fn revoke_invitation(
        &self,
        tenant: TenantId,
        invitation: InvitationId,
        origin: Origin,
    ) -> Result<(), Refusal> {
        let (system, address) = (self.system()?, Invitation::address(invitation, tenant));
        let found = Invitation::locate(&system, invitation);
        let is_own = found.is_some_and(|found| found.place() == address.place());
        if !is_own {
            return Err(Refusal::not_found("invitation"));
        }
        system.directory::<Invitation>().ask(&address, Revoke {}, origin).await
    }

    /// The invitation that a mailed link stands for. 404 for what is no such link.
    pub fn invitation_of(&self, token: &str) -> Result<Address<Invitation>, Refusal> {
        let missing = || Refusal::not_found("invitation");
        let system = self.system()?;
        let read = system.port::<LinkKey>().read(Purpose::Invitation, token);
        Invitation::locate(&system, InvitationId(read.ok_or_else(missing)?)).ok_or_else(missing)
    }

    /// Accepts an invitation for the caller's user, and waits until the user is a member. 410 when
    /// it is over, 403 `other_address` or `frozen`, 409 when the tenant or the user has no room or
    /// the role is no more, 410 `invitation_void` when whoever invited may not any more.
    pub async fn accept_invitation(
        &self,
        address: Address<Invitation>,
        caller: &Caller,
        may_repeat: bool,
        origin: Origin,
    ) -> Result<Joining, Refusal> {
        let system = self.system()?;
        let me = self.me(caller).await?;
        let email = EmailAddress::new(&me.email)?;
        let invitations = system.directory::<Invitation>();
        self.frozen().check(TenantId(address.place().home.0), None)?;
        self.check_room(me.id).await?;
        let email_tag = email.claim(self.claim_key()).id().to_owned();
        let accept = Accept { user: me.id, email_tag, may_repeat };
        invitations.ask(&address, accept, origin.clone()).await?;
        invitations.wait(&address, origin.clone()).await??;
        let terms = |it: &Invitation| it.terms.as_ref().map(|it| (it.tenant, it.role.clone()));
        let terms = invitations.look(&address, origin, terms).await?;
        let (tenant, role) = terms.ok_or_else(|| Refusal::not_found("invitation"))?;
        Ok(Joining { address, tenant, role })
    }
}
