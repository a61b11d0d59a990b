//! Panels: trees of `{type, props}` nodes that a client draws.
//!
//! A static tree is answered as written. In a template, texts may hold bindings, and anywhere in
//! the props may stand `{"$repeat": binding, "as": alias, "node": node}` (a list of nodes, one an
//! item; the alias is `item` if none is given; what is no list repeats nothing) and
//! `{"$if": condition, "node": node}`. Inside a list both stand among their siblings: a repetition
//! adds its nodes there, a dropped node adds none. A dropped node that is a whole prop, or the
//! root, is `{}`. A panel runs no steps, so its bindings see `args`, `user` and `tenant`.

use serde_json::{Map, Value};

use super::condition::Condition;
use super::issue::{At, Chars, Fields, Issues, object};
use super::meter::Meter;
use super::perform::{self, Deadline, Fault};
use super::template::{Alias, Names, Scope, Template};

/// Characters of a node's type and of an alias.
const NAME_CHARS_MAX: usize = 64;

/// The alias of a `$repeat` that names none.
const ALIAS_DEFAULT: &str = "item";

/// A compiled template of a panel.
#[derive(Debug)]
pub(crate) enum Tree {
    Node { kind: String, props: Vec<(String, Tree)> },
    Repeat { items: Template, alias: usize, node: Box<Tree> },
    If { condition: Condition, node: Box<Tree> },
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
    Value(Template),
}

/// What a part of a tree has become.
enum Rendered {
    One(Value),
    Many(Vec<Value>),
    Nothing,
}

/// Checks the root of a tree that is answered as written.
pub(crate) fn check_static(tree: &Value, at: &At<'_>, issues: &mut Issues) {
    if let Some(fields) = Fields::read(tree, at, &["type", "props"], issues) {
        fields.text("type", &Chars::some_up_to(NAME_CHARS_MAX), issues);
        fields.open_object("props", issues);
    }
}

impl Tree {
    /// Reads the root of a template: a node, or a node under `$if`.
    pub(crate) fn parse_root(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Self> {
        let mut names = Names::default();
        if value.get("$if").is_some() {
            return Self::parse(value, &mut names, at, issues);
        }
        Self::parse_node(value, &mut names, at, issues)
    }

    fn parse<'v>(
        value: &'v Value,
        names: &mut Names<'v>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        match value {
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let items = items.map(|(i, item)| Self::parse(item, names, &at.index(i), issues));
                // Every item is read, so that all issues are found; `collect` would stop early.
                let items: Vec<Option<Self>> = items.collect();
                Some(Self::List(items.into_iter().collect::<Option<_>>()?))
            }
            Value::Object(map) if map.contains_key("$repeat") => {
                Self::parse_repeat(value, names, at, issues)
            }
            Value::Object(map) if map.contains_key("$if") => {
                let fields = Fields::read(value, at, &["$if", "node"], issues)?;
                let condition = fields.required("$if", issues)?;
                let at_condition = at.key("$if");
                let condition = Condition::parse_in_panel(condition, names, &at_condition, issues);
                let node = fields.required("node", issues)?;
                let node = Box::new(Self::parse(node, names, &at.key("node"), issues)?);
                Some(Self::If { condition: condition?, node })
            }
            Value::Object(map) if map.contains_key("type") && map.contains_key("props") => {
                Self::parse_node(value, names, at, issues)
            }
            Value::Object(map) => Some(Self::Object(Self::parse_members(map, names, at, issues)?)),
            _ => Some(Self::Value(Template::parse(value, names, at, issues))),
        }
    }

    fn parse_node<'v>(
        value: &'v Value,
        names: &mut Names<'v>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let fields = Fields::read(value, at, &["type", "props"], issues)?;
        let kind = fields.text("type", &Chars::some_up_to(NAME_CHARS_MAX), issues);
        let at = at.key("props");
        let props = match fields.optional("props") {
            Some(props) => {
                let props = object(props, &at, issues)?;
                Self::parse_members(props, names, &at, issues)?
            }
            None => Vec::new(),
        };
        Some(Self::Node { kind, props })
    }

    fn parse_members<'v>(
        members: &'v Map<String, Value>,
        names: &mut Names<'v>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Vec<(String, Self)>> {
        let mut parsed = Vec::with_capacity(members.len());
        for (key, member) in members {
            parsed.push((key, Self::parse(member, names, &at.key(key), issues)));
        }
        parsed.into_iter().map(|(key, member)| Some((key.clone(), member?))).collect()
    }

    fn parse_repeat<'v>(
        value: &'v Value,
        names: &mut Names<'v>,
        at: &At<'_>,
        issues: &mut Issues,
    ) -> Option<Self> {
        let fields = Fields::read(value, at, &["$repeat", "as", "node"], issues)?;
        let items = fields.required("$repeat", issues)?;
        let items = Template::parse(items, names, &at.key("$repeat"), issues);
        if !items.is_binding() {
            issues.add(&at.key("$repeat"), "must be one binding, such as {{args.items}}");
        }
        fields.text_or("as", ALIAS_DEFAULT, &Chars::some_up_to(NAME_CHARS_MAX), issues);
        let node = fields.required("node", issues)?;
        let alias = names.aliases.len();
        names.aliases.push(fields.optional("as").and_then(Value::as_str).unwrap_or(ALIAS_DEFAULT));
        let node = Self::parse(node, names, &at.key("node"), issues);
        names.aliases.pop();
        Some(Self::Repeat { items, alias, node: Box::new(node?) })
    }

    /// The tree with everything resolved; a dropped root is `{}`.
    pub(crate) fn render(
        &self,
        scope: &Scope<'_>,
        meter: &mut Meter,
        deadline: &Deadline<'_>,
    ) -> Result<Value, Fault> {
        let rendered = Renderer { meter, deadline }.part(self, scope, 0)?;
        Ok(rendered.into_prop())
    }
}

impl Rendered {
    fn into_prop(self) -> Value {
        match self {
            Self::One(value) => value,
            Self::Many(values) => Value::Array(values),
            Self::Nothing => Value::Object(Map::new()),
        }
    }

    fn append_to(self, list: &mut Vec<Value>) {
        match self {
            Self::One(value) => list.push(value),
            Self::Many(values) => list.extend(values),
            Self::Nothing => {}
        }
    }
}

struct Renderer<'a> {
    meter: &'a mut Meter,
    deadline: &'a Deadline<'a>,
}

impl Renderer<'_> {
    fn part(&mut self, tree: &Tree, scope: &Scope<'_>, depth: usize) -> Result<Rendered, Fault> {
        match tree {
            Tree::Value(template) => Ok(Rendered::One(template.resolve(scope, self.meter, depth)?)),
            Tree::Node { kind, props } => {
                self.meter.take_node(kind)?;
                let props = self.members(props, scope, depth + 2)?;
                let (kind, props) = (Value::String(kind.clone()), Value::Object(props));
                Ok(Rendered::One(perform::object([("type", kind), ("props", props)])))
            }
            Tree::Object(members) => {
                let members = self.members(members, scope, depth + 1)?;
                Ok(Rendered::One(Value::Object(members)))
            }
            Tree::List(items) => {
                self.meter.take_node("")?;
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    self.part(item, scope, depth + 1)?.append_to(&mut list);
                }
                Ok(Rendered::One(Value::Array(list)))
            }
            Tree::If { condition, node } => {
                if condition.holds(scope, self.meter)? {
                    return self.part(node, scope, depth);
                }
                Ok(Rendered::Nothing)
            }
            Tree::Repeat { items, alias, node } => {
                self.repeat(items, *alias, node, scope, depth).map(Rendered::Many)
            }
        }
    }

    fn repeat(
        &mut self,
        items: &Template,
        alias: usize,
        node: &Tree,
        scope: &Scope<'_>,
        depth: usize,
    ) -> Result<Vec<Value>, Fault> {
        let items = items.view(scope, self.meter)?;
        let mut list = Vec::new();
        for value in items.as_array().into_iter().flatten() {
            self.deadline.check()?;
            let item = Alias { value, position: alias, outer: scope.aliases };
            let inner = Scope { aliases: Some(&item), ..*scope };
            self.part(node, &inner, depth + 1)?.append_to(&mut list);
        }
        Ok(list)
    }

    fn members(
        &mut self,
        members: &[(String, Tree)],
        scope: &Scope<'_>,
        depth: usize,
    ) -> Result<Map<String, Value>, Fault> {
        self.meter.take_node("")?;
        let mut object = Map::with_capacity(members.len());
        for (key, member) in members {
            self.meter.take(key.len())?;
            object.insert(key.clone(), self.part(member, scope, depth)?.into_prop());
        }
        Ok(object)
    }
}
