//! Comparisons: the `if` of a conditional step or a panel, and the `where` of the store steps.
//!
//! A condition (`if`) compares loosely, because its sides often come from text: `eq` and `neq` as
//! text, `gt` and `lt` as numbers (false if either side is none), `in` asks whether the left side's
//! list, text or object holds the right side, `exists` whether the left side is present and not
//! empty (a right side of false asks the opposite).
//!
//! A filter (`where`) is `{field: value}` or `{field: {comparator: value, …}}`; all must hold.
//! A field is a key of the document's data, or a dotted path into it. `eq` and `neq` compare JSON
//! values (numbers by value, so 5 equals 5.0; an absent field is `neq` to everything), `gt` and
//! `lt` as above, `in` with a list asks whether the field's value is one of its items and with
//! anything else whether the field's list, text or object holds it, `exists` as above.
//! An object on the right is always a map of comparators, and an unknown one is refused. A bound
//! value is never read as comparators, so a caller's parameter cannot widen a filter; only a
//! `where` that is one whole binding is read as a filter at run time.

use serde_json::{Map, Value};

use super::issue::{At, Fields, Issues, object, shown};
use super::meter::{Excess, Meter};
use super::template::{Names, Scope, Template, text_of};

/// Tests of one `where`.
pub const FILTER_TESTS_MAX: usize = 32;

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparator {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Greater, as numbers.
    Gt,
    /// Less, as numbers.
    Lt,
    /// Membership.
    In,
    /// Present and not empty.
    Exists,
}

const COMPARATORS: [(&str, Comparator); 6] = [
    ("eq", Comparator::Eq),
    ("neq", Comparator::Neq),
    ("gt", Comparator::Gt),
    ("lt", Comparator::Lt),
    ("in", Comparator::In),
    ("exists", Comparator::Exists),
];

const COMPARATOR_NAMES: &str = "eq, neq, gt, lt, in, exists";

impl Comparator {
    fn named(name: &str) -> Option<Self> {
        COMPARATORS.iter().find(|(known, _)| *known == name).map(|(_, comparator)| *comparator)
    }
}

/// An `if`: a left side, a comparator, a right side.
#[derive(Debug)]
pub(crate) struct Condition {
    left: Template,
    comparator: Comparator,
    right: Template,
}

impl Condition {
    /// Reads `{field, one comparator}`.
    pub(crate) fn parse(
        value: &Value,
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let known = ["field", "eq", "neq", "gt", "lt", "in", "exists"];
        let fields = Fields::read(value, at, &known, issues)?;
        let left = fields.required("field", issues);
        let mut given = COMPARATORS.iter().filter(|(name, _)| fields.has(name));
        let (Some((name, comparator)), None) = (given.next(), given.next()) else {
            issues.add(at, format!("needs exactly one of {COMPARATOR_NAMES}"));
            return None;
        };
        let right = fields.required(name, issues)?;
        Some(Self {
            left: Template::parse(left?, names, &at.key("field"), issues),
            comparator: *comparator,
            right: Template::parse(right, names, &at.key(name), issues),
        })
    }

    /// Reads a panel's `$if`: as [`Self::parse`], or spelled `{left, op, right}`.
    pub(crate) fn parse_in_panel(
        value: &Value,
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        if value.get("left").is_none() {
            return Self::parse(value, names, at, issues);
        }
        let fields = Fields::read(value, at, &["left", "op", "right"], issues)?;
        let left = fields.required("left", issues)?;
        let name = fields.optional("op").map_or(Some("eq"), Value::as_str);
        let Some(comparator) = name.and_then(Comparator::named) else {
            issues.add(&at.key("op"), format!("must be one of {COMPARATOR_NAMES}"));
            return None;
        };
        let right = fields.optional("right").unwrap_or(&Value::Null);
        Some(Self {
            left: Template::parse(left, names, &at.key("left"), issues),
            comparator,
            right: Template::parse(right, names, &at.key("right"), issues),
        })
    }

    pub(crate) fn holds(&self, scope: &Scope<'_>, meter: &mut Meter) -> Result<bool, Excess> {
        let left = self.left.view(scope, meter)?;
        let right = self.right.view(scope, meter)?;
        Ok(match self.comparator {
            Comparator::Eq => text_of(&left) == text_of(&right),
            Comparator::Neq => text_of(&left) != text_of(&right),
            Comparator::Gt => numbers(&left, &right).is_some_and(|(left, right)| left > right),
            Comparator::Lt => numbers(&left, &right).is_some_and(|(left, right)| left < right),
            Comparator::In => contains(&left, &right),
            Comparator::Exists => is_filled(&left) == is_true(&right),
        })
    }
}

/// A `where` as written: fields with bindings, or one binding that brings the whole filter.
#[derive(Debug)]
pub(crate) enum FilterTemplate {
    Tests(Vec<(String, Comparator, Template)>),
    Binding(Template),
}

impl FilterTemplate {
    pub(crate) fn parse(
        value: &Value,
        names: &Names<'_>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        if value.is_string() {
            let template = Template::parse(value, names, at, issues);
            if template.is_binding() {
                return Some(Self::Binding(template));
            }
        }
        let mut tests = Vec::new();
        each_test(value, at, issues, |field, comparator, operand, at, issues| {
            let operand = Template::parse(operand, names, at, issues);
            tests.push((field.to_owned(), comparator, operand));
        });
        Some(Self::Tests(tests))
    }

    pub(crate) fn is_absent(&self, scope: &Scope<'_>) -> bool {
        matches!(self, Self::Binding(template) if template.is_absent(scope))
    }

    /// The filter of this run; a whole binding that brings no filter is described in the text.
    pub(crate) fn resolve(
        &self,
        scope: &Scope<'_>,
        meter: &mut Meter,
    ) -> Result<Result<Filter, String>, Excess> {
        match self {
            Self::Tests(tests) => {
                let mut resolved = Vec::with_capacity(tests.len());
                for (field, comparator, operand) in tests {
                    let operand = operand.resolve(scope, meter, 0)?;
                    resolved.push(Test { field: field.clone(), comparator: *comparator, operand });
                }
                Ok(Ok(Filter { tests: resolved }))
            }
            Self::Binding(template) => {
                let value = template.resolve(scope, meter, 0)?;
                Ok(Filter::parse(&value))
            }
        }
    }
}

/// What documents a store step asks for: all tests must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// At most [`FILTER_TESTS_MAX`].
    pub tests: Vec<Test>,
}

/// One test of a [`Filter`].
#[derive(Debug, Clone, PartialEq)]
pub struct Test {
    /// A key of the document's data, or a dotted path into it.
    pub field: String,
    /// How the field is compared.
    pub comparator: Comparator,
    /// What it is compared with.
    pub operand: Value,
}

impl Filter {
    /// Reads `{field: value}` and `{field: {comparator: value}}`.
    ///
    /// # Errors
    /// All that is wrong with it, in one line that begins each part with its place.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let mut issues = Issues::default();
        let mut tests = Vec::new();
        let at = At::root("where");
        each_test(value, &at, &mut issues, |field, comparator, operand, _, _| {
            let operand = operand.clone();
            tests.push(Test { field: field.to_owned(), comparator, operand });
        });
        if issues.is_empty() {
            return Ok(Self { tests });
        }
        Err(super::issue::join(&issues.into_list()))
    }

    /// Whether a document's data passes all tests.
    #[must_use]
    pub fn matches(&self, data: &Map<String, Value>) -> bool {
        self.tests.iter().all(|test| test.holds(field_of(data, &test.field)))
    }

    /// The field and value of each test for equality: what an index can answer.
    pub fn equalities(&self) -> impl Iterator<Item = (&str, &Value)> {
        let equal = self.tests.iter().filter(|test| test.comparator == Comparator::Eq);
        equal.map(|test| (test.field.as_str(), &test.operand))
    }
}

impl Test {
    fn holds(&self, field: Option<&Value>) -> bool {
        let Some(field) = field else {
            return match self.comparator {
                Comparator::Neq => true,
                Comparator::Exists => !is_true(&self.operand),
                _ => false,
            };
        };
        match self.comparator {
            Comparator::Eq => same(field, &self.operand),
            Comparator::Neq => !same(field, &self.operand),
            Comparator::Gt => numbers(field, &self.operand).is_some_and(|(a, b)| a > b),
            Comparator::Lt => numbers(field, &self.operand).is_some_and(|(a, b)| a < b),
            Comparator::In => match &self.operand {
                Value::Array(options) => options.iter().any(|option| same(field, option)),
                held => contains(field, held),
            },
            Comparator::Exists => is_filled(field) == is_true(&self.operand),
        }
    }
}

/// Calls `found` with the field, comparator and operand of every test that is well formed.
fn each_test<'v>(
    value: &'v Value,
    at: &At<'_>,
    issues: &mut Issues,
    mut found: impl FnMut(&'v str, Comparator, &'v Value, &At<'_>, &mut Issues),
) {
    let Some(fields) = object(value, at, issues) else { return };
    let mut count = 0;
    for (field, operand) in fields {
        let at = at.key(field);
        let Some(comparisons) = operand.as_object() else {
            count += 1;
            found(field, Comparator::Eq, operand, &at, issues);
            continue;
        };
        if comparisons.is_empty() {
            issues.add(&at, format!("needs at least one of {COMPARATOR_NAMES}"));
        }
        for (name, operand) in comparisons {
            let at = at.key(name);
            count += 1;
            match Comparator::named(name) {
                Some(comparator) => found(field, comparator, operand, &at, issues),
                None => {
                    let name = shown(name);
                    let message = format!("unknown comparator {name:?}; known: {COMPARATOR_NAMES}");
                    issues.add(&at, message);
                }
            }
        }
    }
    if count > FILTER_TESTS_MAX {
        issues.add(at, format!("has {count} tests; the limit is {FILTER_TESTS_MAX}"));
    }
}

/// The field of a document's data: its key, or else the dotted path into it.
#[must_use]
pub fn field_of<'a>(data: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    if let Some(value) = data.get(field) {
        return Some(value);
    }
    let mut parts = field.split('.');
    let first = data.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// JSON equality with numbers compared by value.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        // Two integers are compared exactly; a float and an integer by value.
        (Value::Number(a), Value::Number(b)) => {
            a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let member = |(key, a): (&String, &Value)| b.get(key).is_some_and(|b| same(a, b));
            a.len() == b.len() && a.iter().all(member)
        }
        _ => left == right,
    }
}

fn numbers(left: &Value, right: &Value) -> Option<(f64, f64)> {
    Some((number(left)?, number(right)?))
}

/// Numbers and texts that spell one; nothing else is a number.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number: &f64| number.is_finite())
}

fn contains(holder: &Value, held: &Value) -> bool {
    match holder {
        Value::Array(items) => items.iter().any(|item| same(item, held)),
        Value::String(text) => !held.is_null() && text.contains(&*text_of(held)),
        Value::Object(members) => held.as_str().is_some_and(|key| members.contains_key(key)),
        _ => false,
    }
}

fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The right side of `exists`: false, 0, null, no text and the text `false` ask for absence.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "false",
        other => !other.is_null(),
    }
}
