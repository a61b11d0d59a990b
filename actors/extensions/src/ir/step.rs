//! The steps of a declarative function, checked and compiled: op, arguments, jumps.
//!
//! Invariants of a compiled program: step ids are unique; every jump is to a step that exists;
//! required arguments are there, and literal ones have the right JSON type (a whole binding may
//! bring any, which is checked when it is resolved). Unknown ops and arguments are refused.
//! Limits: [`STEPS_MAX`] a function; the depth of arguments is limited with the whole document.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::condition::{Condition, FilterTemplate};
use super::issue::{At, Chars, Fields, Issues, list, object, shown, text, type_name};
use super::template::{Names, Template};

/// Steps of one function.
pub const STEPS_MAX: usize = 256;

/// Characters of a step's id.
const STEP_ID_CHARS_MAX: usize = 64;

/// Documents that one `store.list` answers, and that one list of ids names.
pub const DOCUMENTS_LISTED_MAX: u64 = 10_000;

/// Documents that `store.list` answers if no limit is given.
pub(crate) const DOCUMENTS_LISTED_DEFAULT: u64 = 100;

/// The compiled steps of one function.
#[derive(Debug, Default)]
pub struct Program {
    pub(crate) ids: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

impl Program {
    /// The number of steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The op of each step, in order.
    pub fn ops(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(Step::op)
    }
}

#[derive(Debug)]
pub(crate) enum Step {
    Create { kind: Template, data: Template },
    Get { kind: Template, id: Template },
    List(ListStep),
    Update { kind: Template, target: Target, set: Template },
    Delete { kind: Template, target: Target },
    Call { app_id: Option<Template>, function: Template, params: Option<Template> },
    Complete(CompleteStep),
    Directive { op: &'static str, args: Vec<(&'static str, Kind, Template)> },
    Conditional { condition: Condition, then: Option<usize>, otherwise: Option<usize> },
}

#[derive(Debug)]
pub(crate) struct ListStep {
    pub(crate) kind: Template,
    pub(crate) filter: Option<FilterTemplate>,
    pub(crate) ids: Option<Template>,
    pub(crate) limit: Option<Template>,
}

#[derive(Debug)]
pub(crate) struct CompleteStep {
    pub(crate) prompt: Template,
    pub(crate) model: Option<Template>,
    pub(crate) temperature: Option<Template>,
    pub(crate) max_tokens: Option<Template>,
}

/// Which documents a step changes.
#[derive(Debug)]
pub(crate) enum Target {
    Id(Template),
    Ids(Template),
    Where(FilterTemplate),
}

/// The JSON type of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Number,
    Object,
    Ids,
    Filter,
}

impl Kind {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Object | Self::Filter => "an object",
            Self::Ids => "a list",
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Integer => value.is_u64() || value.is_i64(),
            Self::Number => value.is_number(),
            Self::Object | Self::Filter => value.is_object(),
            Self::Ids => value.is_array(),
        }
    }
}

/// An op's argument: name, type, whether it is required.
type Argument = (&'static str, Kind, bool);

const CONDITIONAL: &str = "conditional";

/// Every op but `conditional`, whose parts stand at the step's root.
const OPS: [(&str, &[Argument]); 10] = [
    ("store.create", &[("kind", Kind::Text, true), ("data", Kind::Object, true)]),
    ("store.get", &[("kind", Kind::Text, true), ("id", Kind::Text, true)]),
    (
        "store.list",
        &[
            ("kind", Kind::Text, true),
            ("where", Kind::Filter, false),
            ("ids", Kind::Ids, false),
            ("limit", Kind::Integer, false),
        ],
    ),
    (
        "store.update",
        &[
            ("kind", Kind::Text, true),
            ("set", Kind::Object, true),
            ("id", Kind::Text, false),
            ("ids", Kind::Ids, false),
            ("where", Kind::Filter, false),
        ],
    ),
    (
        "store.delete",
        &[
            ("kind", Kind::Text, true),
            ("id", Kind::Text, false),
            ("ids", Kind::Ids, false),
            ("where", Kind::Filter, false),
        ],
    ),
    (
        "call",
        &[
            ("function", Kind::Text, true),
            ("app_id", Kind::Text, false),
            ("params", Kind::Object, false),
        ],
    ),
    (
        "ai.complete",
        &[
            ("prompt", Kind::Text, true),
            ("model", Kind::Text, false),
            ("temperature", Kind::Number, false),
            ("max_tokens", Kind::Integer, false),
        ],
    ),
    (
        "send",
        &[
            ("message", Kind::Text, true),
            ("channel", Kind::Text, false),
            ("metadata", Kind::Object, false),
        ],
    ),
    ("navigate", &[("url", Kind::Text, true), ("target", Kind::Text, false)]),
    ("open", &[("target", Kind::Text, true), ("params", Kind::Object, false)]),
];

impl Step {
    pub(crate) fn op(&self) -> &'static str {
        match self {
            Self::Create { .. } => "store.create",
            Self::Get { .. } => "store.get",
            Self::List(_) => "store.list",
            Self::Update { .. } => "store.update",
            Self::Delete { .. } => "store.delete",
            Self::Call { .. } => "call",
            Self::Complete(_) => "ai.complete",
            Self::Directive { op, .. } => op,
            Self::Conditional { .. } => CONDITIONAL,
        }
    }

    fn parse(value: &Value, names: &Names<'_>, at: &At<'_>, issues: &mut Issues) -> Option<Self> {
        let op = match object(value, at, issues)?.get("op") {
            Some(op) => text(op, &at.key("op"), &Chars::some_up_to(usize::MAX), issues)?,
            None => {
                issues.add(&at.key("op"), "is required");
                return None;
            }
        };
        if op == CONDITIONAL {
            return Self::parse_conditional(value, names, at, issues);
        }
        let Some((op, known)) = OPS.iter().find(|(name, _)| *name == op) else {
            let names: Vec<&str> = OPS.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            let message = format!("unknown op {:?}; known: {names}, {CONDITIONAL}", shown(&op));
            issues.add(&at.key("op"), message);
            return None;
        };
        let fields = Fields::read(value, at, &["id", "op", "args"], issues)?;
        let empty = Value::Object(Map::new());
        let at = at.key("args");
        let args = fields.optional("args").unwrap_or(&empty);
        Self::build(op, Arguments::parse(args, known, names, &at, issues)?, &at, issues)
    }

    fn build(
        op: &'static str,
        mut args: Arguments,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let step = match op {
            "store.create" => Self::Create { kind: args.take("kind")?, data: args.take("data")? },
            "store.get" => Self::Get { kind: args.take("kind")?, id: args.take("id")? },
            "store.list" => Self::List(ListStep {
                kind: args.take("kind")?,
                filter: args.filter.take(),
                ids: args.take("ids"),
                limit: args.take("limit"),
            }),
            "store.update" => Self::Update {
                target: args.take_target(at, issues)?,
                kind: args.take("kind")?,
                set: args.take("set")?,
            },
            "store.delete" => {
                Self::Delete { target: args.take_target(at, issues)?, kind: args.take("kind")? }
            }
            "call" => Self::Call {
                app_id: args.take("app_id"),
                function: args.take("function")?,
                params: args.take("params"),
            },
            "ai.complete" => Self::Complete(CompleteStep {
                prompt: args.take("prompt")?,
                model: args.take("model"),
                temperature: args.take("temperature"),
                max_tokens: args.take("max_tokens"),
            }),
            _ => Self::Directive { op, args: args.templates },
        };
        Some(step)
    }

    fn parse_conditional(
        value: &Value,
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let known = ["id", "op", "args", "if", "then", "else"];
        let fields = Fields::read(value, at, &known, issues)?;
        if fields.optional("args").is_some_and(|args| args != &Value::Object(Map::new())) {
            issues.add(&at.key("args"), "a conditional has none; its parts are if, then, else");
        }
        let condition = fields.required("if", issues);
        let condition = condition.and_then(|c| Condition::parse(c, names, &at.key("if"), issues));
        fields.required("then", issues);
        let mut jump = |name: &str| {
            let at = at.key(name);
            let target = text(fields.optional(name)?, &at, &Chars::up_to(usize::MAX), issues)?;
            let position = names.steps.get(target.as_str()).copied();
            if position.is_none() {
                issues.add(&at, format!("there is no step {:?}", shown(&target)));
            }
            position
        };
        let (then, otherwise) = (jump("then"), jump("else"));
        Some(Self::Conditional { condition: condition?, then, otherwise })
    }
}

impl Program {
    pub(crate) fn parse(value: &Value, at: &At<'_>, issues: &mut Issues) -> Self {
        let items = list(value, at, STEPS_MAX, issues);
        let mut ids = Vec::with_capacity(items.len());
        let mut names = Names { steps: HashMap::new(), aliases: Vec::new() };
        for (position, item) in items.iter().enumerate() {
            let at = at.index(position);
            let at = at.key("id");
            let id = item.get("id");
            if id.is_none() && item.is_object() {
                issues.add(&at, "is required");
            }
            let chars = Chars::some_up_to(STEP_ID_CHARS_MAX);
            let Some(id) = id.and_then(|id| text(id, &at, &chars, issues)) else { continue };
            if let Some(name) = item.get("id").and_then(Value::as_str)
                && let Some(first) = names.steps.insert(name, position)
            {
                issues.add(&at, format!("is also the id of step {first}"));
            }
            ids.push(id);
        }
        let steps = items.iter().enumerate();
        let steps = steps.filter_map(|(i, step)| Step::parse(step, &names, &at.index(i), issues));
        Self { ids, steps: steps.collect() }
    }
}

/// The checked arguments of one step, taken out one by one.
struct Arguments {
    templates: Vec<(&'static str, Kind, Template)>,
    filter: Option<FilterTemplate>,
}

impl Arguments {
    fn parse(
        value: &Value,
        known: &[Argument],
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let given = object(value, at, issues)?;
        for (name, _, _) in
            known.iter().filter(|(name, _, needed)| *needed && !given.contains_key(*name))
        {
            issues.add(&at.key(name), "is required");
        }
        let mut args = Self { templates: Vec::with_capacity(given.len()), filter: None };
        for (name, value) in given {
            let at = at.key(name);
            let Some((name, kind, _)) = known.iter().find(|(known, _, _)| known == name) else {
                let known: Vec<&str> = known.iter().map(|(name, _, _)| *name).collect();
                issues.add(&at, format!("unknown argument; known here are {}", known.join(", ")));
                continue;
            };
            if *kind == Kind::Filter {
                args.filter = FilterTemplate::parse(value, names, &at, issues);
                continue;
            }
            let template = Template::parse(value, names, &at, issues);
            if !template.is_binding() {
                check_literal(name, *kind, value, &at, issues);
            }
            args.templates.push((name, *kind, template));
        }
        Some(args)
    }

    fn take(&mut self, name: &str) -> Option<Template> {
        let position = self.templates.iter().position(|(known, _, _)| *known == name)?;
        Some(self.templates.swap_remove(position).2)
    }

    fn take_target(&mut self, at: &At<'_>, issues: &mut Issues) -> Option<Target> {
        let id = self.take("id").map(Target::Id);
        let ids = self.take("ids").map(Target::Ids);
        let filter = self.filter.take().map(Target::Where);
        let mut given = [id, ids, filter].into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(target), None) => Some(target),
            _ => {
                issues.add(at, "needs exactly one of id, ids, where");
                None
            }
        }
    }
}

fn check_literal(name: &str, kind: Kind, value: &Value, at: &At<'_>, issues: &mut Issues) {
    if !kind.admits(value) {
        issues.add(at, format!("must be {}, not {}", kind.words(), type_name(value)));
        return;
    }
    match (name, value) {
        ("kind" | "function", Value::String(text)) if text.is_empty() => {
            issues.add(at, "must not be empty");
        }
        ("limit", Value::Number(limit))
            if !limit.as_u64().is_some_and(|n| (1..=DOCUMENTS_LISTED_MAX).contains(&n)) =>
        {
            issues.add(at, format!("must be from 1 to {DOCUMENTS_LISTED_MAX}"));
        }
        ("max_tokens", Value::Number(count)) if count.as_u64().is_none_or(|count| count == 0) => {
            issues.add(at, "must be at least 1");
        }
        ("ids", Value::Array(ids)) => {
            for (position, id) in ids.iter().enumerate().filter(|(_, id)| !id.is_string()) {
                issues.add(&at.index(position), format!("must be text, not {}", type_name(id)));
            }
        }
        _ => {}
    }
}
