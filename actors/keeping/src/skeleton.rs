//! What an app keeps at hand about one user: a few named sections of JSON, which its runtime writes
//! and reads as a whole.
//!
//! Invariants
//! - A section's version rises by one with each change; with `if_match` a change is made to that
//!   version or not at all.
//! - A section with an end is not there any more from then on, for readers at once.
//! - It is the user's: sealed under their own key, and erased with it.
//!
//! Deliberate limits
//! - No look-up by content, and no parts of a section; that is what documents are for.
//! - It stays behind when its tenant moves: the app makes it anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{Address, Command, Entity, Handle, NoEffect, Refusal, Timestamp, Turn};
use types::{AppId, JsonBytes, TenantId, UserId, base32, home_of, owner_of_user, rfc3339};

/// Sections of one user and app.
pub const SECTIONS_MAX: usize = 64;
/// Bytes of one section's JSON text.
pub const SECTION_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all sections of one user and app together.
pub const SKELETON_BYTES_MAX: usize = 512 * 1024;
/// Bytes of a section's name.
pub const SECTION_NAME_BYTES_MAX: usize = 100;
/// How long a section may be good for, in seconds: 30 days.
pub const TTL_SECONDS_MAX: u64 = 30 * 24 * 3_600;

/// The sections of one user and app in one tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Skeleton {
    sections: BTreeMap<String, Section>,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// From 1 up.
    pub version: u64,
    /// What it holds, a JSON object.
    pub data: JsonBytes,
    /// Since when it holds that.
    pub updated_at: Timestamp,
    /// Until when it is there; `None` for good.
    pub until: Option<Timestamp>,
}

impl Skeleton {
    /// Where it lives.
    pub fn address(tenant: TenantId, user: UserId, app: &AppId) -> Address<Self> {
        let id = format!("{}.{}.{app}", base32(tenant.0), base32(user.0));
        crate::address(&id, owner_of_user(user), home_of(tenant))
    }

    /// A section as it stands at `now`.
    pub fn section(&self, name: &str, now: Timestamp) -> Option<&Section> {
        self.sections.get(name).filter(|section| section.is_there(now))
    }

    fn bytes(&self) -> usize {
        self.sections.values().map(|section| section.data.as_str().len()).sum()
    }
}

impl Section {
    fn is_there(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// A section holds something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SectionSet {
    /// Its name.
    pub name: String,
    /// What it holds, a JSON object.
    pub data: JsonBytes,
    /// Until when; `None` for good.
    pub until: Option<Timestamp>,
}

/// A section has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SectionEnded {
    /// Its name.
    pub name: String,
}

supervision::events! {
    /// What happens to a skeleton.
    pub enum SkeletonEvent {
        /// A section holds something else.
        Set(SectionSet) = "section_set", 1;
        /// A section has ended.
        Ended(SectionEnded) = "section_ended", 1;
    }
}

impl Entity for Skeleton {
    const KIND: &'static str = "skeleton";
    type Event = SkeletonEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &SkeletonEvent, at: Timestamp) {
        match event {
            SkeletonEvent::Set(SectionSet { name, data, until }) => {
                let version = self.sections.get(name).map_or(0, |known| known.version) + 1;
                let section =
                    Section { version, data: data.clone(), updated_at: at, until: *until };
                self.sections.insert(name.clone(), section);
            }
            SkeletonEvent::Ended(SectionEnded { name }) => {
                self.sections.remove(name);
            }
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.sections.values().filter_map(|section| section.until).min()
    }

    fn due(turn: &mut Turn<'_, Self>) {
        let now = turn.now();
        let over = turn.state().sections.iter().filter(|(_, section)| !section.is_there(now));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            turn.record(SkeletonEvent::Ended(SectionEnded { name }));
        }
    }

    fn observe(&self) -> serde_json::Value {
        let section = |(name, it): (&String, &Section)| {
            json!({"name": name, "version": it.version, "bytes": it.data.as_str().len(),
                "updated_at": rfc3339(it.updated_at), "until": it.until.map(rfc3339)})
        };
        json!({"sections": self.sections.iter().map(section).collect::<Vec<_>>()})
    }
}

/// Sets what a section holds. Answers the section. 409 `version_conflict` when it is not in the
/// version that is insisted on, 422 for what is too much.
#[derive(Clone, Debug)]
pub struct SetSection {
    /// Its name.
    pub name: String,
    /// What it holds, a JSON object.
    pub data: JsonBytes,
    /// For how long, in seconds; `None` for good.
    pub ttl_seconds: Option<u64>,
    /// The version that it must be in; 0 for none yet.
    pub if_match: Option<u64>,
}

impl Command for SetSection {
    const NAME: &'static str = "set_section";
}

impl Handle<SetSection> for Skeleton {
    type Reply = Section;

    fn handle(turn: &mut Turn<'_, Self>, command: SetSection) -> Result<Section, Refusal> {
        let SetSection { name, data, ttl_seconds, if_match } = command;
        check_name(&name)?;
        let now = turn.now();
        let until = ttl_seconds.map(|seconds| ends_at(now, seconds)).transpose()?;
        let known = turn.state().section(&name, now).cloned();
        let version = known.as_ref().map_or(0, |known| known.version);
        if if_match.is_some_and(|wanted| wanted != version) {
            let message = format!("the section is in version {version}");
            let refusal = Refusal::conflict("version_conflict", message);
            return Err(refusal.with_facts(&json!({"version": version})));
        }
        check_size(turn.state(), known.as_ref(), &data)?;
        // Saying the same again is no change, unless time has to begin again.
        if let Some(known) = known.filter(|known| known.data == data && known.until == until) {
            return Ok(known);
        }
        let set = SectionSet { name: name.clone(), data, until };
        turn.record(SkeletonEvent::Set(set));
        turn.state().sections.get(&name).cloned().ok_or_else(Refusal::crashed)
    }
}

/// 422 for a name that will not do.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
    if name.is_empty() || name.len() > SECTION_NAME_BYTES_MAX || !name.bytes().all(is_fit) {
        let message = format!("1 to {SECTION_NAME_BYTES_MAX} of letters, digits and _-.:");
        return Err(Refusal::invalid_at("path", "section", message));
    }
    Ok(())
}

fn ends_at(now: Timestamp, seconds: u64) -> Result<Timestamp, Refusal> {
    if !(1..=TTL_SECONDS_MAX).contains(&seconds) {
        let message = format!("must be from 1 to {TTL_SECONDS_MAX}");
        return Err(Refusal::invalid("ttl_seconds", message));
    }
    Ok(now.plus_ms(i64::try_from(seconds * 1_000).unwrap_or(i64::MAX)))
}

fn check_size(
    skeleton: &Skeleton,
    known: Option<&Section>,
    data: &JsonBytes,
) -> Result<(), Refusal> {
    let bytes = data.as_str().len();
    if bytes > SECTION_BYTES_MAX {
        let message = format!("a section has at most {SECTION_BYTES_MAX} bytes");
        return Err(Refusal::invalid("data", message));
    }
    if known.is_none() && skeleton.sections.len() >= SECTIONS_MAX {
        let message = format!("there are at most {SECTIONS_MAX} sections");
        return Err(Refusal::invalid("section", message));
    }
    let before = known.map_or(0, |known| known.data.as_str().len());
    if skeleton.bytes() + bytes - before > SKELETON_BYTES_MAX {
        let message = format!("all sections have at most {SKELETON_BYTES_MAX} bytes together");
        return Err(Refusal::invalid("data", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn set(name: &str, value: serde_json::Value) -> SetSection {
        let name = name.to_owned();
        SetSection { name, data: value.into(), ttl_seconds: None, if_match: None }
    }

    #[test]
    fn a_section_is_replaced_and_its_version_rises() {
        let given = Given::<Skeleton>::nothing();
        let (first, given) = given.when(set("inbox", json!({"unread": 1}))).reply();
        assert_eq!(first.version, 1);
        let again = given.when(set("inbox", json!({"unread": 1})));
        assert!(again.events.is_empty(), "the same again is no change");
        let (second, given) = again.then().when(set("inbox", json!({"unread": 2}))).reply();
        assert_eq!((second.version, second.data.value()), (2, json!({"unread": 2})));
        let stale = SetSection { if_match: Some(1), ..set("inbox", json!({})) };
        let (code, given) = given.when(stale).refused();
        assert_eq!(code, "version_conflict");
        let fresh = SetSection { if_match: Some(0), ..set("other", json!({})) };
        assert_eq!(given.when(fresh).reply().0.version, 1);
    }

    #[test]
    fn a_section_ends_when_it_said_so() {
        let brief = SetSection { ttl_seconds: Some(60), ..set("a", json!({})) };
        let given = Given::<Skeleton>::nothing().when(brief.clone()).then().later_ms(59_999);
        assert!(given.state().section("a", given.now()).is_some());
        let given = given.later_ms(1);
        assert!(given.state().section("a", given.now()).is_none(), "for readers at once");
        let given = given.when_due().then();
        assert!(given.state().sections.is_empty());
        assert_eq!(given.when(brief).reply().0.version, 1);
        let never = SetSection { ttl_seconds: Some(0), ..set("a", json!({})) };
        let refused = Given::<Skeleton>::nothing().when(never).refused();
        assert_eq!(refused.0, "validation_error");
    }

    #[test]
    fn there_is_room_for_so_much() {
        let large = |bytes: usize| json!({"x": "x".repeat(bytes)});
        let refused = |given: Given<Skeleton>, command| {
            let (code, given) = given.when(command).refused();
            assert_eq!(code, "validation_error");
            given
        };
        let given = Given::<Skeleton>::nothing();
        let mut given = refused(given, set("a", large(SECTION_BYTES_MAX)));
        for name in ["", "a b", &"x".repeat(SECTION_NAME_BYTES_MAX + 1)] {
            given = refused(given, set(name, json!({})));
        }
        for at in 0..8 {
            given = given.when(set(&format!("s{at}"), large(SECTION_BYTES_MAX - 100))).then();
        }
        let given = refused(given, set("one_more", large(1_000)));
        // What takes the place of something needs no room beside it.
        let (again, _) = given.when(set("s0", large(SECTION_BYTES_MAX - 90))).reply();
        assert_eq!(again.version, 2);
        let many = (0..SECTIONS_MAX).fold(Given::<Skeleton>::nothing(), |given, at| {
            given.when(set(&at.to_string(), json!({}))).then()
        });
        refused(many, set("one_more", json!({})));
    }
}
