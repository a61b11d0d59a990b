//! Where and why a document is refused: issues with a path, and strict readers that collect them.
//!
//! Invariants: an issue always names the exact place (`app.functions[2].steps[0].args.kind`); all
//! issues of a document are collected, up to [`ISSUES_MAX`]; text of the document that is repeated
//! in an issue is cut to [`SHOWN_CHARS_MAX`].

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// Issues kept for one document; what comes after them is dropped.
pub const ISSUES_MAX: usize = 100;

/// Characters of the refused document that one path part or message repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// One reason to refuse a document, and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// The place, such as `app.functions[2].steps[0].args.kind`; empty for the document itself.
    pub path: String,
    /// What is wrong there, in words.
    pub message: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return formatter.write_str(&self.message);
        }
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

/// Joins issues into one line, as answers with a single text field show them.
#[must_use]
pub fn join(issues: &[Issue]) -> String {
    let shown: Vec<String> = issues.iter().map(Issue::to_string).collect();
    shown.join("; ")
}

/// The issues found so far.
#[derive(Debug, Default)]
pub(crate) struct Issues(Vec<Issue>);

impl Issues {
    pub(crate) fn add(&mut self, at: &At<'_>, message: impl Into<String>) {
        if self.0.len() < ISSUES_MAX {
            self.0.push(Issue { path: at.to_string(), message: message.into() });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_list(self) -> Vec<Issue> {
        self.0
    }
}

/// A place in a document: a chain on the stack that becomes text only when an issue needs it.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The document itself; an empty name shows nothing.
    pub(crate) fn root(name: &'a str) -> Self {
        Self { parent: None, part: Part::Key(name) }
    }

    pub(crate) fn key(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), part: Part::Key(name) }
    }

    pub(crate) fn index(&'a self, position: usize) -> Self {
        Self { parent: Some(self), part: Part::Index(position) }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dot = "";
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
            let named = parent.parent.is_some() || !matches!(parent.part, Part::Key(""));
            dot = if named { "." } else { "" };
        }
        match self.part {
            Part::Key(name) => write!(formatter, "{dot}{}", shown(name)),
            Part::Index(position) => write!(formatter, "[{position}]"),
        }
    }
}

/// A text of the document, cut to what a message may repeat.
pub(crate) fn shown(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS_MAX).is_none() {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
}

/// The JSON type of a value, as messages name it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Bounds of a text, in characters.
pub(crate) struct Chars {
    pub(crate) min: usize,
    pub(crate) max: usize,
}

impl Chars {
    pub(crate) const fn up_to(max: usize) -> Self {
        Self { min: 0, max }
    }

    pub(crate) const fn some_up_to(max: usize) -> Self {
        Self { min: 1, max }
    }
}

/// An object whose keys are all known; reads its fields and collects what is wrong with them.
/// A null counts as absent in optional fields.
pub(crate) struct Fields<'v, 'a> {
    map: &'v Map<String, Value>,
    pub(crate) at: &'a At<'a>,
}

impl<'v, 'a> Fields<'v, 'a> {
    pub(crate) fn read(
        value: &'v Value,
        at: &'a At<'a>,
        known: &[&str],
        issues: &mut Issues,
    ) -> Option<Self> {
        let map = object(value, at, issues)?;
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("unknown key; known here are {}", known.join(", "));
            issues.add(&at.key(name), message);
        }
        Some(Self { map, at })
    }

    pub(crate) fn optional(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn required(&self, name: &str, issues: &mut Issues) -> Option<&'v Value> {
        let value = self.map.get(name);
        if value.is_none() {
            issues.add(&self.at.key(name), "is required");
        }
        value
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str, chars: &Chars, issues: &mut Issues) -> String {
        let Some(value) = self.required(name, issues) else { return String::new() };
        text(value, &self.at.key(name), chars, issues).unwrap_or_default()
    }

    pub(crate) fn text_or(
        &self,
        name: &str,
        default: &str,
        chars: &Chars,
        issues: &mut Issues,
    ) -> String {
        match self.optional(name) {
            Some(value) => text(value, &self.at.key(name), chars, issues).unwrap_or_default(),
            None => default.to_owned(),
        }
    }

    /// The items of an optional list; an absent one is empty.
    pub(crate) fn list(&self, name: &str, max: usize, issues: &mut Issues) -> &'v [Value] {
        match self.optional(name) {
            Some(value) => list(value, &self.at.key(name), max, issues),
            None => &[],
        }
    }

    pub(crate) fn texts(
        &self,
        name: &str,
        max: usize,
        chars: &Chars,
        issues: &mut Issues,
    ) -> Vec<String> {
        let at = self.at.key(name);
        let items = self.list(name, max, issues).iter().enumerate();
        items.filter_map(|(i, item)| text(item, &at.index(i), chars, issues)).collect()
    }

    /// An optional object that the format leaves open.
    pub(crate) fn open_object(&self, name: &str, issues: &mut Issues) -> Option<Value> {
        let value = self.optional(name)?;
        object(value, &self.at.key(name), issues)?;
        Some(value.clone())
    }
}

/// The members of a value that has to be an object.
pub(crate) fn object<'a>(
    value: &'a Value,
    at: &At<'_>,
    issues: &mut Issues,
) -> Option<&'a Map<String, Value>> {
    let map = value.as_object();
    if map.is_none() {
        issues.add(at, format!("must be an object, not {}", type_name(value)));
    }
    map
}

/// The items of a value that has to be a list of at most `max`.
pub(crate) fn list<'a>(
    value: &'a Value,
    at: &At<'_>,
    max: usize,
    issues: &mut Issues,
) -> &'a [Value] {
    let Some(items) = value.as_array() else {
        issues.add(at, format!("must be a list, not {}", type_name(value)));
        return &[];
    };
    if items.len() > max {
        issues.add(at, format!("has {} items; the limit is {max}", items.len()));
        return &[];
    }
    items
}

/// A value that has to be a text within the bounds.
pub(crate) fn text(
    value: &Value,
    at: &At<'_>,
    chars: &Chars,
    issues: &mut Issues,
) -> Option<String> {
    let Some(text) = value.as_str() else {
        issues.add(at, format!("must be text, not {}", type_name(value)));
        return None;
    };
    let count = text.chars().count();
    if count < chars.min {
        issues.add(at, "must not be empty");
        return None;
    }
    if count > chars.max {
        issues.add(at, format!("has {count} characters; the limit is {}", chars.max));
        return None;
    }
    Some(text.to_owned())
}
