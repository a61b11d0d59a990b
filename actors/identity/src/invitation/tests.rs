//! What happens to an invitation, command by command.

use supervision::testkit::Given;

use super::*;

const ACME: TenantId = TenantId(5);
const BOB: UserId = UserId(9);

fn invite() -> Invite {
    Invite {
        id: InvitationId(3),
        tenant: ACME,
        email: EmailAddress::new("bob@example.test").unwrap(),
        email_tag: "email/b0b".to_owned(),
        role: "user".to_owned(),
        role_id: None,
        invited_by: Some(UserId(5)),
        inviter: Inviter::Member(UserId(5)),
    }
}

fn invited() -> Given<Invitation> {
    Given::nothing().when(invite()).then()
}

fn accept(user: UserId, tag: &str) -> Accept {
    Accept { user, email_tag: tag.to_owned(), may_repeat: false }
}

#[test]
fn the_address_is_sealed_and_the_mail_is_pending_until_it_is_sent() {
    let then = Given::<Invitation>::nothing().when(invite());
    assert!(matches!(then.effects[..], [InvitationEffect::Mail(_)]));
    assert_eq!(then.rows.iter().filter(|row| row.value.is_some()).count(), 2);
    let shown = format!("{:?} {}", then.events, then.given.state().observe());
    assert!(!shown.contains("bob@") && !shown.contains("b0b\": "), "{shown}");
    let terms = then.given.state().terms.clone().unwrap();
    let email = terms.email.open(then.given.keys(), EMAIL_LABEL);
    assert_eq!(email.as_deref(), Some("bob@example.test"));
    assert!(then.given.state().is_pending());
    let then = then.given.later_ms(Backoff::USUAL.first_ms).when_due();
    assert!(matches!(then.effects[..], [InvitationEffect::Mail(_)]), "asked for again");
    let given = then.given.when(NoteMailed {}).then();
    assert!(!given.state().is_pending());
    assert!(given.when(NoteMailed {}).events.is_empty());
}

#[test]
fn one_address_has_one_open_invitation() {
    let key = invited_key(ACME, "email/b0b");
    let given = Given::<Invitation>::nothing().row(INVITED_FAMILY, &key, &[1]);
    assert_eq!(given.when(invite()).refused().0, "already_invited");
}

#[test]
fn it_is_accepted_once_by_whom_it_is_for_and_joins_until_the_tenant_has_answered() {
    let (code, given) = invited().when(accept(BOB, "email/eve")).refused();
    assert_eq!(code, "other_address");
    let then = given.when(accept(BOB, "email/b0b"));
    assert!(matches!(then.effects[..], [InvitationEffect::Join(_, BOB)]));
    assert!(then.rows.len() == 2 && then.rows.iter().all(|row| row.value.is_none()));
    let given = then.given;
    assert!(given.state().is_pending() && given.state().outcome().is_none());
    let (code, given) = given.when(accept(BOB, "email/b0b")).refused();
    assert_eq!(code, "invitation_used");
    let repeated = Accept { may_repeat: true, ..accept(BOB, "email/b0b") };
    let then = given.when(repeated);
    assert!(then.outcome.is_ok() && then.events.is_empty());
    let given = then.given.when(NoteJoined(Joined { refusal: None })).then();
    assert_eq!(given.state().outcome(), Some(Ok(())));
    let late = NoteJoined(Joined { refusal: Some(Refusal::busy()) });
    assert!(given.when(late).events.is_empty());
}

#[test]
fn it_ends_by_time_and_by_being_taken_back() {
    let given = invited().later_ms(LIFE_MS);
    let (code, given) = given.when(accept(BOB, "email/b0b")).refused();
    assert_eq!(code, "invitation_expired");
    let then = given.when_due();
    assert_eq!(then.events, [InvitationEvent::Expired(Expired {})]);
    assert!(then.rows.iter().all(|row| row.value.is_none()));
    assert_eq!(then.given.when(Revoke {}).refused().0, "invitation_expired");
    let given = invited().when(Revoke {}).then();
    assert!(given.state().next_deadline().is_none());
    let (code, given) = given.when(accept(BOB, "email/b0b")).refused();
    assert_eq!(code, "invitation_revoked");
    assert_eq!(given.when(Revoke {}).refused().0, "invitation_revoked");
    assert_eq!(Given::<Invitation>::nothing().when(Revoke {}).refused().0, "not_found");
}
