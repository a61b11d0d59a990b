//! The life of second factors: enrolled, used once each, removed.

use supervision::testkit::Given;

use super::*;
use crate::passkey::{Enrolee, creation_options, request_options};
use crate::soft_passkey::SoftPasskey;

const ADA: UserId = UserId(2);
const APP: FactorId = FactorId(10);
const KEY: FactorId = FactorId(11);
const CHALLENGE: Challenge = [9; 32];
/// A step of codes, in milliseconds.
const STEP_MS: i64 = totp::STEP_SECONDS as i64 * 1_000;

type World = Given<SecondFactors>;

fn codes() -> RecoveryCodes {
    RecoveryCodes::generate().unwrap()
}

fn begin_totp(given: World, id: FactorId) -> (Secret, World) {
    let secret = Secret::generate().unwrap();
    let shown = Secret::parse(&secret.text()).unwrap();
    let label = Some("a phone".to_owned());
    (shown, given.when(BeginTotp { id, user: ADA, secret, label }).then())
}

fn code(secret: &Secret, given: &World) -> String {
    secret.code(totp::step_at(given.now()))
}

fn confirm(secret: &Secret, given: World, id: FactorId) -> (Option<RecoveryCodes>, World) {
    let code = code(secret, &given);
    let (confirmed, given) = given.when(ConfirmTotp { id, code, codes: codes() }).reply();
    (confirmed.recovery_codes, given)
}

/// A user with an authenticator app, a step after its enrolment.
fn with_app() -> (Secret, RecoveryCodes, World) {
    let (secret, given) = begin_totp(Given::nothing(), APP);
    let (codes, given) = confirm(&secret, given, APP);
    (secret, codes.unwrap(), given.later_ms(STEP_MS))
}

fn verify(proof: Proof) -> Verify {
    Verify { proof, login: None }
}

#[test]
fn an_app_counts_once_it_has_shown_a_code_and_each_code_counts_once() {
    let (secret, given) = begin_totp(Given::nothing(), APP);
    assert!(given.state().accepted().is_empty());
    let early = verify(Proof::Code(code(&secret, &given)));
    let (refused, given) = given.when(early).refused();
    assert_eq!(refused, "invalid_second_factor");
    let wrong = ConfirmTotp { id: APP, code: "no code".to_owned(), codes: codes() };
    let (refused, given) = given.when(wrong).refused();
    assert_eq!(refused, "validation_error");
    let (first, given) = confirm(&secret, given, APP);
    assert_eq!(first.unwrap().texts().count(), RECOVERY_CODES);
    assert_eq!(given.state().accepted(), ["totp", "recovery_code"]);
    let again = verify(Proof::Code(code(&secret, &given)));
    let (refused, given) = given.when(again).refused();
    assert_eq!(refused, "invalid_second_factor", "the code that confirmed it is used up");
    let given = given.later_ms(STEP_MS);
    let now = code(&secret, &given);
    let given = given.when(verify(Proof::typed(&format!(" {} ", now)))).then();
    let late = given.later_ms(STEP_MS).when(verify(Proof::Code(now)));
    assert_eq!(late.refused().0, "invalid_second_factor", "nor later in its window");
}

#[test]
fn a_second_app_brings_no_new_codes_and_an_enrolment_ends() {
    let (_, _, given) = with_app();
    let other = FactorId(12);
    let (secret, given) = begin_totp(given, other);
    let (codes_again, given) = confirm(&secret, given, other);
    assert!(codes_again.is_none());
    assert_eq!(given.state().factors().len(), 2);
    let late = FactorId(13);
    let (secret, given) = begin_totp(given, late);
    let given = given.later_ms(ENROLMENT_MS);
    let code = code(&secret, &given);
    let then = given.when(ConfirmTotp { id: late, code, codes: codes() });
    assert_eq!(then.refused().0, "enrolment_expired");
}

#[test]
fn there_is_a_limit_to_factors() {
    let (_, _, mut given) = with_app();
    for number in 1..FACTORS_MAX as u128 {
        let id = FactorId(100 + number);
        let (secret, begun) = begin_totp(given, id);
        given = confirm(&secret, begun, id).1;
    }
    let secret = Secret::generate().unwrap();
    let begin = BeginTotp { id: KEY, user: ADA, secret, label: None };
    assert_eq!(given.when(begin).refused().0, "too_many_factors");
}

#[test]
fn recovery_codes_count_once_each_and_new_ones_void_the_old() {
    let (_, shown, given) = with_app();
    let texts: Vec<_> = shown.texts().map(str::to_owned).collect();
    assert!(texts.iter().all(|text| text.len() == 19), "{texts:?}");
    let typed = texts[3].to_uppercase().replace('-', " ");
    let given = given.when(verify(Proof::typed(&typed))).then();
    assert_eq!(given.state().recovery_codes_left(), RECOVERY_CODES - 1);
    let (refused, given) = given.when(verify(Proof::Recovery(texts[3].clone()))).refused();
    assert_eq!(refused, "invalid_second_factor");
    let wrong = Some(Proof::Recovery("abcd-efgh-ijkl-mnop".to_owned()));
    let then = given.when(RegenerateCodes { proof: wrong, codes: codes() });
    assert_eq!(then.outcome.as_ref().unwrap_err().class, Class::Forbidden);
    let proof = Some(Proof::Recovery(texts[4].clone()));
    let (fresh, given) = then.given.when(RegenerateCodes { proof, codes: codes() }).reply();
    assert_eq!(given.state().recovery_codes_left(), RECOVERY_CODES);
    let (refused, given) = given.when(verify(Proof::Recovery(texts[5].clone()))).refused();
    assert_eq!(refused, "invalid_second_factor");
    let first = fresh.texts().next().unwrap().to_owned();
    let given = given.when(verify(Proof::Recovery(first.clone()))).then();
    let printed = format!("{:?} {fresh:?} {}", given.state(), given.state().observe());
    assert!(!printed.contains(&first) && !printed.contains("a phone"));
    let none = Given::<SecondFactors>::nothing();
    let then = none.when(RegenerateCodes { proof: None, codes: codes() });
    assert_eq!(then.refused().0, "no_second_factor");
}

#[test]
fn removing_the_last_factor_takes_the_recovery_codes_along() {
    let (secret, shown, given) = with_app();
    let wrong = Remove { id: APP, proof: Some(Proof::typed("000000")) };
    let then = given.when(wrong);
    assert_eq!(then.outcome.as_ref().unwrap_err().class, Class::Forbidden);
    let given = then.given;
    let (refused, given) = given.when(Remove { id: KEY, proof: None }).refused();
    assert_eq!(refused, "not_found");
    let proof = Some(Proof::Code(code(&secret, &given)));
    let given = given.when(Remove { id: APP, proof }).then();
    assert!(given.state().accepted().is_empty());
    let recovery = shown.texts().next().unwrap().to_owned();
    let then = given.when(verify(Proof::Recovery(recovery)));
    assert_eq!(then.refused().0, "invalid_second_factor");
}

fn with_passkey(given: World) -> (SoftPasskey, World) {
    let (site, mut passkey) = (Site::default(), SoftPasskey::new());
    let begin = BeginPasskey { id: KEY, user: ADA, challenge: CHALLENGE, label: None };
    let given = given.when(begin).then();
    let enrolee = Enrolee { handle: ADA.0, name: "ada@example.test", display_name: "Ada" };
    let options = creation_options(&site, &CHALLENGE, &enrolee, &[]);
    let answer = || serde_json::from_value(passkey.create(&options, &site.origin).unwrap());
    let mut answer = answer;
    let finish =
        FinishPasskey { user: ADA, answer: answer().unwrap(), site: site.clone(), codes: codes() };
    let (confirmed, given) = given.when(finish).reply();
    assert_eq!(confirmed.id, KEY);
    let again = FinishPasskey { user: ADA, answer: answer().unwrap(), site, codes: codes() };
    let (refused, given) = given.when(again).refused();
    assert_eq!(refused, "enrolment_expired", "an enrolment is answered once");
    (passkey, given)
}

fn answer(passkey: &mut SoftPasskey, challenge: Challenge) -> Proof {
    let site = Site::default();
    let options = request_options(&site, &challenge, &[passkey.id()]);
    let answer = passkey.get(&options, &site.origin).unwrap();
    let assertion = Box::new(serde_json::from_value(answer).unwrap());
    Proof::Passkey { assertion, challenge, site }
}

#[test]
fn a_passkey_answers_its_challenge_and_a_copy_is_noticed() {
    let (mut passkey, given) = with_passkey(Given::nothing());
    assert_eq!(given.state().accepted(), ["passkey", "recovery_code"]);
    assert_eq!(given.state().credentials(given.keys()), [passkey.id()]);
    let first = answer(&mut passkey, [1; 32]);
    let later = answer(&mut passkey, [2; 32]);
    let given = given.when(verify(later)).then();
    let (refused, given) = given.when(verify(first)).refused();
    assert_eq!(refused, "invalid_second_factor", "its counter went back");
    let mut stranger = SoftPasskey::new();
    let (refused, given) = given.when(verify(answer(&mut stranger, [3; 32]))).refused();
    assert_eq!(refused, "invalid_second_factor");
    let begin = BeginPasskey { id: FactorId(12), user: ADA, challenge: CHALLENGE, label: None };
    let given = given.when(begin).then();
    let enrolee = Enrolee { handle: ADA.0, name: "ada@example.test", display_name: "Ada" };
    let options = creation_options(&Site::default(), &CHALLENGE, &enrolee, &[]);
    let created = passkey.create(&options, &Site::default().origin).unwrap();
    let created = serde_json::from_value(created).unwrap();
    let finish =
        FinishPasskey { user: ADA, answer: created, site: Site::default(), codes: codes() };
    assert_eq!(given.when(finish).refused().0, "passkey_known");
}

#[test]
fn a_login_token_completes_one_login_and_is_forgotten_when_it_is_over() {
    let (mut passkey, mut given) = with_passkey(Given::nothing());
    let until = given.now().plus_ms(300_000);
    let login = |nonce: u128| Some(CompletedLogin { nonce, until });
    let first = Verify { proof: answer(&mut passkey, [1; 32]), login: login(1) };
    given = given.when(first).then();
    let again = Verify { proof: answer(&mut passkey, [2; 32]), login: login(1) };
    let (refused, next) = given.when(again).refused();
    assert_eq!(refused, "login_token_used");
    given = next;
    for nonce in 2..=LOGINS_REMEMBERED_MAX as u128 {
        let proof = answer(&mut passkey, [3; 32]);
        given = given.when(Verify { proof, login: login(nonce) }).then();
    }
    let one_more = || login(1_000);
    let proof = answer(&mut passkey, [4; 32]);
    let (refused, given) = given.when(Verify { proof, login: one_more() }).refused();
    assert_eq!(refused, "too_many_logins");
    let given = given.later_ms(300_000);
    let proof = answer(&mut passkey, [5; 32]);
    let given = given.when(Verify { proof, login: one_more() }).then();
    assert_eq!(given.state().completed.len(), 1);
}
