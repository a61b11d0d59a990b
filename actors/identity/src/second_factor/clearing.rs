//! The end of all of a user's second factors by somebody else: an operator, a tenant's owner whom
//! the user has asked, or whoever took over an account that was never verified.
//!
//! A removal that somebody else does is followed by the end of the user's sessions and by a mail;
//! both are pending until they are done. Each removal has an id: repeated, it removes nothing that
//! was enrolled later.

use serde::{Deserialize, Serialize};
use supervision::{Command, EffectContext, Handle, Process, Refusal, Timestamp, Turn};
use types::{TenantId, UserId};

use super::{FactorEffect, SecondFactorEvent, SecondFactors};
use crate::mail::Letter;
use crate::service::Identity;
use crate::user::EndSessions;

/// When what follows from a removal is tried again, in milliseconds.
const RETRY_MS: i64 = 5_000;

/// A user who has lost all factors, and knows the password, asks a tenant's owner to remove them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Whose owner.
    pub tenant: TenantId,
    /// The user's epoch then: what ends tokens ends this too.
    pub epoch: u64,
    /// The user's [`crate::user::User::password_changes`] then: another password ends this too.
    pub password_changes: u64,
    /// Until when the owner may.
    pub until: Timestamp,
}

/// A user has asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemovalAsked {
    /// What.
    pub asked: Asked,
}

/// Why all factors are gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Why {
    /// The owner of the address took the account over.
    Reclaimed,
    /// Somebody else removed them, for this reason.
    Removed {
        /// The reason.
        reason: String,
        /// The user's [`crate::user::User::sessions_from`] before.
        sessions_from: u64,
    },
}

/// All are gone, with the recovery codes and what was being enrolled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cleared {
    /// The removal's id.
    pub id: u128,
    /// Why.
    pub why: Why,
}

/// What follows from a removal is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClearingRetried {}

/// What follows from a removal is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClearingSettled {}

/// The latest removal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Clearing {
    id: u128,
    /// What is still to be done.
    sessions_from: Option<u64>,
    retry_at: Timestamp,
}

impl SecondFactors {
    /// What the user has asked for, if it still holds.
    pub fn asked(&self, now: Timestamp) -> Option<Asked> {
        self.asked.filter(|asked| now < asked.until)
    }

    pub(super) fn clear(&mut self, cleared: &Cleared, at: Timestamp) {
        let sessions_from = match cleared.why {
            Why::Reclaimed => None,
            Why::Removed { sessions_from, .. } => Some(sessions_from),
        };
        let retry_at = at.plus_ms(RETRY_MS);
        *self = Self {
            clearing: Some(Clearing { id: cleared.id, sessions_from, retry_at }),
            ..Self::default()
        };
    }

    pub(super) fn retry_clearing(&mut self, at: Timestamp) {
        if let Some(clearing) = &mut self.clearing {
            clearing.retry_at = at.plus_ms(RETRY_MS);
        }
    }

    pub(super) fn settle_clearing(&mut self) {
        if let Some(clearing) = &mut self.clearing {
            clearing.sessions_from = None;
        }
    }

    pub(super) fn to_settle(&self) -> Option<FactorEffect> {
        let clearing = self.clearing.as_ref()?;
        let (id, sessions_from) = (clearing.id, clearing.sessions_from?);
        Some(FactorEffect::Settle { id, sessions_from })
    }

    pub(super) fn clearing_retry_at(&self) -> Option<Timestamp> {
        let clearing = self.clearing.as_ref()?;
        clearing.sessions_from.map(|_| clearing.retry_at)
    }
}

impl Process for SecondFactors {
    type Outcome = ();

    fn outcome(&self) -> Option<()> {
        self.to_settle().is_none().then_some(())
    }
}

pub(super) fn due(turn: &mut Turn<'_, SecondFactors>) {
    let is_due = turn.state().clearing_retry_at().is_some_and(|at| at <= turn.now());
    if let Some(effect) = turn.state().to_settle().filter(|_| is_due) {
        turn.record(SecondFactorEvent::ClearingRetried(ClearingRetried {}));
        turn.effect(effect);
    }
}

pub(super) async fn perform(effect: FactorEffect, context: EffectContext<SecondFactors>) {
    let FactorEffect::Settle { id, sessions_from } = effect;
    let EffectContext { system, address, origin, .. } = context;
    let Ok(user) = address.id().parse::<UserId>() else { return };
    let identity = system.port::<Identity>();
    let settle = async {
        let end = EndSessions { sessions_from };
        identity.change_user(user, end, origin.clone()).await?;
        let letter = Letter::SecondFactorsRemoved {};
        identity.tell_user(user, letter, id, origin.clone()).await?;
        system.directory::<SecondFactors>().ask(&address, NoteSettled { id }, origin).await
    };
    if let Err(refusal) = settle.await {
        tracing::debug!(%refusal, %user, "what follows from a removal is done later");
    }
}

/// Notes that what follows from a removal is done.
struct NoteSettled {
    id: u128,
}

impl Command for NoteSettled {
    const NAME: &'static str = "note_clearing_settled";
    const ESSENTIAL: bool = true;
}

impl Handle<NoteSettled> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, NoteSettled { id }: NoteSettled) -> Result<(), Refusal> {
        let is_this = turn.state().clearing.as_ref().is_some_and(|it| it.id == id);
        if is_this && turn.state().to_settle().is_some() {
            turn.record(SecondFactorEvent::ClearingSettled(ClearingSettled {}));
        }
        Ok(())
    }
}

/// Asks for the removal. 409 `no_second_factor` when there is nothing to remove.
pub struct AskRemoval {
    /// What.
    pub asked: Asked,
}

impl Command for AskRemoval {
    const NAME: &'static str = "ask_factor_removal";
}

/// 409: the user has not asked a tenant's owner, or not for this.
pub(crate) fn not_asked() -> Refusal {
    let message = "this user has not asked for it; they do while they log in to this tenant";
    Refusal::conflict("removal_not_asked", message)
}

/// 409: there is nothing to remove.
pub(crate) fn no_factor() -> Refusal {
    Refusal::conflict("no_second_factor", "this user has no second factor")
}

impl Handle<AskRemoval> for SecondFactors {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, AskRemoval { asked }: AskRemoval) -> Result<(), Refusal> {
        if turn.state().factors.is_empty() {
            return Err(no_factor());
        }
        turn.record(SecondFactorEvent::RemovalAsked(RemovalAsked { asked }));
        Ok(())
    }
}

/// Removes all factors. Answers how many counted; a repetition is no change. 409
/// `no_second_factor`, and `removal_not_asked` when the user has not asked for it, or not for this.
pub struct Clear {
    /// The removal's id.
    pub id: u128,
    /// Why.
    pub why: Why,
    /// What the user has asked for, where it is done because of that.
    pub asked: Option<Asked>,
}

impl Command for Clear {
    const NAME: &'static str = "clear_factors";
    const ESSENTIAL: bool = true;
}

impl Handle<Clear> for SecondFactors {
    type Reply = usize;

    fn handle(turn: &mut Turn<'_, Self>, command: Clear) -> Result<usize, Refusal> {
        let Clear { id, why, asked } = command;
        let state = turn.state();
        if state.clearing.as_ref().is_some_and(|clearing| clearing.id == id) {
            return Ok(0);
        }
        if asked.is_some() && state.asked(turn.now()) != asked {
            return Err(not_asked());
        }
        let removed = state.factors.len();
        if removed == 0 && why != Why::Reclaimed {
            return Err(no_factor());
        }
        turn.record(SecondFactorEvent::Cleared(Cleared { id, why }));
        if let Some(effect) = turn.state().to_settle() {
            turn.effect(effect);
        }
        Ok(removed)
    }
}
