//! Parameter schemas: a documented part of JSON Schema (draft 2020-12), compiled once.
//!
//! Written as a JSON Schema (`{"type": "object", "properties": …}`) or as a bare map of properties
//! (`{"title": {"type": "string"}}`), where `"required": true` in a property requires it.
//! Checked: `type`, `enum`, `const`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
//! `minLength`, `maxLength` (characters), `items`, `minItems`, `maxItems`, `properties`,
//! `required`, `additionalProperties`, `anyOf`; `default` fills an absent property. An integer may
//! be written `5.0`. Other keywords are ignored, so a schema may say more than is checked here, as
//! `pattern` and `$ref` do; a keyword that is checked but malformed is refused when the app is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::condition::same;
use super::issue::{At, Issues, object, shown, type_name};
use super::meter::{Excess, Meter};

/// Alternatives of an `anyOf`, each of which is tried.
const ALTERNATIVES_MAX: usize = 16;

/// Values of an `enum`.
const OPTIONS_MAX: usize = 256;

/// What the defaults of one call's params may weigh in all, in bytes.
const DEFAULTS_BYTES_MAX: usize = 1024 * 1024;

/// A bound of a number, its words, and whether a number keeps it.
type Bound = (Option<f64>, &'static str, fn(f64, f64) -> bool);

const TYPES: [&str; 7] = ["string", "integer", "number", "boolean", "object", "array", "null"];

/// A compiled schema; the default one accepts everything.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Set for the schema `false`, which accepts nothing.
    never: bool,
    types: Vec<&'static str>,
    options: Option<Vec<Value>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
    length_min: Option<u64>,
    length_max: Option<u64>,
    items_min: Option<u64>,
    items_max: Option<u64>,
    items: Option<Box<Schema>>,
    properties: BTreeMap<String, Schema>,
    required: Vec<String>,
    additional: Option<Box<Schema>>,
    any_of: Vec<Schema>,
    default: Option<Value>,
}

impl Schema {
    /// Reads the schema of a function's params, in either form.
    pub(crate) fn parse_params(value: &Value, at: &At<'_>, issues: &mut Issues) -> Self {
        let Some(map) = object(value, at, issues) else { return Self::default() };
        if is_schema(map) {
            return Self::parse(value, at, issues);
        }
        let mut schema = Self { types: vec!["object"], ..Self::default() };
        for (name, property) in map {
            if property.get("required").and_then(Value::as_bool) == Some(true) {
                schema.required.push(name.clone());
            }
            let property = Self::parse(property, &at.key(name), issues);
            schema.properties.insert(name.clone(), property);
        }
        schema
    }

    fn parse(value: &Value, at: &At<'_>, issues: &mut Issues) -> Self {
        if let Some(accepts) = value.as_bool() {
            return Self { never: !accepts, ..Self::default() };
        }
        let Some(map) = object(value, at, issues) else { return Self::default() };
        let mut schema = Self {
            default: map.get("default").cloned(),
            types: parse_types(map, at, issues),
            options: parse_options(map, at, issues),
            minimum: parse_bound(map, "minimum", at, issues),
            maximum: parse_bound(map, "maximum", at, issues),
            above: parse_bound(map, "exclusiveMinimum", at, issues),
            below: parse_bound(map, "exclusiveMaximum", at, issues),
            length_min: parse_count(map, "minLength", at, issues),
            length_max: parse_count(map, "maxLength", at, issues),
            items_min: parse_count(map, "minItems", at, issues),
            items_max: parse_count(map, "maxItems", at, issues),
            items: parse_inner(map, "items", at, issues),
            additional: parse_inner(map, "additionalProperties", at, issues),
            required: parse_required(map, at, issues),
            ..Self::default()
        };
        if let Some(properties) = map.get("properties") {
            let at = at.key("properties");
            for (name, property) in object(properties, &at, issues).into_iter().flatten() {
                let property = Self::parse(property, &at.key(name), issues);
                schema.properties.insert(name.clone(), property);
            }
        }
        if let Some(alternatives) = map.get("anyOf") {
            let at = at.key("anyOf");
            let items = super::issue::list(alternatives, &at, ALTERNATIVES_MAX, issues);
            let items = items.iter().enumerate();
            schema.any_of = items.map(|(i, v)| Self::parse(v, &at.index(i), issues)).collect();
        }
        schema
    }

    /// Fills the defaults of absent params, then adds what is wrong with them.
    pub(crate) fn admit(&self, params: &mut Value, issues: &mut Issues) {
        let at = At::root("params");
        let mut meter = Meter::new(DEFAULTS_BYTES_MAX);
        if self.fill_defaults(params, &mut meter, 0).is_err() {
            issues.add(&at, "are too large once their defaults are filled in");
            return;
        }
        self.check(params, &at, issues);
    }

    fn fill_defaults(
        &self,
        value: &mut Value,
        meter: &mut Meter,
        depth: usize,
    ) -> Result<(), Excess> {
        if let (Some(items), Value::Array(values)) = (&self.items, &mut *value) {
            values.iter_mut().try_for_each(|v| items.fill_defaults(v, meter, depth + 1))?;
        }
        let Value::Object(members) = value else { return Ok(()) };
        for (name, property) in &self.properties {
            match (members.get_mut(name), &property.default) {
                (Some(member), _) => property.fill_defaults(member, meter, depth + 1)?,
                (None, Some(default)) => {
                    meter.take(name.len())?;
                    meter.take_value(default, depth + 1)?;
                    members.insert(name.clone(), default.clone());
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Adds what is wrong with the value.
    pub(super) fn check(&self, value: &Value, at: &At<'_>, issues: &mut Issues) {
        if self.never {
            issues.add(at, "is not allowed");
            return;
        }
        if !self.types.is_empty() && !self.types.iter().any(|name| is_type(value, name)) {
            let expected = self.types.join(" or ");
            issues.add(at, format!("must be {expected}, not {}", type_name(value)));
            return;
        }
        if let Some(options) = &self.options
            && !options.iter().any(|option| same(option, value))
        {
            let shown_options: Vec<String> =
                options.iter().take(8).map(|option| shown(&option.to_string())).collect();
            issues.add(at, format!("must be one of {}", shown_options.join(", ")));
        }
        match value {
            Value::Number(number) => self.check_number(number.as_f64(), at, issues),
            Value::String(text) => self.check_text(text, at, issues),
            Value::Array(items) => self.check_items(items, at, issues),
            Value::Object(members) => self.check_members(members, at, issues),
            Value::Null | Value::Bool(_) => {}
        }
        if !self.any_of.is_empty() && !self.any_of.iter().any(|schema| schema.accepts(value)) {
            issues.add(at, "matches none of the alternatives of its schema");
        }
    }

    fn accepts(&self, value: &Value) -> bool {
        let mut issues = Issues::default();
        self.check(value, &At::root(""), &mut issues);
        issues.is_empty()
    }

    fn check_number(&self, number: Option<f64>, at: &At<'_>, issues: &mut Issues) {
        let Some(number) = number else { return };
        let bounds: [Bound; 4] = [
            (self.minimum, "at least", |number, bound| number >= bound),
            (self.maximum, "at most", |number, bound| number <= bound),
            (self.above, "greater than", |number, bound| number > bound),
            (self.below, "less than", |number, bound| number < bound),
        ];
        for (bound, words, within) in bounds {
            if let Some(bound) = bound.filter(|bound| !within(number, *bound)) {
                issues.add(at, format!("must be {words} {bound}"));
            }
        }
    }

    fn check_text(&self, text: &str, at: &At<'_>, issues: &mut Issues) {
        if self.length_min.is_none() && self.length_max.is_none() {
            return;
        }
        let count = text.chars().count() as u64;
        check_count(count, self.length_min, self.length_max, "characters", at, issues);
    }

    fn check_items(&self, items: &[Value], at: &At<'_>, issues: &mut Issues) {
        let count = items.len() as u64;
        check_count(count, self.items_min, self.items_max, "items", at, issues);
        if let Some(schema) = &self.items {
            for (position, item) in items.iter().enumerate() {
                schema.check(item, &at.index(position), issues);
            }
        }
    }

    fn check_members(&self, members: &Map<String, Value>, at: &At<'_>, issues: &mut Issues) {
        for name in self.required.iter().filter(|name| !members.contains_key(*name)) {
            issues.add(&at.key(name), "is required");
        }
        for (name, schema) in &self.properties {
            if let Some(member) = members.get(name) {
                schema.check(member, &at.key(name), issues);
            }
        }
        let Some(additional) = &self.additional else { return };
        for (name, member) in members {
            if !self.properties.contains_key(name) {
                additional.check(member, &at.key(name), issues);
            }
        }
    }
}

/// Tells a JSON Schema from a map of properties, one of which may be called `type`.
fn is_schema(map: &Map<String, Value>) -> bool {
    let is_map_of_schemas = |value: &Value| {
        let members = value.as_object();
        members.is_some_and(|members| members.values().all(|v| v.is_object() || v.is_boolean()))
    };
    map.iter().any(|(key, value)| match key.as_str() {
        "type" => value.is_string() || value.is_array(),
        "$schema" | "$id" | "$ref" | "title" | "description" => value.is_string(),
        "required" | "anyOf" | "allOf" | "oneOf" => value.is_array(),
        "additionalProperties" => value.is_boolean(),
        "properties" => is_map_of_schemas(value),
        _ => false,
    })
}

fn is_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
        Value::Number(number) => {
            let whole = || !number.is_f64() || number.as_f64().is_some_and(|n| n.fract() == 0.0);
            name == "number" || (name == "integer" && whole())
        }
    }
}

fn check_count(
    count: u64,
    min: Option<u64>,
    max: Option<u64>,
    what: &str,
    at: &At<'_>,
    issues: &mut Issues,
) {
    if let Some(min) = min.filter(|min| count < *min) {
        issues.add(at, format!("must have at least {min} {what}"));
    }
    if let Some(max) = max.filter(|max| count > *max) {
        issues.add(at, format!("must have at most {max} {what}"));
    }
}

fn parse_types(map: &Map<String, Value>, at: &At<'_>, issues: &mut Issues) -> Vec<&'static str> {
    let names: Vec<&Value> = match map.get("type") {
        None => return Vec::new(),
        Some(Value::Array(names)) => names.iter().collect(),
        Some(name) => vec![name],
    };
    let known = |name: &Value| TYPES.into_iter().find(|known| name.as_str() == Some(*known));
    let types: Option<Vec<_>> = names.into_iter().map(known).collect();
    match types.filter(|types| (1..=TYPES.len()).contains(&types.len())) {
        Some(types) => types,
        None => {
            issues.add(&at.key("type"), format!("must be one or more of {}", TYPES.join(", ")));
            Vec::new()
        }
    }
}

fn parse_options(map: &Map<String, Value>, at: &At<'_>, issues: &mut Issues) -> Option<Vec<Value>> {
    if let Some(only) = map.get("const") {
        return Some(vec![only.clone()]);
    }
    let options = map.get("enum")?;
    let list = options.as_array().filter(|list| (1..=OPTIONS_MAX).contains(&list.len()));
    if list.is_none() {
        issues.add(&at.key("enum"), format!("must be a list of 1 to {OPTIONS_MAX} values"));
    }
    list.cloned()
}

fn parse_bound(
    map: &Map<String, Value>,
    name: &str,
    at: &At<'_>,
    issues: &mut Issues,
) -> Option<f64> {
    let value = map.get(name)?;
    let number = value.as_f64();
    if number.is_none() {
        issues.add(&at.key(name), format!("must be a number, not {}", type_name(value)));
    }
    number
}

fn parse_count(
    map: &Map<String, Value>,
    name: &str,
    at: &At<'_>,
    issues: &mut Issues,
) -> Option<u64> {
    let value = map.get(name)?;
    let count = value.as_u64();
    if count.is_none() {
        issues.add(&at.key(name), "must be a whole number of at least 0");
    }
    count
}

fn parse_inner(
    map: &Map<String, Value>,
    name: &str,
    at: &At<'_>,
    issues: &mut Issues,
) -> Option<Box<Schema>> {
    let value = map.get(name)?;
    Some(Box::new(Schema::parse(value, &at.key(name), issues)))
}

fn parse_required(map: &Map<String, Value>, at: &At<'_>, issues: &mut Issues) -> Vec<String> {
    match map.get("required") {
        // A boolean belongs to the property's parent, in the bare map form.
        None | Some(Value::Bool(_)) => Vec::new(),
        Some(value) => {
            let names: Option<Vec<String>> = value
                .as_array()
                .and_then(|names| names.iter().map(|n| n.as_str().map(str::to_owned)).collect());
            if names.is_none() {
                issues.add(&at.key("required"), "must be a list of property names");
            }
            names.unwrap_or_default()
        }
    }
}
