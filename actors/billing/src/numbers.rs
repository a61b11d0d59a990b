//! Integer ids that are unique over the installation and below 2^53: one counter a series, handed
//! out in ranges. A number that is lost on its way is never given again.

use serde::{Deserialize, Serialize};
use supervision::{
    Address, Class, Command, Entity, Handle, Home, NoEffect, Refusal, Timestamp, Turn, events,
};
use types::platform;

/// Numbers are below this, so that every JSON reader keeps them exact.
pub const NUMBER_END: u64 = 1 << 53;
/// How many numbers are handed out at once, at most.
pub const NUMBERS_AT_ONCE_MAX: u64 = 1 << 40;

/// The address of a series; its name is a constant of the code that uses it, of letters.
pub fn numbers_address(series: &'static str) -> Address<Numbers> {
    let address = Address::new(series, platform(), Home(0));
    address.unwrap_or_else(|| panic!("{series:?} names no series"))
}

/// A series.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Numbers {
    /// The last number that was handed out.
    last: u64,
}

events! {
    /// What happens to a series.
    pub enum NumbersEvent {
        /// Numbers were handed out.
        NumbersTaken(NumbersTaken) = "numbers_taken", 1;
    }
}

/// Numbers were handed out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumbersTaken {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Entity for Numbers {
    const KIND: &'static str = "numbers";
    type Event = NumbersEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &NumbersEvent, _at: Timestamp) {
        let NumbersEvent::NumbersTaken(taken) = event;
        self.last = taken.first.saturating_add(taken.count).saturating_sub(1);
    }

    fn observe(&self) -> serde_json::Value {
        serde_json::json!({"last": self.last})
    }
}

/// Takes `count` numbers; answers the first of them.
#[derive(Clone, Copy, Debug)]
pub struct TakeNumbers {
    /// How many: 1 to [`NUMBERS_AT_ONCE_MAX`].
    pub count: u64,
}

impl Command for TakeNumbers {
    const NAME: &'static str = "take_numbers";
    const ESSENTIAL: bool = true;
}

impl Handle<TakeNumbers> for Numbers {
    type Reply = u64;

    fn handle(turn: &mut Turn<'_, Self>, command: TakeNumbers) -> Result<u64, Refusal> {
        let (count, first) = (command.count, turn.state().last + 1);
        if !(1..=NUMBERS_AT_ONCE_MAX).contains(&count) {
            return Err(Refusal::invalid("count", "so many numbers are not handed out at once"));
        }
        if first + count > NUMBER_END {
            let message = "the series has no numbers left";
            return Err(Refusal::new(Class::Conflict, "numbers_exhausted", message));
        }
        turn.record(NumbersEvent::NumbersTaken(NumbersTaken { first, count }));
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supervision::testkit::Given;

    #[test]
    fn numbers_are_handed_out_once_and_end_below_2_to_the_53() {
        let (first, given) = Given::<Numbers>::nothing().when(TakeNumbers { count: 256 }).reply();
        let (second, _) = given.when(TakeNumbers { count: 1 }).reply();
        assert_eq!((first, second), (1, 257));

        let taken = |first, count| NumbersEvent::NumbersTaken(NumbersTaken { first, count });
        let given = Given::<Numbers>::events([taken(1, NUMBER_END - 3)]);
        let (code, given) = given.when(TakeNumbers { count: 3 }).refused();
        assert_eq!(code, "numbers_exhausted");
        let (first, given) = given.when(TakeNumbers { count: 2 }).reply();
        assert_eq!(first, NUMBER_END - 2);
        given.when(TakeNumbers { count: 1 }).refused();
    }

    #[test]
    fn a_count_that_makes_no_sense_is_refused() {
        for count in [0, NUMBERS_AT_ONCE_MAX + 1] {
            Given::<Numbers>::nothing().when(TakeNumbers { count }).refused();
        }
    }
}
