//! What is asked of a user's second factors, in the order of their life.
//!
//! Random values (secrets, challenges, codes) come with the commands: a turn draws none.

use supervision::{Class, Command, Handle, Refusal, Turn};
use types::{Personal, UserId};

use super::{
    CREDENTIAL_LABEL, CompletedLogin, ENROLMENT_MS, FACTORS_MAX, FactorId, FactorUsed,
    LABEL_CHARS_MAX, LOGINS_REMEMBERED_MAX, NAME_LABEL, PasskeyAdded, PasskeyBegun, Proof,
    RecoveryCodes, RecoveryCodesSet, Removed, SECRET_LABEL, SecondFactorEvent, SecondFactors,
    TotpBegun, TotpConfirmed,
};
use crate::passkey::{Challenge, Registration, Site, check_registration};
use crate::totp::{Secret, normal_code};

type FactorTurn<'a> = Turn<'a, SecondFactors>;

fn check_room(factors: &SecondFactors) -> Result<(), Refusal> {
    let message = format!("a user has at most {FACTORS_MAX} second factors");
    let has_room = factors.factors.len() < FACTORS_MAX;
    has_room.then_some(()).ok_or_else(|| Refusal::conflict("too_many_factors", message))
}

fn enrolment_over() -> Refusal {
    let message = "this enrolment is over or was never begun; begin it again";
    Refusal::new(Class::Gone, "enrolment_expired", message)
}

fn sealed_label(
    turn: &FactorTurn<'_>,
    user: UserId,
    label: Option<String>,
) -> Result<Option<Personal>, Refusal> {
    let seal = |label: String| {
        let label: String = label.chars().take(LABEL_CHARS_MAX).collect();
        Personal::seal(turn.keys(), user, NAME_LABEL, &label)
    };
    label.filter(|label| !label.trim().is_empty()).map(seal).transpose()
}

/// A factor counts from now on.
#[derive(Debug)]
pub struct Confirmed {
    /// Which.
    pub id: FactorId,
    /// The recovery codes, with the first factor.
    pub recovery_codes: Option<RecoveryCodes>,
}

/// Records that a factor counts, with recovery codes if it is the first.
fn confirm(
    turn: &mut FactorTurn<'_>,
    id: FactorId,
    event: SecondFactorEvent,
    codes: RecoveryCodes,
) -> Confirmed {
    let is_first = turn.state().factors.is_empty();
    turn.record(event);
    if !is_first {
        return Confirmed { id, recovery_codes: None };
    }
    let set = RecoveryCodesSet { hashes: codes.hashes() };
    turn.record(SecondFactorEvent::RecoveryCodesSet(set));
    Confirmed { id, recovery_codes: Some(codes) }
}

/// Begins to enrol an authenticator app, in the place of one that was not confirmed.
pub struct BeginTotp {
    /// The factor to be.
    pub id: FactorId,
    /// Whose.
    pub user: UserId,
    /// A fresh secret.
    pub secret: Secret,
    /// What to call it.
    pub label: Option<String>,
}

impl Command for BeginTotp {
    const NAME: &'static str = "begin_totp";
}

impl Handle<BeginTotp> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut FactorTurn<'_>, command: BeginTotp) -> Result<(), Refusal> {
        check_room(turn.state())?;
        let BeginTotp { id, user, secret, label } = command;
        let label = sealed_label(turn, user, label)?;
        let secret = Personal::seal(turn.keys(), user, SECRET_LABEL, &secret.text())?;
        let until = turn.now().plus_ms(ENROLMENT_MS);
        turn.record(SecondFactorEvent::TotpBegun(TotpBegun { id, secret, label, until }));
        Ok(())
    }
}

/// Shows that the authenticator app has the secret. Refused with 422 for a wrong code, 410
/// `enrolment_expired`.
pub struct ConfirmTotp {
    /// The factor.
    pub id: FactorId,
    /// The code that the app shows.
    pub code: String,
    /// For the first factor.
    pub codes: RecoveryCodes,
}

impl Command for ConfirmTotp {
    const NAME: &'static str = "confirm_totp";
}

impl Handle<ConfirmTotp> for SecondFactors {
    type Reply = Confirmed;

    fn handle(turn: &mut FactorTurn<'_>, command: ConfirmTotp) -> Result<Confirmed, Refusal> {
        let ConfirmTotp { id, code, codes } = command;
        check_room(turn.state())?;
        let (now, keys) = (turn.now(), turn.keys());
        let pending = turn.state().pending_totp.as_ref();
        let pending = pending.filter(|pending| pending.id == id && now < pending.until);
        let secret = pending.and_then(|pending| pending.what.open(keys, SECRET_LABEL));
        let secret = secret.and_then(|text| Secret::parse(&text)).ok_or_else(enrolment_over)?;
        let step = normal_code(&code).and_then(|code| secret.matching_step(&code, now, None));
        let wrong = || Refusal::invalid("code", "is not the code that the app shows now");
        let step = step.ok_or_else(wrong)?;
        let event = SecondFactorEvent::TotpConfirmed(TotpConfirmed { id, step });
        Ok(confirm(turn, id, event, codes))
    }
}

/// Begins to enrol a passkey, in the place of one that has not answered.
pub struct BeginPasskey {
    /// The factor to be.
    pub id: FactorId,
    /// Whose.
    pub user: UserId,
    /// A fresh challenge.
    pub challenge: Challenge,
    /// What to call it.
    pub label: Option<String>,
}

impl Command for BeginPasskey {
    const NAME: &'static str = "begin_passkey";
}

impl Handle<BeginPasskey> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut FactorTurn<'_>, command: BeginPasskey) -> Result<(), Refusal> {
        check_room(turn.state())?;
        let BeginPasskey { id, user, challenge, label } = command;
        let label = sealed_label(turn, user, label)?;
        let until = turn.now().plus_ms(ENROLMENT_MS);
        turn.record(SecondFactorEvent::PasskeyBegun(PasskeyBegun { id, challenge, label, until }));
        Ok(())
    }
}

/// The passkey's answer to the enrolment under way. Refused with 422 when it does not check out,
/// 410 `enrolment_expired`, 409 `passkey_known`.
pub struct FinishPasskey {
    /// Whose.
    pub user: UserId,
    /// The answer.
    pub answer: Registration,
    /// Who asked.
    pub site: Site,
    /// For the first factor.
    pub codes: RecoveryCodes,
}

impl Command for FinishPasskey {
    const NAME: &'static str = "finish_passkey";
}

impl Handle<FinishPasskey> for SecondFactors {
    type Reply = Confirmed;

    fn handle(turn: &mut FactorTurn<'_>, command: FinishPasskey) -> Result<Confirmed, Refusal> {
        let FinishPasskey { user, answer, site, codes } = command;
        check_room(turn.state())?;
        let pending = turn.state().pending_passkey.as_ref();
        let pending = pending.filter(|pending| turn.now() < pending.until);
        let (id, challenge) =
            pending.map(|pending| (pending.id, pending.what)).ok_or_else(enrolment_over)?;
        let refused =
            |error: crate::passkey::PasskeyError| Refusal::invalid("response", error.to_string());
        let found = check_registration(&answer, &challenge, &site).map_err(refused)?;
        if turn.state().credentials(turn.keys()).contains(&found.id) {
            let message = "this passkey is one of yours already";
            return Err(Refusal::conflict("passkey_known", message));
        }
        let credential = Personal::seal(turn.keys(), user, CREDENTIAL_LABEL, &found.id)?;
        let added = PasskeyAdded { id, credential, key: found.key, counter: found.counter };
        Ok(confirm(turn, id, SecondFactorEvent::PasskeyAdded(added), codes))
    }
}

/// Uses a factor. Refused with 401 `invalid_second_factor`, and 401 `login_token_used` when the
/// login was completed before.
pub struct Verify {
    /// What the user shows.
    pub proof: Proof,
    /// The login that this completes, if it is for one.
    pub login: Option<CompletedLogin>,
}

impl Command for Verify {
    const NAME: &'static str = "verify";
}

impl Handle<Verify> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut FactorTurn<'_>, command: Verify) -> Result<(), Refusal> {
        let Verify { proof, login } = command;
        let now = turn.now();
        if let Some(login) = &login {
            let completed = || turn.state().completed.iter();
            if completed().any(|known| known.nonce == login.nonce) {
                let message = "this login token was used before; log in again";
                return Err(Refusal::new(Class::Unauthenticated, "login_token_used", message));
            }
            if completed().filter(|known| now < known.until).count() >= LOGINS_REMEMBERED_MAX {
                let message = "too many logins within a few minutes";
                return Err(Refusal::new(Class::TooMany, "too_many_logins", message));
            }
        }
        let used = turn.state().used(&proof, turn.keys(), now)?;
        turn.record(SecondFactorEvent::FactorUsed(FactorUsed { used, login }));
        Ok(())
    }
}

/// What using up the proof records, where the caller has not checked a password instead. A wrong
/// one is 403: 401 would tell the client that its login is over.
fn prove(turn: &FactorTurn<'_>, proof: Option<&Proof>) -> Result<Option<FactorUsed>, Refusal> {
    let used = |proof| turn.state().used(proof, turn.keys(), turn.now());
    let used = proof.map(used).transpose();
    let used = used.map_err(|refusal| Refusal { class: Class::Forbidden, ..refusal })?;
    Ok(used.map(|used| FactorUsed { used, login: None }))
}

/// Replaces the recovery codes. Refused with 409 `no_second_factor` when there is no factor.
pub struct RegenerateCodes {
    /// A factor; `None` where the caller has checked the password.
    pub proof: Option<Proof>,
    /// The new codes.
    pub codes: RecoveryCodes,
}

impl Command for RegenerateCodes {
    const NAME: &'static str = "regenerate_codes";
}

impl Handle<RegenerateCodes> for SecondFactors {
    type Reply = RecoveryCodes;

    fn handle(
        turn: &mut FactorTurn<'_>,
        command: RegenerateCodes,
    ) -> Result<RecoveryCodes, Refusal> {
        let RegenerateCodes { proof, codes } = command;
        if turn.state().factors.is_empty() {
            let message = "there is no second factor that recovery codes could stand in for";
            return Err(Refusal::conflict("no_second_factor", message));
        }
        if let Some(used) = prove(turn, proof.as_ref())? {
            turn.record(SecondFactorEvent::FactorUsed(used));
        }
        let set = RecoveryCodesSet { hashes: codes.hashes() };
        turn.record(SecondFactorEvent::RecoveryCodesSet(set));
        Ok(codes)
    }
}

/// Removes a factor; with the last one go the recovery codes.
pub struct Remove {
    /// Which.
    pub id: FactorId,
    /// A factor; `None` where the caller has checked the password.
    pub proof: Option<Proof>,
}

impl Command for Remove {
    const NAME: &'static str = "remove";
}

impl Handle<Remove> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut FactorTurn<'_>, command: Remove) -> Result<(), Refusal> {
        let Remove { id, proof } = command;
        if !turn.state().factors.iter().any(|factor| factor.id == id) {
            return Err(Refusal::not_found("second factor"));
        }
        if let Some(used) = prove(turn, proof.as_ref())? {
            turn.record(SecondFactorEvent::FactorUsed(used));
        }
        turn.record(SecondFactorEvent::Removed(Removed { id }));
        Ok(())
    }
}
