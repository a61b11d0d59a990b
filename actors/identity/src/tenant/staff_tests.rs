//! Who may do what to whom: members, grants and roles of a tenant, command by command.

use supervision::testkit::{Given, Then};
use types::RoleIdentifier;

use super::fixtures::{ACME, ADA, BOB, terms};
use super::*;

const EVE: UserId = UserId(7);

fn scopes(list: &[&str]) -> Scopes {
    list.iter().copied().collect()
}

fn create(direct: bool) -> Create {
    let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
    let id = if direct { ADA.direct_tenant() } else { ACME };
    Create { id, name, owner: ADA, owner_role, direct }
}

/// A tenant whose owner knows.
fn acme() -> Given<Tenant> {
    told(Given::nothing().when(create(false)))
}

/// Notes that everybody has been told.
fn told<R>(then: Then<Tenant, R>) -> Given<Tenant> {
    let told = then.given.state().untold(None).into_iter().map(|untold| untold.told).collect();
    then.given.when(NoteTold { told }).then()
}

fn add(user: UserId, role: &str) -> AddMember {
    AddMember { user, role: role.to_owned(), rights: Scopes::all(), is_new: true }
}

fn change(user: UserId, role: &str) -> AddMember {
    AddMember { is_new: false, ..add(user, role) }
}

fn remove(user: UserId) -> RemoveMember {
    RemoveMember { user, rights: Scopes::all() }
}

fn role_of(given: &Given<Tenant>, user: UserId) -> Option<String> {
    given.state().membership(user).map(|it| it.role)
}

fn clerk(list: &[&str], rights: Scopes) -> CreateRole {
    CreateRole { name: "clerk".to_owned(), terms: terms(list), rights }
}

#[test]
fn each_change_of_a_member_is_told_until_it_is_known() {
    let then = Given::<Tenant>::nothing().when(create(false));
    assert_eq!(then.effects, [TenantEffect::TellMembers { tenant: ACME }]);
    let given = then.given;
    assert_eq!(given.state().untold(None)[0].told, Told { user: ADA, version: 1 });
    assert!(given.state().is_pending() && !given.state().resume().is_empty());
    let again = given.later_ms(5_000).when_due();
    assert_eq!((again.events.len(), again.effects.len()), (1, 1), "told again");
    let given = told(again);
    assert!(!given.state().is_pending() && given.state().next_deadline().is_none());

    let given = given.when(add(BOB, "viewer")).then().when(change(BOB, "admin")).then();
    let stale = NoteTold { told: vec![Told { user: BOB, version: 2 }] };
    let then = given.when(stale);
    assert!(then.events.is_empty(), "what is known is the change before");
    let untold = then.given.state().untold(None);
    assert_eq!(untold[0].told, Told { user: BOB, version: 3 });
    assert_eq!(untold[0].membership.as_ref().unwrap().role, "admin");
    let given = told(then).when(remove(BOB)).then();
    assert!(given.state().untold(None)[0].membership.is_none(), "who is gone is told so");
    // A direct user's own tenant is made together with the user.
    let then = Given::<Tenant>::nothing().when(create(true));
    assert!(then.effects.is_empty() && !then.given.state().is_pending());
}

#[test]
fn the_last_owner_stays_and_a_direct_user_always() {
    let (code, given) = acme().when(remove(ADA)).refused();
    assert_eq!(code, "last_owner");
    assert_eq!(given.when(change(ADA, "user")).refused().0, "last_owner");
    let given = acme().when(add(BOB, "owner")).then().when(remove(ADA)).then();
    assert_eq!(given.state().details.as_ref().unwrap().owner, BOB);
    assert_eq!(given.when(remove(BOB)).refused().0, "last_owner");
    let direct = Given::<Tenant>::nothing().when(create(true)).then();
    let (code, direct) = direct.when(add(BOB, "owner")).then().when(remove(ADA)).refused();
    assert_eq!(code, "own_tenant");
    assert_eq!(direct.when(change(ADA, "viewer")).refused().0, "own_tenant");
}

#[test]
fn nobody_gives_or_takes_beyond_their_own_rights() {
    let admin = role::built_in("admin", ACME).unwrap();
    let given = acme().when(add(BOB, "admin")).then();
    let by_admin = |command: AddMember| AddMember { rights: admin.clone(), ..command };
    for refused in [by_admin(add(EVE, "owner")), by_admin(change(ADA, "user"))] {
        let given = acme().when(add(BOB, "admin")).then();
        assert_eq!(given.when(refused).refused().0, "beyond_own_rights");
    }
    let (code, given) = given.when(RemoveMember { user: ADA, rights: admin.clone() }).refused();
    assert_eq!(code, "beyond_own_rights");
    let given = given.when(by_admin(add(EVE, "user"))).then();
    assert_eq!(role_of(&given, EVE).as_deref(), Some("user"));
    let grant = |list: &[&str]| SetGrants {
        user: EVE,
        change: GrantChange::Add(scopes(list)),
        rights: admin.clone(),
    };
    let (code, given) = given.when(grant(&["tenants:delete"])).refused();
    assert_eq!(code, "beyond_own_rights");
    let (code, given) = given.when(clerk(&["wallet:read", "*"], admin.clone())).refused();
    assert_eq!(code, "beyond_own_rights");
    let (role, given) = given.when(clerk(&["*"], Scopes::all())).reply();
    let narrow = RoleChange { scopes: Some(scopes(&[])), ..RoleChange::default() };
    let update = UpdateRole { id: role.id, change: narrow, cascade: false, rights: admin.clone() };
    assert_eq!(given.when(update).refused().0, "beyond_own_rights");
}

#[test]
fn members_are_added_once_and_have_a_role_that_there_is() {
    let (code, given) = acme().when(add(BOB, "pilot")).refused();
    assert_eq!(code, "validation_error");
    assert_eq!(given.when(change(BOB, "user")).refused().0, "not_found");
    let then = acme().when(add(BOB, "user")).then().when(add(BOB, "admin"));
    assert!(then.events.is_empty(), "who belongs already stays as they are");
    let then = then.given.when(change(BOB, "user"));
    assert!(then.events.is_empty());
    assert_eq!(then.given.when(add(EVE, "operator")).refused().0, "validation_error");
    let off = acme().when(SetActive { active: false }).then();
    assert_eq!(off.when(add(BOB, "user")).refused().0, "tenant_inactive");
}

#[test]
fn grants_add_to_the_role_and_go_with_the_member() {
    let grants = |change| SetGrants { user: BOB, change, rights: Scopes::all() };
    let given = acme().when(add(BOB, "viewer")).then();
    let add_two = GrantChange::Add(scopes(&["wallet:spend", "wallet:read"]));
    let (all, given) = given.when(grants(add_two.clone())).reply();
    assert_eq!(all, scopes(&["wallet:spend", "wallet:read"]));
    let then = given.when(grants(add_two));
    assert!(then.events.is_empty(), "they are granted once");
    let membership = then.given.state().membership(BOB).unwrap();
    let covered = membership.scopes.as_slice();
    assert_eq!(covered.iter().filter(|scope| *scope == "wallet:read").count(), 1);
    assert!(membership.scopes.covers("wallet:spend"));
    let take = GrantChange::Take(scopes(&["wallet:spend", "notes:read"]));
    let (left, given) = then.given.when(grants(take)).reply();
    assert_eq!(left, scopes(&["wallet:read"]));
    let unknown = GrantChange::Set(scopes(&["moon:walk"]));
    let (code, given) = given.when(grants(unknown)).refused();
    assert_eq!(code, "validation_error");
    let given = given.when(remove(BOB)).then().when(add(BOB, "viewer")).then();
    assert!(given.state().staff.grants.is_empty());
    let nobody = SetGrants { user: EVE, ..grants(GrantChange::Set(Scopes::default())) };
    assert_eq!(given.when(nobody).refused().0, "not_found");
}

#[test]
fn a_role_is_made_once_changes_with_or_without_its_members_and_goes_when_nobody_has_it() {
    let (role, given) = acme().when(clerk(&["wallet:read"], Scopes::all())).reply();
    let (code, given) = given.when(clerk(&[], Scopes::all())).refused();
    assert_eq!(code, "role_exists");
    let taken = CreateRole { name: "viewer".to_owned(), ..clerk(&[], Scopes::all()) };
    let (code, given) = given.when(taken).refused();
    assert_eq!(code, "role_exists");
    let given = told(given.when(add(BOB, "clerk")));
    let wider = |cascade| {
        let change = RoleChange { scopes: Some(scopes(&["wallet:*"])), ..RoleChange::default() };
        UpdateRole { id: role.id, change, cascade, rights: Scopes::all() }
    };
    let (changed, given) = given.when(wider(false)).reply();
    assert_eq!((changed.cascaded_count, given.state().is_pending()), (0, false));
    assert_eq!(changed.role.terms.display_name, "Clerk", "what is not named stays");
    let then = given.when(wider(true));
    assert_eq!(then.events.len(), 1, "the role is the same; only its members change");
    let changed = then.outcome.as_ref().unwrap().cascaded_count;
    assert_eq!((changed, then.given.state().untold(None)[0].told.user), (1, BOB));
    let end = || RemoveRole { id: role.id, rights: Scopes::all() };
    let (code, given) = told(then).when(end()).refused();
    assert_eq!(code, "role_in_use");
    let given = given.when(remove(BOB)).then().when(end()).then();
    assert!(given.state().role(role.id).is_none());
    assert_eq!(given.when(end()).refused().0, "not_found");
    let nobodys = UpdateRole { id: RoleIdentifier(99), ..wider(false) };
    assert_eq!(acme().when(nobodys).refused().0, "not_found");
}

#[test]
fn roles_are_bounded() {
    let mut given = acme();
    for number in 0..ROLES_MAX {
        let create = CreateRole { name: format!("r{number}"), ..clerk(&[], Scopes::all()) };
        given = given.when(create).then();
    }
    assert_eq!(given.when(clerk(&[], Scopes::all())).refused().0, "too_many_roles");
}
