//! JSON as a client may send it, checked before anything is made of it: no member twice in one
//! object (whoever reads it next may believe the other one; RFC 8259, section 4), nothing nested
//! deeper than [`NESTING_MAX`], no object of more than [`MEMBERS_MAX`] members, no half of a
//! surrogate pair.
//!
//! It costs a second reading of the body, which keeps nothing but the names of one path.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use supervision::{Class, Refusal};

/// How deep objects and lists may stand in each other.
pub const NESTING_MAX: usize = 64;
/// The most members of one object.
pub const MEMBERS_MAX: usize = 65_536;

/// Refuses a body that is no JSON (400 `malformed_json`), or not of the sort that is read here
/// (400, or 422 with the path of the member).
pub fn check(bytes: &[u8]) -> Result<(), Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut trail = Trail::default();
    let read = reader.deserialize_any(Look(&mut trail)).and_then(|()| reader.end());
    let Err(error) = read else { return Ok(()) };
    let place = trail.to_string();
    match trail.fault {
        Some(Fault::Deep) => {
            let message = format!("the body is nested deeper than {NESTING_MAX} levels");
            Err(Refusal::new(Class::BadRequest, "malformed_json", message))
        }
        Some(Fault::Twice) => Err(Refusal::invalid(&place, "is there more than once")),
        Some(Fault::Many) => {
            Err(Refusal::invalid(&place, format!("has more than {MEMBERS_MAX} members")))
        }
        None if is_half_pair(&error) => {
            Err(Refusal::invalid(&place, "holds half of a surrogate pair, which is no character"))
        }
        None => Err(malformed(&error)),
    }
}

/// 400: the text is no JSON.
pub fn malformed(error: &serde_json::Error) -> Refusal {
    let message = format!("the body is not JSON: {error}");
    Refusal::new(Class::BadRequest, "malformed_json", message)
}

/// Whether the reader met `\ud800` without its other half. It has no code for that, only words.
fn is_half_pair(error: &serde_json::Error) -> bool {
    let text = error.to_string();
    text.contains("surrogate") || text.starts_with("unexpected end of hex escape")
}

#[derive(Debug)]
enum Fault {
    Twice,
    Deep,
    Many,
}

enum Step {
    Member(String),
    Item(usize),
}

/// Where the reader is, and what it met there.
#[derive(Default)]
struct Trail {
    path: Vec<Step>,
    fault: Option<Fault>,
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str("body");
        }
        for (index, step) in self.path.iter().enumerate() {
            match step {
                Step::Member(name) if index == 0 => f.write_str(name)?,
                Step::Member(name) => write!(f, ".{name}")?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        Ok(())
    }
}

impl Trail {
    fn fail<E: serde::de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("refused")
    }

    fn enter<E: serde::de::Error>(&mut self, step: Step) -> Result<(), E> {
        self.path.push(step);
        if self.path.len() > NESTING_MAX { Err(self.fail(Fault::Deep)) } else { Ok(()) }
    }
}

/// Looks at one value. The path stays where it is when something is wrong there.
struct Look<'t>(&'t mut Trail);

impl<'de> serde::de::DeserializeSeed<'de> for Look<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self(trail) = self;
        for item in 0.. {
            trail.enter(Step::Item(item))?;
            let more = list.next_element_seed(Look(trail))?;
            trail.path.pop();
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self(trail) = self;
        let mut names = HashSet::new();
        while let Some(name) = object.next_key::<String>()? {
            if names.len() == MEMBERS_MAX {
                return Err(trail.fail(Fault::Many));
            }
            trail.enter(Step::Member(name.clone()))?;
            if !names.insert(name) {
                return Err(trail.fail(Fault::Twice));
            }
            object.next_value_seed(Look(trail))?;
            trail.path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, code: &str, part: &str) {
        let refusal = check(text.as_bytes()).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(part), "{refusal}");
    }

    #[test]
    fn a_member_that_is_there_twice_is_named_with_its_path() {
        assert!(check(br#"{"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 1}, {"x": 1}]}"#).is_ok());
        refused(r#"{"amount": 1, "amount": 2}"#, "validation_error", "amount: is there");
        refused(r#"{"c": [{}, {"x": 1, "\u0078": 2}]}"#, "validation_error", "c[1].x: is there");
    }

    #[test]
    fn depth_is_limited_and_what_is_no_json_is_said_so() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check(nested(NESTING_MAX).as_bytes()).is_ok());
        refused(&nested(NESTING_MAX + 2), "malformed_json", "nested deeper");
        refused(&format!("{{\"a\": {}", "[".repeat(100_000)), "malformed_json", "nested deeper");
        refused("{\"a\": ", "malformed_json", "is not JSON");
        refused("{} x", "malformed_json", "is not JSON");
        refused("", "malformed_json", "is not JSON");
        refused("\"a\u{0}\"", "malformed_json", "is not JSON");
    }

    #[test]
    fn half_a_pair_is_no_character() {
        assert!(check(br#"{"name": "\ud83d\ude00"}"#).is_ok());
        for half in ["\\ud83d", "\\ude00", "\\ud83d\\u0041"] {
            refused(&format!("{{\"name\": \"{half}\"}}"), "validation_error", "name: holds half");
        }
    }
}
