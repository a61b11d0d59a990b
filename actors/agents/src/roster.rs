//! A tenant's roster: which agents take a seat of those that its plan has.
//!
//! Invariants
//! - A seat is given in the roster's own turn: there are never more than the plan allows, however
//!   many are asked for at once.
//! - A seat that was reserved for an agent that was not made within [`RESERVATION_MS`] is free
//!   again; one that was made takes its seat when it tells so, whatever came between.
//!
//! Deliberate limits
//! - Whoever moves to a smaller plan keeps the agents that there are, and makes no further one.
//! - At most [`AGENTS_MAX`] in a tenant that are not revoked, whatever the plan says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Class, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{AgentId, TenantId, home_of, owner_of_tenant};

/// The most agents of a tenant that are not revoked.
pub const AGENTS_MAX: usize = 10_000;
/// How long a seat is reserved (ms).
pub const RESERVATION_MS: i64 = 60_000;

/// The seats that are taken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Roster {
    /// Until when it is reserved; `None` for an agent that there is.
    seats: BTreeMap<AgentId, Option<Timestamp>>,
}

impl Roster {
    /// Where it lives.
    pub fn address(tenant: TenantId) -> Address<Self> {
        crate::address(&tenant.to_string(), owner_of_tenant(tenant), home_of(tenant))
    }
}

/// A seat is kept for an agent that is about to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeatReserved {
    /// For whom.
    pub agent: AgentId,
    /// Until when.
    pub until: Timestamp,
}

/// An agent came or went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeatOf {
    /// Who.
    pub agent: AgentId,
}

/// Reservations are over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeatsLapsed {
    /// Whose.
    pub agents: Vec<AgentId>,
}

supervision::events! {
    /// What happens to a roster.
    pub enum RosterEvent {
        /// A seat is kept.
        Reserved(SeatReserved) = "seat_reserved", 1;
        /// A seat is taken.
        Taken(SeatOf) = "seat_taken", 1;
        /// A seat is free again.
        Left(SeatOf) = "seat_left", 1;
        /// Seats are free again that nobody took.
        Lapsed(SeatsLapsed) = "seats_lapsed", 1;
    }
}

impl Entity for Roster {
    const KIND: &'static str = "agent_roster";
    type Event = RosterEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &RosterEvent, _: Timestamp) {
        match event {
            RosterEvent::Reserved(it) => drop(self.seats.insert(it.agent, Some(it.until))),
            RosterEvent::Taken(it) => drop(self.seats.insert(it.agent, None)),
            RosterEvent::Left(it) => drop(self.seats.remove(&it.agent)),
            RosterEvent::Lapsed(it) => it.agents.iter().for_each(|agent| {
                self.seats.remove(agent);
            }),
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.seats.values().flatten().min().copied()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now = turn.now();
        let is_over = |until: &Option<Timestamp>| until.is_some_and(|until| until <= now);
        let over = turn.state().seats.iter().filter(|(_, until)| is_over(until));
        let agents: Vec<_> = over.map(|(agent, _)| *agent).collect();
        if !agents.is_empty() {
            turn.record(RosterEvent::Lapsed(SeatsLapsed { agents }));
        }
    }

    fn observe(&self) -> serde_json::Value {
        let reserved = self.seats.values().filter(|until| until.is_some()).count();
        json!({"seats": self.seats.len(), "reserved": reserved})
    }
}

/// Keeps a seat for an agent: 402 `plan_limit_reached` when the plan has no other, 409
/// `too_many_agents` beyond [`AGENTS_MAX`]. Repeated for the same agent it is no change.
pub struct ReserveSeat {
    /// For whom.
    pub agent: AgentId,
    /// How many the plan has.
    pub seats_max: usize,
}

impl Command for ReserveSeat {
    const NAME: &'static str = "reserve_seat";
}

impl Handle<ReserveSeat> for Roster {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: ReserveSeat) -> Result<(), Refusal> {
        let ReserveSeat { agent, seats_max } = command;
        let taken = turn.state().seats.len();
        if turn.state().seats.contains_key(&agent) {
            return Ok(());
        }
        if taken >= AGENTS_MAX {
            let message = format!("a tenant has at most {AGENTS_MAX} agents; revoke one first");
            return Err(Refusal::conflict("too_many_agents", message));
        }
        if taken >= seats_max {
            let message =
                format!("the plan has {seats_max} agents; revoke one, or change the plan");
            let facts = json!({"limit": "agents", "allowed": seats_max, "used": taken});
            let refusal = Refusal::new(Class::Payment, "plan_limit_reached", message);
            return Err(refusal.with_facts(&facts));
        }
        let until = turn.now().plus_ms(RESERVATION_MS);
        turn.record(RosterEvent::Reserved(SeatReserved { agent, until }));
        Ok(())
    }
}

/// Whether an agent takes a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// It does.
    Taken,
    /// It does not any more.
    Left,
}

/// Hears that an agent came or went. What is known is no change.
pub struct SetSeat {
    /// Who.
    pub agent: AgentId,
    /// Whether it takes a seat.
    pub seat: Seat,
}

impl Command for SetSeat {
    const NAME: &'static str = "set_seat";
    const ESSENTIAL: bool = true;
}

impl Handle<SetSeat> for Roster {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, SetSeat { agent, seat }: SetSeat) -> Result<(), Refusal> {
        let known = turn.state().seats.get(&agent).copied();
        match seat {
            Seat::Taken if known != Some(None) => {
                turn.record(RosterEvent::Taken(SeatOf { agent }));
            }
            Seat::Left if known.is_some() => turn.record(RosterEvent::Left(SeatOf { agent })),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn reserve(agent: u128) -> ReserveSeat {
        ReserveSeat { agent: AgentId(agent), seats_max: 2 }
    }

    fn set(agent: u128, seat: Seat) -> SetSeat {
        SetSeat { agent: AgentId(agent), seat }
    }

    #[test]
    fn there_are_as_many_seats_as_the_plan_has() {
        let given = Given::<Roster>::nothing().when(reserve(1)).then().when(reserve(2)).then();
        let given = given.when(set(1, Seat::Taken)).then();
        let then = given.when(reserve(1));
        assert!(then.events.is_empty() && then.outcome.is_ok());
        let (code, given) = then.given.when(reserve(3)).refused();
        assert_eq!(code, "plan_limit_reached");
        let given = given.when(set(1, Seat::Left)).then();
        let then = given.when(set(1, Seat::Left));
        assert!(then.events.is_empty());
        then.given.when(reserve(3)).reply();
    }

    #[test]
    fn a_seat_that_nobody_takes_is_free_again_and_one_that_is_taken_late_counts() {
        let given = Given::<Roster>::nothing().when(reserve(1)).then().when(reserve(2)).then();
        let given = given.when(set(2, Seat::Taken)).then().later_ms(RESERVATION_MS);
        let then = given.when_due();
        let agents = vec![AgentId(1)];
        assert_eq!(then.events, [RosterEvent::Lapsed(SeatsLapsed { agents })]);
        let given = then.given.when(set(1, Seat::Taken)).then();
        assert_eq!(given.state().next_deadline(), None);
        assert_eq!(given.when(reserve(3)).refused().0, "plan_limit_reached");
    }
}
