//! Tickets: what a page gives to somebody who has logged in on it, in the form that it shows them
//! then. A random text, good for what they were shown, for them and for [`TICKET_LIFE`], once: so a
//! token that some program holds does nothing there, and no other site's form does.
//!
//! Deliberate limit: tickets are in memory. After a restart one logs in again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use persistence::record::sha256;
use types::Caller;

/// How long somebody may look at what they were shown before they decide.
pub(super) const TICKET_LIFE: Duration = Duration::from_secs(600);
/// How many tickets there are at once; beyond it the oldest go.
const TICKETS_MAX: usize = 10_000;

/// Who may decide what, by the digest of a ticket. A port.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<HashMap<[u8; 32], Ticket>>);

#[derive(Clone)]
struct Ticket {
    /// The number of what was shown, which nothing else has.
    about: u128,
    caller: Caller,
    since: Instant,
}

impl Tickets {
    /// A ticket; `None` if the system has no random numbers.
    pub(super) fn give(&self, about: u128, caller: Caller, now: Instant) -> Option<String> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        let text = data_encoding::BASE64URL_NOPAD.encode(&bytes);
        let mut tickets = self.0.lock();
        tickets.retain(|_, ticket| now.duration_since(ticket.since) < TICKET_LIFE);
        if tickets.len() >= TICKETS_MAX {
            let oldest = tickets.iter().min_by_key(|(_, it)| it.since).map(|(key, _)| *key);
            oldest.map(|key| tickets.remove(&key));
        }
        tickets.insert(sha256(&[text.as_bytes()]), Ticket { about, caller, since: now });
        Some(text)
    }

    /// Takes a ticket, once.
    pub(super) fn take(&self, text: &str, about: u128, now: Instant) -> Option<Caller> {
        let mut tickets = self.0.lock();
        let ticket = tickets.remove(&sha256(&[text.as_bytes()]))?;
        let is_good = ticket.about == about && now.duration_since(ticket.since) < TICKET_LIFE;
        is_good.then_some(ticket.caller)
    }
}

#[cfg(test)]
mod tests {
    use types::TenantId;

    use super::*;

    #[test]
    fn a_ticket_is_good_once_for_one_thing_and_not_for_ever() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let give = || tickets.give(1, Caller::system(TenantId(1)), now).unwrap();
        let ticket = give();
        assert!(tickets.take(&ticket, 1, now).is_some());
        assert!(tickets.take(&ticket, 1, now).is_none());
        assert!(tickets.take(&give(), 2, now).is_none());
        assert!(tickets.take(&give(), 1, now + TICKET_LIFE).is_none());
        assert!(tickets.take("", 1, now).is_none());
        assert_ne!(give(), give());
    }
}
