//! A tenant: whose chain, key, wallet and apps; who belongs to it, as what.
//!
//! The tenant decides who its members are, what roles it has and who has which. Each change of a
//! member has a number, and the member's [`crate::user`] is told of it under that number, so that
//! what is told late or twice changes nothing ([`crate::membership`]).
//!
//! Invariants
//! - There is an owner, and the owner that [`Details::owner`] names is a member. A direct tenant's
//!   user is and stays its owner.
//! - Switching a tenant off raises its epoch: every token for it is refused from then on.
//! - A member whose user has not been told of a change is in [`Staff::untold`] until it has.
//! - Nobody makes or gives a role, or changes a member, beyond their own rights.
//! - A member who is switched off is none for everybody but those who can switch them on again.
//!
//! Deliberate limits
//! - At most [`MEMBERS_MAX`] members and [`ROLES_MAX`] roles, all in one state.
//! - A role that changes counts for its members from their next change on, or when it is cascaded.

mod allowance;
mod arrival;
mod change;
#[cfg(test)]
mod fixtures;
mod joining;
mod leaving;
mod members;
mod roles;
mod scopes;
mod staff;

pub use arrival::Arrive;
pub use change::{ChangeMember, MEMBER_ATTRIBUTES_BYTES_MAX, MemberChange};
pub(crate) use joining::void;
pub use joining::{Admit, Inviter};
pub use leaving::{Depart, Departure, Dissolve};
pub use members::{AddMember, GrantChange, MembersTold, RemoveMember, SetGrants, Told, is_member};
pub(crate) use members::{NoteTold, Untold};
pub use roles::{CascadedRole, CreateRole, RemoveRole, RoleChange, UpdateRole};
pub use scopes::{
    CreateScope, OWN_SCOPES_MAX, OwnScope, RemoveScope, ScopeRemoved, ScopeSet, UpdateScope,
};
pub use staff::{MemberTerms, Staff};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, EffectContext, Entity, Handle, Refusal, Retried, Retry, Retrying, Timestamp,
    Turn,
};
use types::{JsonBytes, Personal, Scopes, TenantId, UserId, home_of, owner_of_tenant};

pub use crate::role::OWNER_ROLE;
use crate::role::{self, Role};
use crate::service::Identity;
use crate::token_cache::{Epochs, OwnerClass, OwnerKey};
use crate::unix_ms;

/// How many members a tenant may have.
pub const MEMBERS_MAX: usize = 10_000;
/// How many roles of its own a tenant may have.
pub const ROLES_MAX: usize = 100;
/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// The longest settings, in bytes of their JSON text.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;
/// What [`MemberAttributesSet::attributes`] is sealed as.
pub const ATTRIBUTES_LABEL: &str = "member.attributes";

/// What is known of a tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Details {
    /// The id.
    pub id: TenantId,
    /// The name.
    pub name: String,
    /// Who owns it.
    pub owner: UserId,
    /// Whether it is the tenant of one user who signed up directly.
    pub direct: bool,
    /// Whether anybody may do anything in it.
    pub active: bool,
    /// Who belongs, with the role.
    pub members: BTreeMap<UserId, String>,
    /// Settings that its APIs keep, a JSON object.
    pub settings: JsonBytes,
    /// Since when.
    pub created_at: Timestamp,
    /// The last change of anything here.
    pub updated_at: Timestamp,
}

/// A tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tenant {
    /// What is known; `None` until created.
    pub details: Option<Details>,
    /// The epoch of the tokens for it.
    pub epoch: u64,
    /// Its own roles, and what its members are beyond their roles.
    pub staff: Staff,
}

impl Tenant {
    /// Where a tenant lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        crate::address(&tenant.to_string(), owner_of_tenant(tenant), home_of(tenant))
    }

    /// Whether it exists and is on.
    pub fn is_active(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details.active)
    }

    fn existing(&self) -> Result<&Details, Refusal> {
        self.details.as_ref().ok_or_else(|| Refusal::not_found("tenant"))
    }
}

/// The tenant was created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Created {
    /// The id.
    pub id: TenantId,
    /// The name.
    pub name: String,
    /// Who owns it.
    pub owner: UserId,
    /// The owner's role in it.
    pub owner_role: String,
    /// Whether it is the tenant of one user who signed up directly.
    pub direct: bool,
}

/// Another name, other settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Updated {
    /// The name.
    pub name: String,
    /// The settings, all of them.
    pub settings: JsonBytes,
}

/// Somebody belongs, or has another role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberSet {
    /// Who.
    pub user: UserId,
    /// The role.
    pub role: String,
}

/// Somebody belongs no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberRemoved {
    /// Who.
    pub user: UserId,
}

/// A member was switched off or on again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberActiveSet {
    /// Who.
    pub user: UserId,
    /// Whether they may do anything here.
    pub active: bool,
}

/// What this tenant keeps of a member, and no other sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberAttributesSet {
    /// Who.
    pub user: UserId,
    /// A JSON object, sealed as [`ATTRIBUTES_LABEL`].
    pub attributes: Personal,
}

/// The tenant was switched off or on again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSet {
    /// Whether anybody may do anything in it.
    pub active: bool,
}

/// A member was granted these scopes, and no others, beside the role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantsSet {
    /// Who.
    pub user: UserId,
    /// All of them.
    pub scopes: Scopes,
}

/// A role of the tenant's own is new, or is another now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleSet {
    /// The role.
    pub role: Role,
}

/// A role of the tenant's own is no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleRemoved {
    /// Its name.
    pub name: String,
}

/// A role counts for all who have it as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleCascaded {
    /// Its name.
    pub name: String,
}

/// Every token for the tenant was revoked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokensRevoked {}

supervision::events! {
    /// What happens to a tenant.
    pub enum TenantEvent {
        /// Created.
        Created(Created) = "created", 1;
        /// Another name, other settings.
        Updated(Updated) = "updated", 1;
        /// A member, or another role.
        MemberSet(MemberSet) = "member_set", 1;
        /// A member less.
        MemberRemoved(MemberRemoved) = "member_removed", 1;
        /// Off or on.
        ActiveSet(ActiveSet) = "active_set", 1;
        /// Tokens revoked.
        TokensRevoked(TokensRevoked) = "tokens_revoked", 1;
        /// A member's grants.
        GrantsSet(GrantsSet) = "grants_set", 1;
        /// A role, new or changed.
        RoleSet(RoleSet) = "role_set", 1;
        /// A role less.
        RoleRemoved(RoleRemoved) = "role_removed", 1;
        /// A changed role counts at once.
        RoleCascaded(RoleCascaded) = "role_cascaded", 1;
        /// Users know what they are here.
        MembersTold(MembersTold) = "members_told", 1;
        /// Users that do not are told again.
        TellingRetried(Retried) = "telling_retried", 1;
        /// A member off or on.
        MemberActiveSet(MemberActiveSet) = "member_active_set", 1;
        /// What is kept of a member.
        MemberAttributesSet(MemberAttributesSet) = "member_attributes_set", 1;
        /// A scope of its own, new or told otherwise.
        ScopeSet(ScopeSet) = "scope_set", 1;
        /// A scope of its own less.
        ScopeRemoved(ScopeRemoved) = "scope_removed", 1;
    }
}

/// What a tenant asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantEffect {
    /// The tokens before this epoch are refused from now on.
    RaiseEpoch {
        /// Whose.
        tenant: TenantId,
        /// The new epoch.
        epoch: u64,
    },
    /// Those of its members who have not been told are told what they are.
    TellMembers {
        /// Whose.
        tenant: TenantId,
    },
}

impl Retrying for Tenant {
    fn retry(&self) -> &Retry {
        &self.staff.retry
    }

    fn retried() -> TenantEvent {
        TenantEvent::TellingRetried(Retried {})
    }
}

impl Entity for Tenant {
    const KIND: &'static str = "tenant";
    const PUBLISHED: bool = true;
    const SNAPSHOT_VERSION: u16 = 4;
    type Event = TenantEvent;
    type Effect = TenantEffect;

    fn apply(&mut self, event: &TenantEvent, at: Timestamp) {
        if let TenantEvent::Created(created) = event {
            self.details = Some(new_details(created, at));
        }
        self.staff.apply(self.details.as_ref(), event, at);
        let Some(details) = &mut self.details else { return };
        if !matches!(event, TenantEvent::MembersTold(_) | TenantEvent::TellingRetried(_)) {
            details.updated_at = at;
        }
        match event {
            TenantEvent::Created(_)
            | TenantEvent::GrantsSet(_)
            | TenantEvent::RoleSet(_)
            | TenantEvent::RoleRemoved(_)
            | TenantEvent::RoleCascaded(_)
            | TenantEvent::MembersTold(_)
            | TenantEvent::TellingRetried(_)
            | TenantEvent::MemberActiveSet(_)
            | TenantEvent::MemberAttributesSet(_)
            | TenantEvent::ScopeSet(_)
            | TenantEvent::ScopeRemoved(_) => {}
            TenantEvent::Updated(it) => {
                details.name.clone_from(&it.name);
                details.settings = it.settings.clone();
            }
            TenantEvent::MemberSet(it) => {
                details.members.insert(it.user, it.role.clone());
            }
            TenantEvent::MemberRemoved(it) => {
                details.members.remove(&it.user);
                let mut others = details.members.iter();
                if details.owner == it.user
                    && let Some((next, _)) = others.find(|(_, role)| role::is_owner(role))
                {
                    details.owner = *next;
                }
            }
            TenantEvent::ActiveSet(it) => {
                details.active = it.active;
                self.epoch += 1;
            }
            TenantEvent::TokensRevoked(_) => self.epoch += 1,
        }
    }

    fn is_pending(&self) -> bool {
        !self.staff.untold.is_empty()
    }

    fn resume(&self) -> Vec<TenantEffect> {
        let pending = self.details.iter().filter(|_| self.is_pending());
        pending.map(|details| TenantEffect::TellMembers { tenant: details.id }).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.retry_at()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        Self::try_again(turn);
    }

    async fn perform(effect: TenantEffect, context: EffectContext<Self>) {
        match effect {
            TenantEffect::RaiseEpoch { tenant, epoch } => {
                let owner = OwnerKey { class: OwnerClass::Tenant, id: tenant.0 };
                let now = unix_ms(context.system.clock().now());
                context.system.port::<Epochs>().raise(owner, epoch, now);
            }
            TenantEffect::TellMembers { tenant } => {
                let identity = context.system.port::<Identity>();
                if let Err(refusal) = identity.tell_members(tenant, context.origin).await {
                    tracing::debug!(%tenant, %refusal, "members are told later");
                }
            }
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(details) = &self.details else { return json!({"exists": false}) };
        json!({
            "id": details.id, "owner": details.owner, "direct": details.direct,
            "active": details.active, "members": details.members.len(),
            "created_at": types::rfc3339(details.created_at),
            "updated_at": types::rfc3339(details.updated_at), "epoch": self.epoch,
            "roles": self.staff.roles.len(), "untold": self.staff.untold.len(),
        })
    }
}

fn new_details(created: &Created, at: Timestamp) -> Details {
    Details {
        id: created.id,
        name: created.name.clone(),
        owner: created.owner,
        direct: created.direct,
        active: true,
        members: BTreeMap::from([(created.owner, created.owner_role.clone())]),
        settings: json!({}).into(),
        created_at: at,
        updated_at: at,
    }
}

/// Records an event that raises the epoch, and asks for that to be told. Answers the epoch.
fn record_revoking(turn: &mut Turn<'_, Tenant>, tenant: TenantId, event: TenantEvent) -> u64 {
    turn.record(event);
    let epoch = turn.state().epoch;
    turn.effect(TenantEffect::RaiseEpoch { tenant, epoch });
    epoch
}

/// Records a change of members, and asks for them to be told.
fn record_telling(turn: &mut Turn<'_, Tenant>, tenant: TenantId, event: TenantEvent) {
    turn.record(event);
    turn.effect(TenantEffect::TellMembers { tenant });
}

/// 422 unless a tenant may be called so and have these settings.
pub(crate) fn check_new(name: &str, settings: &JsonBytes) -> Result<(), Refusal> {
    check_name(name)?;
    check_settings(settings)
}

/// Settings with the members of others in place of their own.
pub(crate) fn with(settings: &JsonBytes, changed: &JsonBytes) -> JsonBytes {
    let mut merged = settings.value();
    if let (Some(merged), Some(changed)) = (merged.as_object_mut(), changed.value().as_object()) {
        merged.extend(changed.clone());
    }
    merged.into()
}

fn check_settings(settings: &JsonBytes) -> Result<(), Refusal> {
    let fits = settings.as_str().len() <= SETTINGS_BYTES_MAX;
    let message = format!("settings have more than {SETTINGS_BYTES_MAX} bytes");
    fits.then_some(()).ok_or_else(|| Refusal::invalid("features", message))
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let fits =
        !name.trim().is_empty() && name.chars().take(NAME_CHARS_MAX + 1).count() <= NAME_CHARS_MAX;
    let message = format!("a name has 1 to {NAME_CHARS_MAX} characters");
    fits.then_some(()).ok_or_else(|| Refusal::invalid("name", message))
}

/// Creates the tenant with its owner as a member. A repetition with the same id and owner is no
/// change; with another owner it is refused with `already_exists`.
pub struct Create {
    /// The id.
    pub id: TenantId,
    /// The name.
    pub name: String,
    /// Who owns it.
    pub owner: UserId,
    /// The owner's role in it, mostly [`OWNER_ROLE`].
    pub owner_role: String,
    /// Whether it is the tenant of one user who signed up directly.
    pub direct: bool,
}

impl Command for Create {
    const NAME: &'static str = "create";
}

impl Handle<Create> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Create) -> Result<(), Refusal> {
        if let Some(details) = &turn.state().details {
            let message = "there is a tenant with this id already";
            let is_same = details.owner == command.owner;
            return is_same
                .then_some(())
                .ok_or_else(|| Refusal::conflict("already_exists", message));
        }
        let Create { id, name, owner, owner_role, direct } = command;
        check_name(&name)?;
        let role = owner_role.clone();
        turn.record(TenantEvent::Created(Created { id, name, owner, owner_role, direct }));
        // Whoever signs up, and the first operator, is made with this membership.
        if !direct && id != TenantId::SYSTEM {
            record_telling(turn, id, TenantEvent::MemberSet(MemberSet { user: owner, role }));
        }
        Ok(())
    }
}

/// Sets the name, the settings, or both.
pub struct Update {
    /// The new name; `None` leaves it.
    pub name: Option<String>,
    /// Settings that take the place of those of the same names, a JSON object.
    pub settings: Option<JsonBytes>,
}

impl Command for Update {
    const NAME: &'static str = "update";
}

impl Handle<Update> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Update) -> Result<(), Refusal> {
        let details = turn.state().existing()?;
        let name = command.name.unwrap_or_else(|| details.name.clone());
        let changed = command.settings.map(|changed| with(&details.settings, &changed));
        let settings = changed.unwrap_or_else(|| details.settings.clone());
        check_name(&name)?;
        check_settings(&settings)?;
        if name != details.name || settings != details.settings {
            turn.record(TenantEvent::Updated(Updated { name, settings }));
        }
        Ok(())
    }
}

/// Switches the tenant off, which ends every token for it, or on again. Answers the epoch.
pub struct SetActive {
    /// Whether anybody may do anything in it.
    pub active: bool,
}

impl Command for SetActive {
    const NAME: &'static str = "set_active";
    const ESSENTIAL: bool = true;
}

impl Handle<SetActive> for Tenant {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: SetActive) -> Result<u64, Refusal> {
        let active = command.active;
        let details = turn.state().existing()?;
        if details.active == active {
            return Ok(turn.state().epoch);
        }
        let id = details.id;
        Ok(record_revoking(turn, id, TenantEvent::ActiveSet(ActiveSet { active })))
    }
}

/// Ends every token for the tenant; sessions go on with new ones. Answers the new epoch.
pub struct BumpEpoch {}

impl Command for BumpEpoch {
    const NAME: &'static str = "bump_epoch";
    const ESSENTIAL: bool = true;
}

impl Handle<BumpEpoch> for Tenant {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, _: BumpEpoch) -> Result<u64, Refusal> {
        let id = turn.state().existing()?.id;
        Ok(record_revoking(turn, id, TenantEvent::TokensRevoked(TokensRevoked {})))
    }
}

#[cfg(test)]
#[path = "tenant/staff_tests.rs"]
mod staff_tests;

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    const ACME: TenantId = TenantId(5);
    const ADA: UserId = UserId(5);
    const BOB: UserId = UserId(6);

    fn create(owner: UserId) -> Create {
        let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
        Create { id: ACME, name, owner, owner_role, direct: true }
    }

    fn acme() -> Given<Tenant> {
        Given::nothing().when(create(ADA)).then()
    }

    #[test]
    fn creation_is_repeatable_by_its_id_and_owner() {
        let given = acme();
        assert!(given.state().is_active());
        let then = given.when(create(ADA));
        assert_eq!((then.outcome.is_ok(), then.events.len()), (true, 0));
        assert_eq!(then.given.when(create(BOB)).refused().0, "already_exists");
        let nameless = Create { name: " ".to_owned(), ..create(ADA) };
        assert_eq!(Given::<Tenant>::nothing().when(nameless).refused().0, "validation_error");
    }

    #[test]
    fn switching_off_and_revoking_raise_the_epoch_and_tell_the_map() {
        let raised = |epoch| vec![TenantEffect::RaiseEpoch { tenant: ACME, epoch }];
        let then = acme().when(SetActive { active: false });
        assert_eq!((then.effects.clone(), then.given.state().is_active()), (raised(1), false));
        let then = then.given.when(SetActive { active: false });
        assert!(then.events.is_empty() && then.effects.is_empty());
        let given = then.given.when(SetActive { active: true }).then();
        assert!(given.state().is_active());
        let then = given.when(BumpEpoch {});
        assert_eq!((then.outcome, then.effects), (Ok(3), raised(3)));
        assert_eq!(Given::<Tenant>::nothing().when(BumpEpoch {}).refused().0, "not_found");
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let settings = JsonBytes::from(json!({"features": {"beta": true}}));
        let given = acme().later_ms(5);
        let update = Update { name: None, settings: Some(settings.clone()) };
        let given = given.when(update).then();
        let details = given.state().details.clone().unwrap();
        assert_eq!((details.name.as_str(), &details.settings), ("Acme", &settings));
        assert_eq!(details.updated_at, details.created_at.plus_ms(5));
        let then = given.when(Update { name: Some("Acme".to_owned()), settings: None });
        assert!(then.events.is_empty());
        let long = Update { name: Some("a".repeat(NAME_CHARS_MAX + 1)), settings: None };
        assert_eq!(then.given.when(long).refused().0, "validation_error");
    }
}
