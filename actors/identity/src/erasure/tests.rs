//! The states of an erasure, command by command.

use supervision::testkit::Given;

use super::*;

const ADA: Subject = Subject::User(UserId(7));

fn begun(reason: &str) -> Begin {
    Begin(Begun { subject: ADA, by: "user/imp_u_x".to_owned(), reason: reason.to_owned() })
}

fn found() -> Found {
    Found { sessions: 2, key_numbers: vec![4], ..Found::default() }
}

fn end(refusal: Option<Refusal>, key_numbers: &[u32]) -> End {
    End(Ended { refusal, key_numbers: key_numbers.to_vec() })
}

#[test]
fn it_parts_then_shreds_then_is_over_and_each_is_asked_for_again_after_a_restart() {
    let then = Given::<Erasure>::nothing().when(begun("asked for"));
    assert!(matches!(then.effects[..], [ErasureEffect::Part(ADA, None)]));
    let (noted, given) = then.given.when(NoteFound(found())).reply();
    assert_eq!(noted, found());
    let other = Found { sessions: 0, ..found() };
    let (noted, given) = given.when(NoteFound(other)).reply();
    assert_eq!(noted, found(), "what was there at first");
    assert!(matches!(&given.state().resume()[..], [ErasureEffect::Part(ADA, Some(_))]));
    let (code, given) = given.when(Conclude).refused();
    assert_eq!(code, "pending");
    let then = given.when(NoteParted {});
    assert!(matches!(then.effects[..], [ErasureEffect::Shred(ADA, _)]));
    let then = then.given.when(NoteParted {});
    assert!(then.events.is_empty() && then.effects.is_empty());
    let then = then.given.when(end(Some(Refusal::not_found("user")), &[]));
    assert!(then.events.is_empty(), "nothing takes a parting back");
    assert!(matches!(then.given.state().resume()[..], [ErasureEffect::Shred(ADA, _)]));
    let given = then.given.later_ms(1_500).when(end(None, &[9, 4])).then();
    assert!(!given.state().is_pending() && given.state().next_deadline().is_none());
    let (receipt, given) = given.when(Conclude).reply();
    assert_eq!((receipt.found, &receipt.key_numbers[..]), (found(), &[4, 9][..]));
    assert_eq!(receipt.erased_at.0 - receipt.begun_at.0, 1_500);
    let then = given.when(begun("again"));
    assert!(then.events.is_empty() && then.effects.is_empty(), "it is over for good");
    assert_eq!(then.given.state().outcome(), Some(Ok(())));
}

#[test]
fn a_refused_one_may_begin_anew_and_one_that_is_lost_is_tried_again_later_each_time() {
    let refused = end(Some(Refusal::conflict("last_owner", "stay")), &[]);
    let given = Given::<Erasure>::nothing().when(begun("asked for")).then().when(refused).then();
    assert!(given.state().receipt().is_none());
    assert!(given.state().outcome().is_some_and(|outcome| outcome.is_err()));
    let then = given.when(begun("asked for again"));
    assert_eq!((then.events.len(), then.effects.len()), (1, 1));
    let mut given = then.given;
    let mut waits = Vec::new();
    for _ in 0..9 {
        let wait_ms = given.state().next_deadline().unwrap().0 - given.now().0;
        let then = given.later_ms(wait_ms).when_due();
        assert_eq!((then.events.len(), then.effects.len()), (1, 1));
        waits.push(wait_ms);
        given = then.given;
    }
    assert_eq!(waits[..3], [5_000, 10_000, 20_000]);
    assert_eq!(waits.last(), Some(&RETRY_MS_MAX));
}

#[test]
fn the_beginning_is_an_action_and_the_view_shows_no_hash() {
    let then = Given::<Erasure>::nothing().when(begun("asked for"));
    let actions = describe("begun", 1, &then.events[0].encode().unwrap());
    assert_eq!((actions.len(), actions[0].tool_name.as_str()), (1, "erase_user"));
    assert!(describe("parted", 1, &[]).is_empty());
    let tagged = Found { email_tag: Some("email/0123".to_owned()), ..found() };
    let given = then.given.when(NoteFound(tagged)).then();
    let view = given.state().observe();
    assert_eq!((&view["by"], &view["found"]["sessions"]), (&json!("user/imp_u_x"), &json!(2)));
    assert!(!view.to_string().contains("0123"));
}
