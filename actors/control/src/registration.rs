//! What the registry knows of an app beside the app itself: the tools and sections that its
//! developer has registered, its settings, its configuration, and its manifest.
//!
//! Invariants
//! - What is registered says nothing about what can be called: that are the functions of the
//!   version that is deployed.
//! - Each part is replaced as a whole but the settings, which are merged.
//! - What is as it was leaves no record.
//!
//! Deliberate limits
//! - A part has at most [`PART_BYTES_MAX`] bytes of JSON.
//! - Whether an app is there, and whose it is, is for whoever asks.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use supervision::{Address, Command, Entity, Handle, Home, NoEffect, Refusal, Timestamp, Turn};
use types::{AppId, JsonBytes, owner_of_app};

/// The most bytes of a part's JSON text.
pub const PART_BYTES_MAX: usize = 256 * 1024;
/// The most tools that an app registers.
pub const TOOLS_MAX: usize = 500;
/// The most sections that an app registers.
pub const SECTIONS_MAX: usize = 100;
/// Characters of a version.
pub const VERSION_CHARACTERS_MAX: usize = 128;
/// How deep settings are merged; what is deeper is replaced.
const MERGE_DEPTH_MAX: usize = 16;

/// The tools and sections that were registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tools {
    /// The tools, a list of objects.
    pub tools: JsonBytes,
    /// How many.
    pub tools_count: u32,
    /// The sections, a list of objects.
    pub sections: JsonBytes,
    /// How many.
    pub sections_count: u32,
    /// The version that they are of.
    pub version: Option<String>,
}

/// One part of what is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Free configuration, an object.
    Config(JsonBytes),
    /// The settings as they are now, an object.
    Settings(JsonBytes),
    /// The manifest, an object.
    Manifest(JsonBytes),
    /// Tools and sections.
    Tools(Tools),
}

/// What the registry knows of an app.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registration {
    /// Free configuration.
    pub config: Option<JsonBytes>,
    /// The settings.
    pub settings: Option<JsonBytes>,
    /// The manifest.
    pub manifest: Option<JsonBytes>,
    /// Tools and sections.
    pub tools: Option<Tools>,
    /// The last change.
    pub changed_at: Option<Timestamp>,
}

impl Registration {
    /// Where the registration of an app of this home lives.
    pub fn address(app: &AppId, home: Home) -> Address<Self> {
        let address = Address::new(app.as_str(), owner_of_app(app), home);
        // A slug is neither empty, nor too long, nor unprintable.
        address.unwrap_or_else(|| panic!("{app} has no address"))
    }

    fn has(&self, part: &Part) -> bool {
        match part {
            Part::Config(config) => self.config.as_ref() == Some(config),
            Part::Settings(settings) => self.settings.as_ref() == Some(settings),
            Part::Manifest(manifest) => self.manifest.as_ref() == Some(manifest),
            Part::Tools(tools) => self.tools.as_ref() == Some(tools),
        }
    }
}

/// A part is another one now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSet {
    /// The app.
    pub app: AppId,
    /// The part.
    pub part: Part,
}

supervision::events! {
    /// What happens to a registration.
    pub enum RegistrationEvent {
        /// A part is another one now.
        PartSet(PartSet) = "part_set", 1;
    }
}

impl Entity for Registration {
    const KIND: &'static str = "registration";
    type Event = RegistrationEvent;
    type Effect = NoEffect;

    fn apply(&mut self, RegistrationEvent::PartSet(set): &RegistrationEvent, at: Timestamp) {
        match set.part.clone() {
            Part::Config(config) => self.config = Some(config),
            Part::Settings(settings) => self.settings = Some(settings),
            Part::Manifest(manifest) => self.manifest = Some(manifest),
            Part::Tools(tools) => self.tools = Some(tools),
        }
        self.changed_at = Some(at);
    }

    fn observe(&self) -> Value {
        let bytes = |part: &Option<JsonBytes>| part.as_ref().map(|part| part.as_str().len());
        json!({
            "config_bytes": bytes(&self.config),
            "settings_bytes": bytes(&self.settings),
            "manifest_bytes": bytes(&self.manifest),
            "tools": self.tools.as_ref().map(|tools| tools.tools_count),
            "sections": self.tools.as_ref().map(|tools| tools.sections_count),
        })
    }
}

/// Replaces a part. 422 when it is too large.
#[derive(Clone, Debug)]
pub struct SetPart {
    /// The app.
    pub app: AppId,
    /// The part.
    pub part: Part,
}

impl Command for SetPart {
    const NAME: &'static str = "set_part";
}

fn check_bytes(field: &str, json: &JsonBytes) -> Result<(), Refusal> {
    let fits = json.as_str().len() <= PART_BYTES_MAX;
    let message = || format!("at most {PART_BYTES_MAX} bytes");
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message()))
}

fn check_tools(tools: &Tools) -> Result<(), Refusal> {
    let counts = [
        ("tools", tools.tools_count, TOOLS_MAX),
        ("skeleton_sections", tools.sections_count, SECTIONS_MAX),
    ];
    if let Some((field, _, max)) = counts.iter().find(|(_, count, max)| *count as usize > *max) {
        return Err(Refusal::invalid(field, format!("at most {max}")));
    }
    let fits = |version: &String| (1..=VERSION_CHARACTERS_MAX).contains(&version.chars().count());
    if !tools.version.as_ref().is_none_or(fits) {
        let message = format!("1 to {VERSION_CHARACTERS_MAX} characters");
        return Err(Refusal::invalid("version", message));
    }
    check_bytes("tools", &tools.tools)?;
    check_bytes("skeleton_sections", &tools.sections)
}

impl Handle<SetPart> for Registration {
    type Reply = Self;

    fn handle(turn: &mut Turn<'_, Self>, command: SetPart) -> Result<Self, Refusal> {
        let SetPart { app, part } = command;
        match &part {
            Part::Config(config) => check_bytes("config", config)?,
            Part::Settings(settings) => check_bytes("settings", settings)?,
            Part::Manifest(manifest) => check_bytes("manifest", manifest)?,
            Part::Tools(tools) => check_tools(tools)?,
        }
        if !turn.state().has(&part) {
            turn.record(RegistrationEvent::PartSet(PartSet { app, part }));
        }
        Ok(turn.state().clone())
    }
}

/// Merges changes into the settings: objects member by member, everything else as a whole; null
/// takes a member away (the rules of RFC 7396). 422 when what comes of it is too large.
#[derive(Clone, Debug)]
pub struct MergeSettings {
    /// The app.
    pub app: AppId,
    /// The changes, an object.
    pub changes: JsonBytes,
}

impl Command for MergeSettings {
    const NAME: &'static str = "merge_settings";
}

impl Handle<MergeSettings> for Registration {
    type Reply = Self;

    fn handle(turn: &mut Turn<'_, Self>, command: MergeSettings) -> Result<Self, Refusal> {
        let MergeSettings { app, changes } = command;
        let settings = turn.state().settings.as_ref().map(JsonBytes::value);
        let merged = merged(settings.unwrap_or_else(|| json!({})), changes.value(), 0);
        let part = Part::Settings(JsonBytes::from(merged));
        Self::handle(turn, SetPart { app, part })
    }
}

/// Both in one (RFC 7396, section 2).
fn merged(old: Value, changes: Value, depth: usize) -> Value {
    let Value::Object(changes) = changes else { return changes };
    let mut all = match old {
        Value::Object(old) if depth < MERGE_DEPTH_MAX => old,
        _ => Map::new(),
    };
    for (name, change) in changes {
        match change {
            Value::Null => drop(all.remove(&name)),
            change => {
                let before = all.get_mut(&name).map(Value::take).unwrap_or_default();
                all.insert(name, merged(before, change, depth + 1));
            }
        }
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn app() -> AppId {
        AppId::new("shelf").unwrap()
    }

    fn merge(changes: Value) -> MergeSettings {
        MergeSettings { app: app(), changes: JsonBytes::from(changes) }
    }

    #[test]
    fn settings_are_merged_member_by_member() {
        let first = json!({"general": {"name": "Shelf", "icon": "book"}, "models": {"use": "a"}});
        let then = Given::<Registration>::nothing().when(merge(first)).then();
        let second = merge(json!({"general": {"icon": null}, "models": {"use": "b"}}));
        let then = then.when(second.clone());
        let settings = then.outcome.as_ref().unwrap().settings.clone().unwrap().value();
        assert_eq!(settings, json!({"general": {"name": "Shelf"}, "models": {"use": "b"}}));
        assert!(then.then().when(second).events.is_empty(), "what is so already is no change");
    }

    #[test]
    fn a_part_has_its_limits() {
        let set = |part| Given::<Registration>::nothing().when(SetPart { app: app(), part });
        let large = JsonBytes::from(json!({"x": "x".repeat(PART_BYTES_MAX)}));
        assert!(set(Part::Config(large)).outcome.is_err());
        let tools = Tools { tools_count: TOOLS_MAX as u32 + 1, ..Tools::default() };
        assert!(set(Part::Tools(tools.clone())).outcome.is_err());
        let tools = Tools { tools_count: 1, version: Some(String::new()), ..tools };
        assert!(set(Part::Tools(tools.clone())).outcome.is_err());
        let tools = Tools { version: Some("1.0.0".to_owned()), ..tools };
        assert_eq!(set(Part::Tools(tools.clone())).outcome.unwrap().tools, Some(tools));
    }
}
