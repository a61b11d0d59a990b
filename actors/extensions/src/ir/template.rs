//! Bindings: `{{ path }}` in the texts of a step or a panel, parsed once, resolved at each run.
//!
//! A text that is exactly one binding takes the bound value itself; inside other text a binding is
//! turned into text. A path that leads nowhere is the empty text. Paths walk objects by key and
//! lists by position. Roots: `args` and `event` (the call's params), `steps`, `prev`, `user`,
//! `tenant`, and the aliases of `$repeat`. Step names become positions when the program is parsed;
//! parts without a binding are kept as they are. What looks like a binding but is no path (other
//! characters than letters, digits, `_`, `-` and dots) is plain text. Keys are never resolved.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::issue::{At, Issues};
use super::meter::{Excess, Meter, VALUE_DEPTH_MAX, weigh};

/// Parts of one binding's path.
pub const PATH_PARTS_MAX: usize = 32;

/// What a path that leads nowhere resolves to.
static MISSING: Value = Value::String(String::new());

/// A value with bindings, ready to be resolved.
#[derive(Debug)]
pub(crate) enum Template {
    Literal { value: Value, bytes: usize },
    Binding(Path),
    Text(Vec<Piece>),
    List(Vec<Template>),
    Object(Vec<(String, Template)>),
}

#[derive(Debug)]
pub(crate) enum Piece {
    Plain(String),
    Binding(Path),
}

#[derive(Debug)]
pub(crate) struct Path {
    root: Root,
    parts: Box<[Part]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Params,
    AllSteps,
    Step(usize),
    Previous,
    User,
    Tenant,
    Alias(usize),
    Nothing,
}

#[derive(Debug)]
struct Part {
    key: Box<str>,
    position: Option<usize>,
}

/// The names that paths may begin with while a program is parsed.
#[derive(Default)]
pub(crate) struct Names<'a> {
    pub(crate) steps: HashMap<&'a str, usize>,
    pub(crate) aliases: Vec<&'a str>,
}

/// What paths lead into while a program runs.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) params: &'a Value,
    pub(crate) step_ids: &'a [String],
    pub(crate) results: &'a [Option<Value>],
    pub(crate) previous: Option<usize>,
    pub(crate) user: &'a Value,
    pub(crate) tenant: &'a Value,
    pub(crate) aliases: Option<&'a Alias<'a>>,
}

/// The item of a `$repeat` that is being rendered, and those around it.
pub(crate) struct Alias<'a> {
    pub(crate) value: &'a Value,
    pub(crate) position: usize,
    pub(crate) outer: Option<&'a Alias<'a>>,
}

impl Template {
    pub(crate) fn parse(
        value: &Value,
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Self {
        let template = match value {
            Value::String(text) => return parse_text(text, names, at, issues),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                Self::List(
                    items.map(|(i, v)| Self::parse(v, names, &at.index(i), issues)).collect(),
                )
            }
            Value::Object(members) => Self::Object(
                members
                    .iter()
                    .map(|(key, v)| (key.clone(), Self::parse(v, names, &at.key(key), issues)))
                    .collect(),
            ),
            _ => return Self::literal(value.clone()),
        };
        if template.is_constant() { Self::literal(value.clone()) } else { template }
    }

    fn literal(value: Value) -> Self {
        // Envelopes are checked for depth before anything is parsed, so the weight is known.
        let bytes = weigh(&value, VALUE_DEPTH_MAX).unwrap_or(usize::MAX);
        Self::Literal { value, bytes }
    }

    fn is_constant(&self) -> bool {
        let literal = |template: &Self| matches!(template, Self::Literal { .. });
        match self {
            Self::Literal { .. } => true,
            Self::Binding(_) | Self::Text(_) => false,
            Self::List(items) => items.iter().all(literal),
            Self::Object(members) => members.iter().all(|(_, member)| literal(member)),
        }
    }

    /// Whether this is one binding, whose value may have any type.
    pub(crate) fn is_binding(&self) -> bool {
        matches!(self, Self::Binding(_))
    }

    /// Whether this is one binding that leads to nothing or to null.
    pub(crate) fn is_absent(&self, scope: &Scope<'_>) -> bool {
        match self {
            Self::Binding(path) => scope.find(path).is_none_or(|value| value.is_null()),
            _ => false,
        }
    }

    /// The resolved value, borrowed where nothing has to be built.
    pub(crate) fn view<'a>(
        &'a self,
        scope: &Scope<'a>,
        meter: &mut Meter,
    ) -> Result<Cow<'a, Value>, Excess> {
        match self {
            Self::Literal { value, .. } => Ok(Cow::Borrowed(value)),
            Self::Binding(path) => {
                let found = scope.find(path).unwrap_or(Cow::Borrowed(&MISSING));
                if let Cow::Owned(built) = &found {
                    meter.take_value(built, 0)?;
                }
                Ok(found)
            }
            _ => self.resolve(scope, meter, 0).map(Cow::Owned),
        }
    }

    /// The resolved value, which is to stand `depth` levels below the root of what is built.
    pub(crate) fn resolve(
        &self,
        scope: &Scope<'_>,
        meter: &mut Meter,
        depth: usize,
    ) -> Result<Value, Excess> {
        match self {
            Self::Literal { value, bytes } => {
                meter.take(*bytes)?;
                Ok(value.clone())
            }
            Self::Binding(path) => {
                let found = scope.find(path).unwrap_or(Cow::Borrowed(&MISSING));
                meter.take_value(&found, depth)?;
                Ok(found.into_owned())
            }
            Self::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Plain(plain) => text.push_str(plain),
                        Piece::Binding(path) => {
                            if let Some(found) = scope.find(path) {
                                // Weighed first: the text is at most some times longer.
                                meter.take_value(&found, 0)?;
                                write_text(&found, &mut text);
                            }
                        }
                    }
                }
                meter.take_node(&text)?;
                Ok(Value::String(text))
            }
            Self::List(items) => {
                meter.take_node("")?;
                let items = items.iter().map(|item| item.resolve(scope, meter, depth + 1));
                items.collect::<Result<_, _>>().map(Value::Array)
            }
            Self::Object(members) => {
                meter.take_node("")?;
                let mut object = Map::with_capacity(members.len());
                for (key, member) in members {
                    meter.take(key.len())?;
                    object.insert(key.clone(), member.resolve(scope, meter, depth + 1)?);
                }
                Ok(Value::Object(object))
            }
        }
    }
}

impl<'a> Scope<'a> {
    fn find(&self, path: &Path) -> Option<Cow<'a, Value>> {
        let result = |position: usize| self.results.get(position).and_then(Option::as_ref);
        let root = match path.root {
            Root::Params => Some(self.params),
            Root::Step(position) => result(position),
            Root::Previous => self.previous.and_then(result),
            Root::User => Some(self.user),
            Root::Tenant => Some(self.tenant),
            Root::Alias(position) => self.alias(position),
            Root::Nothing => None,
            Root::AllSteps => {
                let named = self.step_ids.iter().zip(self.results);
                let bound = named.filter_map(|(id, value)| Some((id.clone(), value.clone()?)));
                return Some(Cow::Owned(Value::Object(bound.collect())));
            }
        };
        let found = path.parts.iter().try_fold(root?, |value, part| match value {
            Value::Object(members) => members.get(&*part.key),
            Value::Array(items) => items.get(part.position?),
            _ => None,
        });
        found.map(Cow::Borrowed)
    }

    fn alias(&self, position: usize) -> Option<&'a Value> {
        let mut alias = self.aliases;
        while let Some(found) = alias {
            if found.position == position {
                return Some(found.value);
            }
            alias = found.outer;
        }
        None
    }
}

fn parse_text(text: &str, names: &Names<'_>, at: &At<'_>, issues: &mut Issues) -> Template {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let (before, from_open) = rest.split_at(open);
        plain.push_str(before);
        let inner = &from_open[2..];
        let path = inner.find("}}").map(|close| (&inner[..close], &inner[close + 2..]));
        match path.map(|(path, after)| (path.trim(), after)) {
            Some((path, after)) if is_path(path) => {
                if !plain.is_empty() {
                    pieces.push(Piece::Plain(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Binding(parse_path(path, names, at, issues)));
                rest = after;
            }
            _ => {
                // One brace only, so that `{{{args.a}}` still finds the binding inside.
                plain.push('{');
                rest = &from_open[1..];
            }
        }
    }
    plain.push_str(rest);
    if pieces.is_empty() {
        return Template::literal(Value::String(plain));
    }
    if !plain.is_empty() {
        pieces.push(Piece::Plain(plain));
    }
    match pieces.pop() {
        Some(Piece::Binding(path)) if pieces.is_empty() => Template::Binding(path),
        last => {
            pieces.extend(last);
            Template::Text(pieces)
        }
    }
}

fn is_path(text: &str) -> bool {
    let named = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.split('.').all(|part| !part.is_empty() && part.chars().all(named))
}

fn parse_path(text: &str, names: &Names<'_>, at: &At<'_>, issues: &mut Issues) -> Path {
    let mut parts: Vec<&str> = text.split('.').collect();
    if parts.len() > PATH_PARTS_MAX {
        issues.add(at, format!("a binding has more than {PATH_PARTS_MAX} parts"));
    }
    let name = parts.remove(0);
    let root = match names.aliases.iter().rposition(|alias| *alias == name) {
        Some(position) => Root::Alias(position),
        None => match name {
            "args" | "event" => Root::Params,
            "steps" if parts.is_empty() => Root::AllSteps,
            "steps" => names.steps.get(parts.remove(0)).map_or(Root::Nothing, |i| Root::Step(*i)),
            "prev" => Root::Previous,
            "user" => Root::User,
            "tenant" => Root::Tenant,
            _ => Root::Nothing,
        },
    };
    let parts = parts.into_iter().map(|key| Part { key: key.into(), position: key.parse().ok() });
    Path { root, parts: parts.collect() }
}

/// A value inside text: texts as they are, null as nothing, everything else as JSON.
pub(crate) fn write_text(value: &Value, text: &mut String) {
    match value {
        Value::Null => {}
        Value::String(inner) => text.push_str(inner),
        other => {
            // Writing to a String does not fail.
            let _ = write!(text, "{other}");
        }
    }
}

/// A value as text, borrowed if it is text already.
pub(crate) fn text_of(value: &Value) -> Cow<'_, str> {
    if let Value::String(text) = value {
        return Cow::Borrowed(text);
    }
    let mut text = String::new();
    write_text(value, &mut text);
    Cow::Owned(text)
}
