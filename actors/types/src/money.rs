//! Credits: integers, never floats. Arithmetic is checked; what would overflow is an error.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The greatest amount of one posting, in credits.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// A number of credits is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// It is no [`Amount`].
    #[error("an amount is a whole number of credits from 1 to {AMOUNT_MAX}")]
    Amount,
    /// It is no [`SharePercent`].
    #[error("a share is a whole percentage from 0 to 100")]
    Share,
    /// A sum is beyond what can be counted.
    #[error("a sum of credits is beyond what can be counted")]
    Overflow,
}

/// A number of credits: a balance, or a signed change of one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Credits(pub i64);

impl Credits {
    /// None.
    pub const ZERO: Self = Self(0);

    /// The sum.
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::Overflow)
    }

    /// The difference, which may be negative.
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyError::Overflow)
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Amount> for Credits {
    fn from(amount: Amount) -> Self {
        Self(amount.0)
    }
}

/// What is moved at once: 1 to [`AMOUNT_MAX`] credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Amount(i64);

impl Amount {
    /// An amount, if it is in range.
    pub fn new(credits: i64) -> Result<Self, MoneyError> {
        if (1..=AMOUNT_MAX).contains(&credits) {
            Ok(Self(credits))
        } else {
            Err(MoneyError::Amount)
        }
    }

    /// How many credits.
    pub fn credits(self) -> i64 {
        self.0
    }
}

impl TryFrom<i64> for Amount {
    type Error = MoneyError;

    fn try_from(credits: i64) -> Result<Self, MoneyError> {
        Self::new(credits)
    }
}

impl From<Amount> for i64 {
    fn from(amount: Amount) -> Self {
        amount.0
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl utoipa::ToSchema for Amount {}

impl utoipa::PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        i64::schema()
    }
}

/// A developer's share of a price, 0 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct SharePercent(u8);

impl SharePercent {
    /// A share, if it is in range.
    pub fn new(percent: u8) -> Result<Self, MoneyError> {
        if percent <= 100 { Ok(Self(percent)) } else { Err(MoneyError::Share) }
    }

    /// The percentage.
    pub fn percent(self) -> u8 {
        self.0
    }

    /// The share of `credits`, rounded down; none of what is not positive.
    pub fn of(self, credits: i64) -> i64 {
        // In 128 bits the product cannot overflow, and the quotient is at most `credits`.
        (i128::from(credits.max(0)) * i128::from(self.0) / 100) as i64
    }
}

impl TryFrom<u8> for SharePercent {
    type Error = MoneyError;

    fn try_from(percent: u8) -> Result<Self, MoneyError> {
        Self::new(percent)
    }
}

impl From<SharePercent> for u8 {
    fn from(share: SharePercent) -> Self {
        share.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_in_range_however_it_comes() {
        for credits in [1, AMOUNT_MAX] {
            assert_eq!(Amount::new(credits).unwrap().credits(), credits);
            assert!(serde_json::from_str::<Amount>(&credits.to_string()).is_ok());
        }
        for credits in [i64::MIN, -1, 0, AMOUNT_MAX + 1] {
            assert_eq!(Amount::new(credits), Err(MoneyError::Amount));
            assert!(serde_json::from_str::<Amount>(&credits.to_string()).is_err());
        }
        assert!(serde_json::from_str::<Amount>("1.5").is_err());
    }

    #[test]
    fn sums_do_not_wrap() {
        assert_eq!(Credits(i64::MAX).plus(Credits(1)), Err(MoneyError::Overflow));
        assert_eq!(Credits(i64::MIN).minus(Credits(1)), Err(MoneyError::Overflow));
        assert_eq!(Credits(2).minus(Credits(5)), Ok(Credits(-3)));
    }

    #[test]
    fn a_share_is_rounded_down_and_does_not_overflow() {
        let share = SharePercent::new(80).unwrap();
        assert_eq!([0, 1, 2, 99].map(|credits| share.of(credits)), [0, 0, 1, 79]);
        assert_eq!(share.of(-5), 0);
        assert_eq!(SharePercent::new(100).unwrap().of(i64::MAX), i64::MAX);
        assert_eq!(SharePercent::new(101), Err(MoneyError::Share));
    }
}
