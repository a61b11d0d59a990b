//! What users do to their passwords beside [`super::ChangePassword`].

use serde::{Deserialize, Serialize};
use supervision::{Class, Command, Handle, Refusal, Turn};

use super::{PasswordChanged, User, UserEvent, check_replaced, record};
use crate::password::PasswordHash;

/// Nobody gets in by password before the address is verified.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerificationAwaited {}

/// Another password. What it ends besides is ended one by one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasswordReplaced {
    /// The new password's hash.
    pub password: PasswordHash,
}

/// Whoever reads the address's mail took over an account that was never verified: no session and
/// no key from before counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reclaimed {}

/// Lets nobody in by password until the address is verified, so that an account that was made by
/// somebody who does not read that address's mail looks like none. No change once it is verified.
pub struct AwaitVerification {}

impl Command for AwaitVerification {
    const NAME: &'static str = "await_verification";
}

impl Handle<AwaitVerification> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: AwaitVerification) -> Result<(), Refusal> {
        let is_verified = turn.state().existing()?.email_verified;
        if !is_verified && !turn.state().awaits_verification {
            turn.record(UserEvent::VerificationAwaited(VerificationAwaited {}));
        }
        Ok(())
    }
}

/// Sets another password and leaves the sessions alone: who asks ends those that must end.
pub struct ReplacePassword {
    /// The new password's hash.
    pub password: PasswordHash,
    /// As in [`super::ChangePassword`].
    pub replaces: Option<PasswordHash>,
}

impl Command for ReplacePassword {
    const NAME: &'static str = "replace_password";
}

impl Handle<ReplacePassword> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: ReplacePassword) -> Result<(), Refusal> {
        check_replaced(turn.state(), command.replaces.as_ref())?;
        let password = command.password;
        turn.record(UserEvent::PasswordReplaced(PasswordReplaced { password }));
        Ok(())
    }
}

/// Sets another password for somebody who lost the old one and reads the address's mail, which
/// ends every session. An account that was never verified may have been made by somebody else:
/// its keys end too ([`User::keys_from`]), and the address is verified. Answers the new epoch. 410
/// `link_used` when every session was ended since it was asked for; with the same hash it is a
/// repetition.
pub struct ResetPassword {
    /// The new password's hash.
    pub password: PasswordHash,
    /// [`User::sessions_from`] when it was asked for.
    pub sessions_from: u64,
}

impl Command for ResetPassword {
    const NAME: &'static str = "reset_password";
}

impl Handle<ResetPassword> for User {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: ResetPassword) -> Result<u64, Refusal> {
        let ResetPassword { password, sessions_from } = command;
        if turn.state().existing()?.password.as_ref() == Some(&password) {
            return Ok(turn.state().epoch);
        }
        if turn.state().sessions_from != sessions_from {
            let message = "the password was changed since; ask for another link";
            return Err(Refusal::new(Class::Gone, "link_used", message));
        }
        if !turn.state().existing()?.email_verified {
            record(turn, UserEvent::Reclaimed(Reclaimed {}));
        }
        Ok(record(turn, UserEvent::PasswordChanged(PasswordChanged { password })))
    }
}

/// Changes nothing: what the answer to a change over several entities is recorded with.
pub struct Conclude {}

impl Command for Conclude {
    const NAME: &'static str = "conclude";
}

impl Handle<Conclude> for User {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, _: Conclude) -> Result<(), Refusal> {
        turn.state().existing().map(drop)
    }
}
