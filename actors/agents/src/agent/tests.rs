//! An agent's turns: who gets a token, and what ends them.

use supervision::testkit::Given;
use types::Scopes;

use super::*;
use crate::secret::AgentSecret;

fn scopes(list: &[&str]) -> Scopes {
    list.iter().copied().collect()
}

fn profile() -> Profile {
    Profile {
        id: AgentId(3),
        tenant: TenantId(2),
        user: UserId(1),
        made_under: MadeUnder::default(),
        details: Details { name: "one".to_owned(), ..Details::default() },
        scopes: scopes(&["ledger:*", "wallet:read"]),
        public_key: [1; 32],
        secret: AgentSecret::generate().unwrap().hash(),
        created_at: Timestamp::default(),
    }
}

fn made() -> Given<Agent> {
    Given::nothing().when(CreateAgent { profile: profile() }).then()
}

fn issue(list: &[&str]) -> IssueToken {
    let wanted = Wanted {
        scopes: scopes(list),
        target: None,
        allowance: None,
        intent: "to read".to_owned(),
    };
    let issued_at = Timestamp(1_767_225_600_500);
    IssueToken { token: TokenId(9), wanted, issued_at, ttl_s: 300 }
}

fn change(scopes: Option<Scopes>) -> ChangeAgent {
    let details = DetailsPatch { name: Some("two".to_owned()), ..DetailsPatch::default() };
    ChangeAgent { details, scopes, user: None }
}

#[test]
fn a_token_is_for_no_more_than_the_agent() {
    let (claims, given) = made().when(issue(&["ledger:post"])).reply();
    assert_eq!((claims.epoch, claims.issued_at_s), (1, 1_767_225_600));
    assert_eq!(claims.grant.expires_at_s, claims.issued_at_s + 300);
    for wider in ["*", "wallet:*", "ledgers"] {
        let (code, _) = made().when(issue(&[wider])).refused();
        assert_eq!(code, "scope_not_held", "{wider}");
    }
    assert_eq!(given.state().observe()["tokens_issued"], 1);
}

#[test]
fn pausing_ends_tokens_and_resuming_brings_none_back() {
    let then = made().when(SetStatus(Status::Paused));
    assert_eq!(then.effects, [AgentEffect::Raise { agent: AgentId(3), epoch: 2 }]);
    let (code, given) = then.given.when(issue(&["wallet:read"])).refused();
    assert_eq!(code, "agent_paused");
    let then = given.when(SetStatus(Status::Paused));
    assert!(then.events.is_empty(), "as it was");
    let then = then.given.when(SetStatus(Status::Active));
    assert!(then.effects.is_empty());
    let (claims, _) = then.given.when(issue(&["wallet:read"])).reply();
    assert_eq!(claims.epoch, 2);
}

#[test]
fn what_is_revoked_stays_so_and_leaves_its_seat() {
    let then = made().when(SetStatus(Status::Revoked));
    let seat = AgentEffect::Seat { tenant: TenantId(2), agent: AgentId(3), is_taken: false };
    assert!(then.effects.contains(&seat), "{:?}", then.effects);
    let given = then.given;
    assert!(given.state().is_pending() && given.state().resume() == [seat.clone()]);
    let then = given.when(MarkTold { is_taken: true });
    assert_eq!((then.events.len(), then.effects), (0, vec![seat]), "old news is put right");
    let given = then.given.when(MarkTold { is_taken: false }).then();
    assert!(!given.state().is_pending() && given.state().next_deadline().is_none());
    let (code, given) = given.when(SetStatus(Status::Active)).refused();
    assert_eq!(code, "agent_revoked");
    assert_eq!(given.when(change(None)).refused().0, "agent_revoked");
}

#[test]
fn the_roster_is_told_again_until_it_has_heard() {
    let given = made();
    let then = given.later_ms(4_999).when_due();
    assert!(then.effects.is_empty());
    let then = then.given.later_ms(1).when_due();
    assert_eq!((then.effects.len(), then.events.len()), (1, 1));
    let given = then.given.when(MarkTold { is_taken: true }).then();
    assert!(given.later_ms(100_000).when_due().effects.is_empty());
}

#[test]
fn taking_scopes_away_ends_tokens_and_other_changes_do_not() {
    let ((view, epoch), given) = made().when(change(None)).reply();
    assert_eq!((view.details.name.as_str(), epoch), ("two", 1));
    let then = given.when(change(None));
    assert!(then.events.is_empty(), "as it was");
    let wider = change(Some(scopes(&["ledger:*", "wallet:*"])));
    let ((_, epoch), given) = then.given.when(wider).reply();
    assert_eq!(epoch, 1);
    let ((_, epoch), given) = given.when(change(Some(scopes(&["wallet:*"])))).reply();
    assert_eq!(epoch, 2);
    let adopted = ChangeAgent { user: Some((UserId(7), MadeUnder::default())), ..change(None) };
    let ((view, epoch), given) = given.when(adopted).reply();
    assert_eq!((view.user, epoch), (UserId(7), 3));
    let ((_, epoch), _) = given.when(EndTokens {}).reply();
    assert_eq!(epoch, 4);
}

#[test]
fn a_row_tells_how_the_agent_stands() {
    let then = made().when(SetStatus(Status::Paused));
    let view: AgentView = codec::decode(then.rows[0].value.as_ref().unwrap()).unwrap();
    assert_eq!((view.status, view.id), (Status::Paused, AgentId(3)));
    let then = then.given.when(SetStatus(Status::Active));
    assert!(then.given.when(issue(&["wallet:read"])).rows.is_empty());
}

#[test]
fn a_denial_is_recorded() {
    let denied = TokenDenied { code: "agent_paused".to_owned(), scopes: Scopes::all() };
    let then = made().when(DenyToken(denied));
    assert_eq!(then.events.len(), 1);
    assert_eq!(then.given.state().observe()["tokens_denied"], 1);
    let (code, _) = Given::<Agent>::nothing().when(issue(&["a"])).refused();
    assert_eq!(code, "not_found");
}
