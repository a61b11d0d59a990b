//! What billing has to do when a person is erased.
//!
//! A sign-up that was refused, because the address has an account already, holds the address under
//! the key of the user that it never made: those keys go too. A tenant's wallet, its ledger, its
//! holds and its subscription go with the tenant's key; what is held then is neither taken nor
//! given back, and nothing more is collected for the plan. A person's share in other tenants'
//! ledgers is their id.
//!
//! Deliberate limit: every sign-up that there ever was is looked through.

use identity::erasure::Farewell;
use identity::mail::Recipients;
use persistence::KeyId;
use supervision::address::USER_KEY_CLASS;
use supervision::{Class, Entity as _, Refusal, System};

use crate::sign_up::SignUp;

/// Billing's part.
pub struct BillingFarewell;

impl Farewell for BillingFarewell {
    fn keys(&self, system: &System, is_theirs: &Recipients) -> Result<Vec<KeyId>, Refusal> {
        let (journal, directory) = (system.journal(), system.directory::<SignUp>());
        let (mut keys, mut after) = (Vec::new(), None);
        loop {
            let next = journal.next_stream(SignUp::KIND, after.as_ref());
            let unreadable = |_| {
                let message = "the journal could not be read; it was noted";
                Refusal::new(Class::Crashed, "internal_error", message)
            };
            let Some(stream) = next.map_err(unreadable)? else { return Ok(keys) };
            let id = stream.as_str().split_once('/').map_or("", |(_, id)| id).to_owned();
            after = Some(stream);
            let state = system.locate(SignUp::KIND, &id).map(|place| directory.replay(&place));
            let refused = state.and_then(Result::ok).and_then(|it| it.refused(journal.keys()));
            if let Some((user, email)) = refused
                && is_theirs(&email)
            {
                keys.push(KeyId { class: USER_KEY_CLASS, id: user.0 });
            }
        }
    }
}
