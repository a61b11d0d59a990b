//! An invitation: an e-mail address is asked to join a tenant in a role.
//!
//! The link in the mail is made from the invitation's id ([`crate::mail_link`]); nothing secret is
//! stored. Accepting is durable before the tenant is asked to take the member in, and the tenant is
//! asked until it has answered, so a link is used once and a use is never lost.
//!
//! Invariants
//! - An invitation ends once: accepted, revoked or expired.
//! - Only the user whom the address belongs to accepts.
//!
//! Deliberate limits
//! - The role is one of the tenant's when it invites, and within the rights of whoever invites.
//!   Whether that still holds is asked when it is accepted ([`crate::tenant::Admit`]), and then
//!   the invitation is used up.
//! - The address is sealed under a personal key of the invitation's own id, as long as nobody knows
//!   whose it is.
//!
//! Rows, in the tenant's shard, while it is open: family [`INVITATIONS_FAMILY`] by tenant and
//! invitation (16 bytes each, by age), holding an [`InvitationRow`]; family [`INVITED_FAMILY`] by
//! tenant and the address's keyed hash, holding the invitation's number, so that one address has
//! one open invitation to a tenant.

use persistence::codec;
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Backoff, Class, Command, EffectContext, Entity, Handle, Need, Origin, Process,
    Refusal, Retried, Retry, Retrying, RowDraft, System, Timestamp, Turn, retry,
};
use types::{InvitationId, Personal, RoleIdentifier, TenantId, UserId, home_of, owner_of_tenant};

use crate::claim::{Claim, EmailAddress};
use crate::mail::{self, Draft, Letter};
use crate::service::Identity;
use crate::tenant::{Admit, Inviter, Tenant};

/// The family of the rows of open invitations.
pub const INVITATIONS_FAMILY: &str = "invitation";
/// The family of the rows that find an open invitation by its address.
pub const INVITED_FAMILY: &str = "invited";
/// How long an invitation can be accepted, in milliseconds.
pub const LIFE_MS: i64 = 7 * 24 * 3_600_000;
/// What the address is sealed as.
pub const EMAIL_LABEL: &str = "invitation.email";

/// An invitation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Invitation {
    /// What it says; `None` until it is made.
    pub terms: Option<Invited>,
    /// How it stands.
    pub standing: Standing,
    is_mailed: bool,
    retry: Retry,
}

/// How an invitation stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Standing {
    /// It can be accepted.
    #[default]
    Open,
    /// This user has accepted; the tenant is being asked.
    Joining(UserId),
    /// This user has joined, or the tenant has refused.
    Ended(UserId, Option<Refusal>),
    /// It was taken back.
    Revoked,
    /// Nobody accepted in time.
    Expired,
}

/// Somebody was invited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Invited {
    /// The invitation's id.
    pub id: InvitationId,
    /// To where.
    pub tenant: TenantId,
    /// Who, sealed as [`EMAIL_LABEL`].
    pub email: Personal,
    /// The keyed hash of the address, as its claim is named.
    pub email_tag: String,
    /// As what.
    pub role: String,
    /// The role's id, where it is one of the tenant's own.
    pub role_id: Option<RoleIdentifier>,
    /// By whom; `None` for a service that acts for nobody.
    pub invited_by: Option<UserId>,
    /// On whose word.
    pub inviter: Inviter,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when it can be accepted.
    pub expires_at: Timestamp,
}

/// A row of [`INVITATIONS_FAMILY`], which is what was recorded as version 1 too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InvitationRow {
    /// The invitation's id.
    pub id: InvitationId,
    /// To where.
    pub tenant: TenantId,
    /// Who, sealed as [`EMAIL_LABEL`].
    pub email: Personal,
    /// The keyed hash of the address, as its claim is named.
    pub email_tag: String,
    /// As what.
    pub role: String,
    /// By whom; `None` for a service that acts for nobody.
    pub invited_by: Option<UserId>,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when it can be accepted.
    pub expires_at: Timestamp,
}

impl From<InvitationRow> for Invited {
    fn from(row: InvitationRow) -> Self {
        let InvitationRow { id, tenant, email, email_tag, role, invited_by, .. } = row;
        let (created_at, expires_at) = (row.created_at, row.expires_at);
        // Which role of its own the tenant meant was not recorded: it is asked for again.
        let (role_id, inviter) = (None, invited_by.map_or(Inviter::Service, Inviter::Member));
        Self {
            id,
            tenant,
            email,
            email_tag,
            role,
            role_id,
            invited_by,
            inviter,
            created_at,
            expires_at,
        }
    }
}

impl From<Invited> for InvitationRow {
    fn from(invited: Invited) -> Self {
        let Invited { id, tenant, email, email_tag, role, invited_by, .. } = invited;
        let (created_at, expires_at) = (invited.created_at, invited.expires_at);
        Self { id, tenant, email, email_tag, role, invited_by, created_at, expires_at }
    }
}

/// The mail is on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mailed {}

/// It was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// By whom.
    pub user: UserId,
}

/// The tenant has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// Why it did not take the member in.
    pub refusal: Option<Refusal>,
}

/// It was taken back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revoked {}

/// Nobody accepted in time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expired {}

supervision::events! {
    /// What happens to an invitation.
    pub enum InvitationEvent {
        /// Somebody was invited.
        Invited(Invited) = "invited", 2, was 1 as InvitationRow;
        /// The mail is on its way.
        Mailed(Mailed) = "mailed", 1;
        /// It was accepted.
        Accepted(Accepted) = "accepted", 1;
        /// The tenant has answered.
        Joined(Joined) = "joined", 1;
        /// It was taken back.
        Revoked(Revoked) = "revoked", 1;
        /// Nobody accepted in time.
        Expired(Expired) = "expired", 1;
        /// What is pending is tried once more.
        Retried(Retried) = "retried", 1;
    }
}

/// What an invitation asks of others.
#[derive(Clone, Debug)]
pub enum InvitationEffect {
    /// The mail to whom it invites.
    Mail(Box<Invited>),
    /// The tenant's taking in of this user.
    Join(Box<Invited>, UserId),
}

/// What the rows of a tenant's open invitations begin with.
pub(crate) fn rows_prefix(tenant: TenantId) -> Vec<u8> {
    tenant.0.to_be_bytes().to_vec()
}

fn row_key(tenant: TenantId, invitation: InvitationId) -> Vec<u8> {
    [tenant.0.to_be_bytes(), invitation.0.to_be_bytes()].concat()
}

fn invited_key(tenant: TenantId, email_tag: &str) -> Vec<u8> {
    [tenant.0.to_be_bytes().as_slice(), email_tag.as_bytes()].concat()
}

impl Invitation {
    /// Where an invitation lives.
    pub fn address(invitation: InvitationId, tenant: TenantId) -> Address<Self> {
        crate::address(&invitation.to_string(), owner_of_tenant(tenant), home_of(tenant))
    }

    /// Where an invitation lives, if there is one.
    pub(crate) fn locate(system: &System, invitation: InvitationId) -> Option<Address<Self>> {
        let place = system.locate(Self::KIND, &invitation.to_string())?;
        Address::from_place(place)
    }

    fn is_open(&self) -> bool {
        self.standing == Standing::Open && self.terms.is_some()
    }

    fn existing(&self) -> Result<&Invited, Refusal> {
        self.terms.as_ref().ok_or_else(|| Refusal::not_found("invitation"))
    }

    /// 410 unless it can be accepted.
    fn check_open(&self, now: Timestamp) -> Result<(), Refusal> {
        let gone = |code, message| Err(Refusal::new(Class::Gone, code, message));
        let is_over = self.existing()?.expires_at <= now;
        match self.standing {
            Standing::Open if !is_over => Ok(()),
            Standing::Open | Standing::Expired => {
                gone("invitation_expired", "this invitation has expired; ask for another")
            }
            Standing::Revoked => gone("invitation_revoked", "this invitation was taken back"),
            Standing::Joining(_) | Standing::Ended(..) => {
                gone("invitation_used", "this invitation was accepted before")
            }
        }
    }
}

impl Retrying for Invitation {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn retried() -> InvitationEvent {
        InvitationEvent::Retried(Retried {})
    }
}

impl Entity for Invitation {
    const KIND: &'static str = "invitation";
    const SNAPSHOT_VERSION: u16 = 2;
    type Event = InvitationEvent;
    type Effect = InvitationEffect;

    fn apply(&mut self, event: &InvitationEvent, at: Timestamp) {
        match event {
            InvitationEvent::Invited(it) => {
                self.terms = Some(it.clone());
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            InvitationEvent::Mailed(_) => self.is_mailed = true,
            InvitationEvent::Accepted(it) => {
                self.standing = Standing::Joining(it.user);
                self.retry = Retry::begin(at, Backoff::USUAL);
            }
            InvitationEvent::Joined(it) => {
                if let Standing::Joining(user) = self.standing {
                    self.standing = Standing::Ended(user, it.refusal.clone());
                }
            }
            InvitationEvent::Revoked(_) => self.standing = Standing::Revoked,
            InvitationEvent::Expired(_) => self.standing = Standing::Expired,
            InvitationEvent::Retried(_) => self.retry.again(at, Backoff::USUAL),
        }
    }

    fn rows(&self, event: &InvitationEvent, _: Timestamp, rows: &mut Vec<RowDraft>) {
        let mut put = |of: &Invited, row: Option<Vec<u8>>, found: Option<Vec<u8>>| {
            let (family, key) = (INVITATIONS_FAMILY, row_key(of.tenant, of.id));
            rows.push(RowDraft { family, key, value: row });
            let (family, key) = (INVITED_FAMILY, invited_key(of.tenant, &of.email_tag));
            rows.push(RowDraft { family, key, value: found });
        };
        match (event, &self.terms) {
            (InvitationEvent::Invited(it), _) => {
                let row = InvitationRow::from(it.clone());
                put(it, codec::encode(&row).ok(), codec::encode(&it.id).ok());
            }
            (
                InvitationEvent::Accepted(_)
                | InvitationEvent::Revoked(_)
                | InvitationEvent::Expired(_),
                Some(terms),
            ) => put(terms, None, None),
            _ => {}
        }
    }

    fn is_pending(&self) -> bool {
        self.is_open() && !self.is_mailed || matches!(self.standing, Standing::Joining(_))
    }

    fn resume(&self) -> Vec<InvitationEffect> {
        let Some(terms) = &self.terms else { return Vec::new() };
        match self.standing {
            Standing::Open if !self.is_mailed => {
                vec![InvitationEffect::Mail(Box::new(terms.clone()))]
            }
            Standing::Joining(user) => vec![InvitationEffect::Join(Box::new(terms.clone()), user)],
            _ => Vec::new(),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let terms = self.terms.as_ref()?;
        let expiry = self.is_open().then_some(terms.expires_at);
        self.retry_at().into_iter().chain(expiry).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let (state, now) = (turn.state(), turn.now());
        if state.is_open() && state.terms.as_ref().is_some_and(|terms| terms.expires_at <= now) {
            turn.record(InvitationEvent::Expired(Expired {}));
        } else {
            Self::try_again(turn);
        }
    }

    async fn perform(effect: InvitationEffect, context: EffectContext<Self>) {
        let EffectContext { system, address, origin, .. } = context;
        let invitations = system.directory::<Self>();
        let noted = match effect {
            InvitationEffect::Mail(invited) => match send(&system, &invited, &origin).await {
                Ok(()) => invitations.ask(&address, NoteMailed {}, origin).await,
                Err(refusal) => Err(refusal),
            },
            InvitationEffect::Join(invited, user) => {
                let outcome = join(&system, &invited, user, &origin).await;
                let Some(outcome) = retry::verdict(outcome) else { return };
                let joined = Joined { refusal: outcome.err() };
                invitations.ask(&address, NoteJoined(joined), origin).await
            }
        };
        if let Err(refusal) = noted {
            tracing::debug!(%refusal, "an invitation goes on later");
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(terms) = &self.terms else { return json!({"exists": false}) };
        let (standing, user) = match &self.standing {
            Standing::Open => ("open", None),
            Standing::Joining(user) => ("joining", Some(*user)),
            Standing::Ended(user, None) => ("accepted", Some(*user)),
            Standing::Ended(user, Some(_)) => ("refused", Some(*user)),
            Standing::Revoked => ("revoked", None),
            Standing::Expired => ("expired", None),
        };
        json!({
            "id": terms.id, "tenant": terms.tenant, "role": terms.role, "standing": standing,
            "user": user, "invited_by": terms.invited_by, "mailed": self.is_mailed,
            "expires_at": types::rfc3339(terms.expires_at),
        })
    }
}

async fn send(system: &System, invited: &Invited, origin: &Origin) -> Result<(), Refusal> {
    let keys = system.journal().keys();
    // Once the address is erased there is nobody to write to.
    let Some(email) = invited.email.open(keys, EMAIL_LABEL) else { return Ok(()) };
    let to = EmailAddress::new(&email)?;
    let identity = system.port::<Identity>();
    let name = |tenant: &Tenant| tenant.details.as_ref().map(|it| it.name.clone());
    let name = identity.look_tenant(invited.tenant, name).await?.flatten();
    let claims = system.directory::<Claim>();
    let claim = to.claim(identity.claim_key());
    let owner = claims.look(&claim, origin.clone(), Claim::confirmed).await?;
    let letter = Letter::Invitation {
        invitation: invited.id.0,
        tenant_name: name.unwrap_or_default(),
        role: invited.role.clone(),
    };
    let draft = Draft {
        id: invited.id.0,
        user: owner.map_or(UserId(invited.id.0), |(_, target)| target.user),
        home: invited.tenant,
        to,
        letter,
    };
    mail::send(system, draft, origin.clone()).await
}

async fn join(
    system: &System,
    invited: &Invited,
    user: UserId,
    origin: &Origin,
) -> Result<(), Refusal> {
    let identity = system.port::<Identity>();
    if let Inviter::Operator(by) = invited.inviter {
        identity.check_operator(by).await?;
    }
    let Invited { role, role_id, inviter, .. } = invited.clone();
    let admit = Admit { user, role, role_id, inviter };
    identity.change_members(invited.tenant, admit, origin.clone()).await
}

/// Invites an address. 409 `already_invited` while another invitation to the same tenant is open.
/// That the role may be given, and that the address is no member's, the caller has checked.
pub struct Invite {
    /// The invitation's id.
    pub id: InvitationId,
    /// To where.
    pub tenant: TenantId,
    /// Who; it is sealed here.
    pub email: EmailAddress,
    /// The keyed hash of the address, as its claim is named.
    pub email_tag: String,
    /// As what.
    pub role: String,
    /// The role's id, where it is one of the tenant's own.
    pub role_id: Option<RoleIdentifier>,
    /// By whom; `None` for a service that acts for nobody.
    pub invited_by: Option<UserId>,
    /// On whose word.
    pub inviter: Inviter,
}

impl Command for Invite {
    const NAME: &'static str = "invite";
}

impl Handle<Invite> for Invitation {
    type Reply = Invited;

    fn needs(command: &Invite) -> Vec<Need> {
        vec![Need::Row(INVITED_FAMILY, invited_key(command.tenant, &command.email_tag))]
    }

    fn handle(turn: &mut Turn<'_, Self>, command: Invite) -> Result<Invited, Refusal> {
        let Invite { id, tenant, email, email_tag, role, role_id, invited_by, inviter } = command;
        let key = invited_key(tenant, &email_tag);
        if turn.state().terms.is_some() || turn.found_row(INVITED_FAMILY, &key).is_some() {
            let message = "this address has an open invitation; take it back first";
            return Err(Refusal::conflict("already_invited", message));
        }
        let email = Personal::seal(turn.keys(), UserId(id.0), EMAIL_LABEL, email.as_str())?;
        let (created_at, expires_at) = (turn.now(), turn.now().plus_ms(LIFE_MS));
        let invited = Invited {
            id,
            tenant,
            email,
            email_tag,
            role,
            role_id,
            invited_by,
            inviter,
            created_at,
            expires_at,
        };
        turn.record(InvitationEvent::Invited(invited.clone()));
        turn.effect(InvitationEffect::Mail(Box::new(invited.clone())));
        Ok(invited)
    }
}

/// Notes that the mail is on its way.
struct NoteMailed {}

impl Command for NoteMailed {
    const NAME: &'static str = "note_mailed";
}

impl Handle<NoteMailed> for Invitation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: NoteMailed) -> Result<(), Refusal> {
        if turn.state().terms.is_some() && !turn.state().is_mailed {
            turn.record(InvitationEvent::Mailed(Mailed {}));
        }
        Ok(())
    }
}

/// Accepts it. 410 `invitation_used`, `invitation_revoked` or `invitation_expired`, 403
/// `other_address` for a user whom the address does not belong to.
pub struct Accept {
    /// Who.
    pub user: UserId,
    /// The keyed hash of the user's address.
    pub email_tag: String,
    /// Whether the same user may have accepted before: a request that is repeated by its key.
    pub may_repeat: bool,
}

impl Command for Accept {
    const NAME: &'static str = "accept";
}

impl Handle<Accept> for Invitation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Accept) -> Result<(), Refusal> {
        let Accept { user, email_tag, may_repeat } = command;
        let state = turn.state();
        if state.existing()?.email_tag != email_tag {
            let message = "this invitation is for another e-mail address";
            return Err(Refusal::new(Class::Forbidden, "other_address", message));
        }
        let by_user = match state.standing {
            Standing::Joining(by) | Standing::Ended(by, _) => Some(by),
            _ => None,
        };
        if may_repeat && by_user == Some(user) {
            return Ok(());
        }
        state.check_open(turn.now())?;
        turn.record(InvitationEvent::Accepted(Accepted { user }));
        let effects = turn.state().resume();
        effects.into_iter().for_each(|effect| turn.effect(effect));
        Ok(())
    }
}

/// Notes the tenant's answer.
struct NoteJoined(Joined);

impl Command for NoteJoined {
    const NAME: &'static str = "note_joined";
}

impl Handle<NoteJoined> for Invitation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, NoteJoined(joined): NoteJoined) -> Result<(), Refusal> {
        if matches!(turn.state().standing, Standing::Joining(_)) {
            turn.record(InvitationEvent::Joined(joined));
        }
        Ok(())
    }
}

/// Takes it back. 404 when there is none, 410 as for [`Accept`].
pub struct Revoke {}

impl Command for Revoke {
    const NAME: &'static str = "revoke";
}

impl Handle<Revoke> for Invitation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Revoke) -> Result<(), Refusal> {
        turn.state().check_open(turn.now())?;
        turn.record(InvitationEvent::Revoked(Revoked {}));
        Ok(())
    }
}

/// Answers that the tenant has taken the member in: what an answer that is recorded rides on.
pub struct Conclude;

impl Command for Conclude {
    const NAME: &'static str = "conclude";
}

impl Handle<Conclude> for Invitation {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        let over = matches!(turn.state().standing, Standing::Ended(_, None));
        over.then_some(()).ok_or_else(|| Refusal::conflict("pending", "it is not over yet"))
    }
}

impl Process for Invitation {
    type Outcome = Result<(), Refusal>;

    fn outcome(&self) -> Option<Self::Outcome> {
        match &self.standing {
            Standing::Ended(_, refusal) => Some(refusal.clone().map_or(Ok(()), Err)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
