//! A tenant: whose chain, key, wallet and apps; and who belongs to it.
//!
//! Invariants
//! - The owner is a member.
//! - Switching a tenant off raises its epoch: every token for it is refused from then on.
//!
//! Deliberate limits
//! - What a member may do is in the member's own [`crate::user`]; this is the list of who belongs.
//! - At most [`MEMBERS_MAX`] members, all in one state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, EffectContext, Entity, Handle, Refusal, Timestamp, Turn};
use types::{JsonBytes, TenantId, UserId, home_of, owner_of_tenant};

use crate::token_cache::{Epochs, OwnerClass, OwnerKey};
use crate::unix_ms;

/// How many members a tenant may have.
pub const MEMBERS_MAX: usize = 10_000;
/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// The role of whoever owns a tenant.
pub const OWNER_ROLE: &str = "owner";

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

/// The tenant was switched off or on again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSet {
    /// Whether anybody may do anything in it.
    pub active: bool,
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
}

impl Entity for Tenant {
    const KIND: &'static str = "tenant";
    const PUBLISHED: bool = true;
    type Event = TenantEvent;
    type Effect = TenantEffect;

    fn apply(&mut self, event: &TenantEvent, at: Timestamp) {
        if let TenantEvent::Created(created) = event {
            self.details = Some(new_details(created, at));
        }
        let Some(details) = &mut self.details else { return };
        details.updated_at = at;
        match event {
            TenantEvent::Created(_) => {}
            TenantEvent::Updated(it) => {
                details.name.clone_from(&it.name);
                details.settings = it.settings.clone();
            }
            TenantEvent::MemberSet(it) => {
                details.members.insert(it.user, it.role.clone());
            }
            TenantEvent::MemberRemoved(it) => {
                details.members.remove(&it.user);
            }
            TenantEvent::ActiveSet(it) => {
                details.active = it.active;
                self.epoch += 1;
            }
            TenantEvent::TokensRevoked(_) => self.epoch += 1,
        }
    }

    async fn perform(effect: TenantEffect, context: EffectContext<Self>) {
        let TenantEffect::RaiseEpoch { tenant, epoch } = effect;
        let owner = OwnerKey { class: OwnerClass::Tenant, id: tenant.0 };
        let now = unix_ms(context.system.clock().now());
        context.system.port::<Epochs>().raise(owner, epoch, now);
    }

    fn observe(&self) -> serde_json::Value {
        let Some(details) = &self.details else { return json!({"exists": false}) };
        json!({
            "id": details.id, "owner": details.owner, "direct": details.direct,
            "active": details.active, "members": details.members.len(),
            "created_at": types::rfc3339(details.created_at),
            "updated_at": types::rfc3339(details.updated_at), "epoch": self.epoch,
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
        turn.record(TenantEvent::Created(Created { id, name, owner, owner_role, direct }));
        Ok(())
    }
}

/// Sets the name, the settings, or both.
pub struct Update {
    /// The new name; `None` leaves it.
    pub name: Option<String>,
    /// The new settings, all of them; `None` leaves them.
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
        let settings = command.settings.unwrap_or_else(|| details.settings.clone());
        check_name(&name)?;
        if name != details.name || settings != details.settings {
            turn.record(TenantEvent::Updated(Updated { name, settings }));
        }
        Ok(())
    }
}

/// Makes somebody a member, or gives a member another role.
pub struct AddMember {
    /// Who.
    pub user: UserId,
    /// The role.
    pub role: String,
}

impl Command for AddMember {
    const NAME: &'static str = "add_member";
}

impl Handle<AddMember> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: AddMember) -> Result<(), Refusal> {
        let AddMember { user, role } = command;
        let members = &turn.state().existing()?.members;
        match members.get(&user) {
            Some(known) if *known == role => return Ok(()),
            None if members.len() >= MEMBERS_MAX => {
                let message = format!("a tenant has at most {MEMBERS_MAX} members");
                return Err(Refusal::conflict("too_many_members", message));
            }
            _ => {}
        }
        turn.record(TenantEvent::MemberSet(MemberSet { user, role }));
        Ok(())
    }
}

/// Takes a member off the list. The owner stays: refused with `owner_stays`.
pub struct RemoveMember {
    /// Who.
    pub user: UserId,
}

impl Command for RemoveMember {
    const NAME: &'static str = "remove_member";
    const ESSENTIAL: bool = true;
}

impl Handle<RemoveMember> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: RemoveMember) -> Result<(), Refusal> {
        let user = command.user;
        let details = turn.state().existing()?;
        if details.owner == user {
            return Err(Refusal::conflict("owner_stays", "the owner belongs to the tenant"));
        }
        if details.members.contains_key(&user) {
            turn.record(TenantEvent::MemberRemoved(MemberRemoved { user }));
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

    fn members(given: &Given<Tenant>) -> Vec<(UserId, String)> {
        given.state().details.as_ref().unwrap().members.clone().into_iter().collect()
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
    fn members_come_change_and_go_but_the_owner_stays() {
        let add = |role: &str| AddMember { user: BOB, role: role.to_owned() };
        let given = acme().when(add("guest")).then().when(add("admin")).then();
        let expected = [(ADA, "owner".to_owned()), (BOB, "admin".to_owned())];
        assert_eq!(members(&given), expected);
        let then = given.when(add("admin"));
        assert!(then.events.is_empty());
        let (code, given) = then.given.when(RemoveMember { user: ADA }).refused();
        assert_eq!(code, "owner_stays");
        let given = given.when(RemoveMember { user: BOB }).then();
        assert_eq!(members(&given), expected[..1]);
        assert!(given.when(RemoveMember { user: BOB }).events.is_empty());
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
