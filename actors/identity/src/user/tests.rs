//! What happens to a user, command by command.

use supervision::testkit::Given;

use super::*;

const ADA: UserId = UserId(7);
const HOME: TenantId = TenantId(7);
const OTHER: TenantId = TenantId(8);

fn membership(role: &str) -> Membership {
    Membership { role: role.to_owned(), scopes: Scopes::all() }
}

fn hear(tenant: TenantId, role: Option<&str>, version: u64) -> HearMembership {
    HearMembership { tenant, membership: role.map(membership), since: 0, version }
}

fn hash(text: &str) -> PasswordHash {
    text.to_owned().into()
}

fn create(email: &str) -> Create {
    Create {
        id: ADA,
        home: HOME,
        membership: membership("owner"),
        email: email.to_owned(),
        name: Some("Ada".to_owned()),
        password: Some(hash("first")),
        auth_method: AuthMethod::Password,
        email_verified: false,
        attributes: JsonBytes::default(),
    }
}

fn ada() -> Given<User> {
    Given::nothing().when(create("ada@example.test")).then()
}

fn epochs(given: &Given<User>) -> (u64, u64) {
    (given.state().epoch, given.state().sessions_from)
}

#[test]
fn creation_is_repeatable_by_its_id_and_shows_nothing_personal() {
    let then = Given::<User>::nothing().when(create("ada@example.test"));
    let shown = format!("{:?} {:?} {}", then.events, then.given.state(), "");
    let observed = then.given.state().observe().to_string();
    assert!(!shown.contains("ada@") && !shown.contains("first") && !observed.contains("Ada"));
    let then = then.given.when(create("ada@example.test"));
    assert_eq!((then.outcome.is_ok(), then.events.len()), (true, 0));
    let (code, given) = then.given.when(create("eve@example.test")).refused();
    assert_eq!(code, "already_exists");
    let attributes = &given.state().profile.as_ref().unwrap().attributes;
    assert_eq!(attributes.as_str(), "{}");
    let account = given.state().account(None).unwrap();
    let opened = account.email.open(given.keys(), EMAIL_LABEL);
    assert_eq!(opened.as_deref(), Some("ada@example.test"));
    assert_eq!(account.membership, Some((HOME, membership("owner"))));
    assert!(given.state().account(Some(OTHER)).unwrap().membership.is_none());
}

#[test]
fn nobody_is_changed_who_does_not_exist() {
    let given = Given::<User>::nothing;
    assert_eq!(given().when(BumpEpoch {}).refused().0, "not_found");
    assert_eq!(given().when(SetActive { active: false }).refused().0, "not_found");
    assert_eq!(given().when(hear(HOME, None, 1)).refused().0, "not_found");
    assert!(given().state().account(None).is_none());
}

#[test]
fn what_makes_tokens_wrong_raises_the_epoch_and_tells_the_map() {
    let given = ada();
    assert_eq!(epochs(&given), (0, 0));
    let raised = |epoch| vec![UserEffect::RaiseEpoch { user: ADA, epoch }];
    let then = given.when(BumpEpoch {});
    assert_eq!((then.effects.clone(), epochs(&then.given)), (raised(1), (1, 1)));
    let then = then.given.when(VerifyEmail {});
    assert!(then.effects.is_empty(), "it makes no token wrong");
    let then = then.given.when(BumpEpoch {});
    assert_eq!((then.effects.clone(), epochs(&then.given)), (raised(2), (2, 2)));
    let then = then.given.when(SetActive { active: false });
    assert_eq!((then.effects.clone(), epochs(&then.given)), (raised(3), (3, 3)));
    assert!(!then.given.state().account(None).unwrap().active);
    let then = then.given.when(SetActive { active: false });
    assert!(then.events.is_empty());
    let then = then.given.when(BumpEpoch {});
    assert_eq!((then.effects.clone(), epochs(&then.given)), (raised(4), (4, 4)));
}

#[test]
fn of_what_a_tenant_tells_the_latest_counts() {
    let role = |given: &Given<User>| {
        let account = given.state().account(Some(OTHER)).unwrap();
        (account.membership.map(|(_, it)| it.role), account.membership_epoch)
    };
    let given = ada().when(hear(OTHER, Some("guest"), 3)).then();
    assert_eq!(role(&given), (Some("guest".to_owned()), 3));
    let then = given.when(hear(OTHER, Some("admin"), 2));
    assert!(then.events.is_empty(), "that is old news");
    let then = then.given.when(hear(OTHER, Some("guest"), 3));
    assert!(then.events.is_empty(), "that was told before");
    let given = then.given.when(hear(OTHER, None, 5)).then();
    assert_eq!(role(&given), (None, 0));
    let then = given.when(hear(OTHER, Some("guest"), 4));
    assert!(then.events.is_empty(), "nobody comes back by a message that was late");
    assert_eq!(epochs(&then.given), (0, 0), "other tenants' tokens stay good");
    let given = then.given.when(hear(HOME, None, 1)).then();
    assert!(given.state().account(None).unwrap().membership.is_none());
}

#[test]
fn what_was_made_before_leaving_or_before_the_address_was_shown_is_over() {
    let made = |given: &Given<User>| given.state().account(Some(OTHER)).unwrap().made_under();
    let from = |given: &Given<User>| given.state().account(Some(OTHER)).unwrap().keys_from;
    let given = ada().when(hear(OTHER, Some("guest"), 3)).then();
    let first = made(&given);
    let given = given.when(hear(OTHER, Some("admin"), 4)).then();
    assert!(first.counts(from(&given)), "another role ends nothing");
    let (has_left, given) = given.when(hear(OTHER, None, 5)).reply();
    assert!(has_left && !first.counts(from(&given)));
    let back = HearMembership { since: 6, ..hear(OTHER, Some("guest"), 6) };
    let (has_left, given) = given.when(back).reply();
    assert!(!has_left && !first.counts(from(&given)), "coming back revives nothing");
    let second = made(&given);
    assert!(second.counts(from(&given)));
    // Removed and taken in again before the user could be told of either.
    let late = || HearMembership { since: 8, ..hear(OTHER, Some("guest"), 9) };
    let (came_back, given) = given.when(late()).reply();
    assert!(came_back && !second.counts(from(&given)));
    let then = given.when(late());
    assert!(then.events.is_empty());
    let (again, given) = then.reply();
    assert!(again, "who tells it twice learns the same");
    let third = made(&given);
    assert!(third.counts(from(&given)));

    let reset = |given: &Given<User>| ResetPassword {
        password: hash("mine"),
        sessions_from: given.state().sessions_from,
    };
    let command = reset(&given);
    let given = given.when(command).then();
    assert!(given.state().profile.as_ref().unwrap().email_verified);
    assert!(!third.counts(from(&given)), "it may have been made by somebody else");
    let fourth = made(&given);
    let command = ResetPassword { password: hash("lost"), ..reset(&given) };
    let given = given.when(command).then();
    assert!(fourth.counts(from(&given)), "whose address is known keeps the keys");
}

#[test]
fn a_password_changes_only_from_the_one_that_was_compared() {
    let change =
        |from: &str, to: &str| ChangePassword { password: hash(to), replaces: Some(hash(from)) };
    let (epoch, given) = ada().when(change("first", "second")).reply();
    assert_eq!((epoch, epochs(&given)), (1, (1, 1)));
    let (code, given) = given.when(change("first", "third")).refused();
    assert_eq!(code, "password_changed");
    let renew = RenewHash { replaces: hash("second"), password: hash("same, stronger") };
    let given = given.when(renew).then();
    assert_eq!(epochs(&given), (1, 1));
    let reset = ChangePassword { password: hash("reset"), replaces: None };
    let (epoch, given) = given.when(reset).reply();
    assert_eq!(epoch, 2);
    assert_eq!(given.state().account(None).unwrap().password, Some(hash("reset")));
}

#[test]
fn memberships_are_bounded_and_the_rest_may_be_repeated() {
    let mut given = ada().when(VerifyEmail {}).then();
    assert!(given.state().profile.as_ref().unwrap().email_verified);
    for number in 1..MEMBERSHIPS_MAX as u128 {
        let tenant = TenantId(100 + number);
        given = given.when(hear(tenant, Some("user"), 1)).then();
    }
    let (code, given) = given.when(hear(OTHER, Some("user"), 1)).refused();
    assert_eq!(code, "too_many_memberships");
    let attributes = JsonBytes::from(json!({"team": "red"}));
    let given = given.when(SetAttributes { attributes: attributes.clone() }).then();
    let then = given.when(SetAttributes { attributes });
    assert!(then.events.is_empty());
    assert!(then.given.when(VerifyEmail {}).events.is_empty());
}
