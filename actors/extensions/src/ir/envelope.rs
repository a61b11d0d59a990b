//! The envelope: what an app declares, read strictly from its JSON.
//!
//! Unknown keys are refused at every level, except inside what the format leaves open (schemas,
//! `automations`, `events`, `lifecycle`, the shape of a skeleton section, props). All issues are
//! collected. Where the format says nothing, these choices hold:
//! - `data` is `{"kinds": {kind: {"indexes": [field, …]}}}`; a field is named as in a `where`;
//! - a function without `action_type` has the least one that covers its steps: `destructive` if it
//!   deletes, `read` if it only reads documents, else `write`, as on the app's own host;
//! - a null in an optional field counts as absent;
//! - a function with `"background": true`, or with `"long_running": true`, which means the same,
//!   goes on as a task when it is called: see [`crate::task`].
//!
//! An app never holds a program that did not pass: either everything is right, or there is no app.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::issue::{At, Chars, Fields, Issue, Issues, object};
use super::meter::weigh;
use super::oauth::{Provider, parse_providers};
use super::panel::{Tree, check_static};
use super::schema::Schema;
use super::step::Program;
use super::webhook::{Webhook, parse_webhooks};

/// The version of the format that is read here.
pub const IR_VERSION: &str = "1.0";
/// The vocabulary and contract versions, which an envelope may leave out.
const SDL_VOCAB_VERSION: &str = "1";
const CONTRACT_VERSION: &str = "1.0";

/// Weight of an envelope: the bytes of its texts and keys plus a constant a node.
pub const ENVELOPE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Levels of lists and objects in an envelope.
pub const ENVELOPE_DEPTH_MAX: usize = 48;
/// Functions of one app.
pub const FUNCTIONS_MAX: usize = 256;
/// Panels of one app.
pub const PANELS_MAX: usize = 64;
/// Automations, skeleton sections, capabilities of one app; effects of one function.
const DECLARED_MAX: usize = 128;
/// Kinds of documents that `data` declares.
const KINDS_MAX: usize = 128;
/// Indexes of one kind.
const INDEXES_MAX: usize = 16;

/// Characters of an app's id.
const APP_ID_CHARS_MAX: usize = 64;
/// Characters of names, versions, modules, fields.
const NAME_CHARS_MAX: usize = 128;
/// Characters of titles.
const TITLE_CHARS_MAX: usize = 256;
/// Characters of descriptions.
const DESCRIPTION_CHARS_MAX: usize = 8 * 1024;
/// Characters of an icon, which may be an inline drawing.
const ICON_CHARS_MAX: usize = 64 * 1024;

/// What a panel's function name begins with.
pub const PANEL_PREFIX: &str = "__panel__";

/// How much a function may change, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionType {
    /// Changes nothing.
    Read,
    /// Adds or changes.
    Write,
    /// Takes away.
    Destructive,
}

impl ActionType {
    /// The name as written in envelopes and scopes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
        }
    }
}

/// A checked app, ready to run.
#[derive(Debug)]
pub struct App {
    /// The id that the app gives itself; whoever deploys it compares it with the registered one.
    pub id: String,
    /// The app's own version.
    pub version: String,
    /// The title shown to users.
    pub title: String,
    /// The description; may be empty.
    pub description: String,
    /// The icon; may be empty.
    pub icon: String,
    /// Capabilities that the app asks for, as written.
    pub capabilities: Vec<String>,
    /// Kinds of documents with declared indexes.
    pub kinds: Vec<DocumentKind>,
    /// Functions in the order of the envelope; their names are unique.
    pub functions: Vec<Function>,
    /// Panels in the order of the envelope; their ids are unique.
    pub panels: Vec<Panel>,
    /// Skeleton sections.
    pub skeleton: Vec<SkeletonSection>,
    /// Automations, as written.
    pub automations: Vec<Value>,
    /// Events, as written.
    pub events: Option<Value>,
    /// Lifecycle, as written.
    pub lifecycle: Option<Value>,
    /// Secrets that the app needs.
    pub secrets: Vec<broker::declaration::Declaration>,
    /// Where it is called from outside.
    pub webhooks: Vec<Webhook>,
    /// Where its users connect accounts.
    pub oauth: Vec<Provider>,
    names: HashMap<String, usize>,
}

/// A kind of document and its indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentKind {
    /// The kind's name, as the store steps use it.
    pub name: String,
    /// Fields that are indexed, named as in a `where`.
    pub indexes: Vec<String>,
}

/// A function of an app.
#[derive(Debug)]
pub struct Function {
    /// Unique within the app.
    pub name: String,
    /// The description; may be empty.
    pub description: String,
    /// The schema of the params, as written: a JSON Schema or a bare map of properties.
    pub params_schema: Value,
    /// The schema of the answer, as written; what a host answers is checked against it.
    pub return_schema: Option<Value>,
    /// How much the function may change.
    pub action_type: ActionType,
    /// Effects that the function declares, as written.
    pub effects: Vec<String>,
    /// The event that the function declares; may be empty.
    pub event: String,
    /// Declared as `background`: see [`Function::is_background`].
    pub background: bool,
    /// Declared as `long_running`: see [`Function::is_background`].
    pub long_running: bool,
    /// How the function is carried out.
    pub implementation: Implementation,
    schema: Schema,
}

/// How a function, or a skeleton section, is carried out.
#[derive(Debug)]
pub enum Implementation {
    /// By steps, inside the server.
    Declarative(Program),
    /// By the app's own host.
    Code(Entry),
}

/// An entry point on the app's own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The module.
    pub module: String,
    /// The name inside the module.
    pub entry: String,
}

/// A panel of an app.
#[derive(Debug)]
pub struct Panel {
    /// Unique within the app; called as the function `__panel__<id>`.
    pub id: String,
    /// Where a client draws it (`center`, `left`, `right`, …), as written; clients skip others.
    pub slot: String,
    /// The title; may be empty.
    pub title: String,
    /// The icon; may be empty.
    pub icon: String,
    /// What is drawn.
    pub render: Render,
}

/// What a panel draws.
#[derive(Debug)]
pub enum Render {
    /// A tree that is answered as written.
    Static(Value),
    /// A tree with bindings.
    Template(PanelTemplate),
    /// A tree that the app's own host makes.
    Code(Entry),
}

/// A compiled template of a panel.
#[derive(Debug)]
pub struct PanelTemplate(pub(crate) Tree);

/// A section of the app's skeleton.
#[derive(Debug)]
pub struct SkeletonSection {
    /// The section's name.
    pub section: String,
    /// Its shape, as written.
    pub shape: Value,
    /// What fills it.
    pub producer: Implementation,
    /// Whether a change is worth an alert.
    pub alert: bool,
    /// How long a filled section holds.
    pub ttl_seconds: u64,
}

/// What a function name stands for.
#[derive(Debug, Clone, Copy)]
pub enum Callable<'a> {
    /// A declared function.
    Function(&'a Function),
    /// A panel, called as `__panel__<id>`.
    Panel(&'a Panel),
}

impl Function {
    /// Whether a call of it is answered at once and goes on as a task.
    #[must_use]
    pub fn is_background(&self) -> bool {
        self.background || self.long_running
    }

    /// Fills the defaults of absent params, then checks them; null stands for no params.
    ///
    /// # Errors
    /// Every param that breaks the schema, with its place (`params.pages`).
    pub fn admit_params(&self, params: &mut Value) -> Result<(), Vec<Issue>> {
        require_object(params)?;
        let mut issues = Issues::default();
        self.schema.admit(params, &mut issues);
        if issues.is_empty() { Ok(()) } else { Err(issues.into_list()) }
    }

    /// Checks an answer that came from outside against `return_schema`. One that cannot be read as
    /// a schema is not checked.
    ///
    /// # Errors
    /// Everything that breaks the schema, with its place (`result.pages`).
    pub fn check_answer(&self, answer: &Value) -> Result<(), Vec<Issue>> {
        let Some(written) = &self.return_schema else { return Ok(()) };
        let mut issues = Issues::default();
        let schema = Schema::parse_params(written, &At::root("return_schema"), &mut issues);
        if !issues.is_empty() {
            return Ok(());
        }
        schema.check(answer, &At::root("result"), &mut issues);
        if issues.is_empty() { Ok(()) } else { Err(issues.into_list()) }
    }
}

/// Params are an object; null stands for an empty one.
pub(crate) fn require_object(params: &mut Value) -> Result<(), Vec<Issue>> {
    if params.is_null() {
        *params = Value::Object(Map::new());
    }
    let mut issues = Issues::default();
    object(params, &At::root("params"), &mut issues);
    if issues.is_empty() { Ok(()) } else { Err(issues.into_list()) }
}

impl App {
    /// The function or panel that a name stands for.
    #[must_use]
    pub fn callable(&self, name: &str) -> Option<Callable<'_>> {
        if let Some(position) = self.function_position(name) {
            return self.functions.get(position).map(Callable::Function);
        }
        let id = name.strip_prefix(PANEL_PREFIX)?;
        self.panels.iter().find(|panel| panel.id == id).map(Callable::Panel)
    }

    /// Whether calling a function may lead outside: to the app's own host, another app or a model.
    #[must_use]
    pub fn leads_outside(&self, name: &str) -> bool {
        let leads = |implementation: &Implementation| match implementation {
            Implementation::Code(_) => true,
            Implementation::Declarative(program) => {
                program.ops().any(|op| matches!(op, "call" | "ai.complete"))
            }
        };
        match self.callable(name) {
            Some(Callable::Function(function)) => leads(&function.implementation),
            Some(Callable::Panel(panel)) => matches!(panel.render, Render::Code(_)),
            None => false,
        }
    }

    /// Whether the app's own host carries out what a name stands for.
    #[must_use]
    pub fn is_code(&self, name: &str) -> bool {
        match self.callable(name) {
            Some(Callable::Function(it)) => matches!(it.implementation, Implementation::Code(_)),
            Some(Callable::Panel(panel)) => matches!(panel.render, Render::Code(_)),
            None => false,
        }
    }

    /// The OAuth provider of a name.
    #[must_use]
    pub fn provider(&self, name: &str) -> Option<&Provider> {
        self.oauth.iter().find(|provider| provider.name == name)
    }

    /// The webhook at a path.
    #[must_use]
    pub fn webhook(&self, path: &str) -> Option<&Webhook> {
        self.webhooks.iter().find(|webhook| webhook.path == path)
    }

    /// The indexed fields of a kind; none if it is not declared.
    #[must_use]
    pub fn indexes(&self, kind: &str) -> &[String] {
        let kind = self.kinds.iter().find(|known| known.name == kind);
        kind.map_or(&[], |kind| &kind.indexes)
    }

    /// Whether a name stands for a function that goes on as a task.
    #[must_use]
    pub fn is_background(&self, name: &str) -> bool {
        match self.callable(name) {
            Some(Callable::Function(function)) => function.is_background(),
            Some(Callable::Panel(_)) | None => false,
        }
    }

    pub(crate) fn function_position(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }
}

/// Reads an envelope.
///
/// # Errors
/// Everything that is wrong with it, up to [`ISSUES_MAX`](super::ISSUES_MAX) issues.
pub fn parse(envelope: &Value) -> Result<App, Vec<Issue>> {
    let mut issues = Issues::default();
    let at = At::root("");
    match weigh(envelope, ENVELOPE_DEPTH_MAX) {
        None => issues.add(&at, format!("is nested deeper than {ENVELOPE_DEPTH_MAX} levels")),
        Some(bytes) if bytes > ENVELOPE_BYTES_MAX => {
            issues.add(&at, format!("weighs {bytes} bytes; the limit is {ENVELOPE_BYTES_MAX}"));
        }
        Some(_) => {}
    }
    if !issues.is_empty() {
        return Err(issues.into_list());
    }
    match parse_envelope(envelope, &at, &mut issues) {
        Some(app) if issues.is_empty() => Ok(app),
        _ => Err(issues.into_list()),
    }
}

fn parse_envelope(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<App> {
    let known = ["ir_version", "sdl_vocab_version", "contract_version", "app"];
    let fields = Fields::read(value, at, &known, issues)?;
    fields.required("ir_version", issues);
    let versions = [
        ("ir_version", IR_VERSION),
        ("sdl_vocab_version", SDL_VOCAB_VERSION),
        ("contract_version", CONTRACT_VERSION),
    ];
    for (name, version) in versions {
        if fields.has(name) && fields.optional(name).and_then(Value::as_str) != Some(version) {
            issues.add(&at.key(name), format!("must be {version:?}"));
        }
    }
    let app = fields.required("app", issues)?;
    parse_app(app, &at.key("app"), issues)
}

fn parse_app(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<App> {
    let known = [
        "id",
        "version",
        "title",
        "description",
        "icon",
        "capabilities",
        "data",
        "functions",
        "ui",
        "skeleton",
        "automations",
        "events",
        "lifecycle",
        "secrets",
        "webhooks",
        "oauth",
    ];
    let fields = Fields::read(value, at, &known, issues)?;
    let name = Chars::some_up_to(NAME_CHARS_MAX);
    let panels = match fields.optional("ui") {
        Some(ui) => parse_panels(ui, &at.key("ui"), issues),
        None => Vec::new(),
    };
    let functions = parse_functions(&fields, &panels, issues);
    let names: HashMap<String, usize> =
        functions.iter().enumerate().map(|(i, function)| (function.name.clone(), i)).collect();
    Some(App {
        id: fields.text("id", &Chars::some_up_to(APP_ID_CHARS_MAX), issues),
        version: fields.text("version", &Chars::up_to(NAME_CHARS_MAX), issues),
        title: fields.text("title", &Chars::up_to(TITLE_CHARS_MAX), issues),
        description: fields.text_or("description", "", &DESCRIPTION, issues),
        icon: fields.text_or("icon", "", &Chars::up_to(ICON_CHARS_MAX), issues),
        capabilities: fields.texts("capabilities", DECLARED_MAX, &name, issues),
        kinds: parse_kinds(&fields, issues),
        skeleton: parse_skeleton(&fields, issues),
        automations: parse_automations(&fields, issues),
        events: fields.open_object("events", issues),
        lifecycle: fields.open_object("lifecycle", issues),
        secrets: super::secrets::parse(&fields, issues),
        webhooks: parse_webhooks(&fields, &names, issues),
        oauth: parse_providers(&fields, &names, issues),
        functions,
        panels,
        names,
    })
}

const DESCRIPTION: Chars = Chars::up_to(DESCRIPTION_CHARS_MAX);

fn parse_functions(app: &Fields<'_, '_>, panels: &[Panel], issues: &mut Issues) -> Vec<Function> {
    let at = app.at.key("functions");
    let mut functions: Vec<Function> = Vec::new();
    let mut first_by_name: HashMap<String, usize> = HashMap::new();
    for (position, value) in app.list("functions", FUNCTIONS_MAX, issues).iter().enumerate() {
        let at = at.index(position);
        let Some(function) = parse_function(value, &at, issues) else { continue };
        if !function.name.is_empty()
            && let Some(first) = first_by_name.insert(function.name.clone(), position)
        {
            issues.add(&at.key("name"), format!("is also the name of function {first}"));
        }
        let panel = function.name.strip_prefix(PANEL_PREFIX);
        if panel.is_some_and(|id| panels.iter().any(|panel| panel.id == id)) {
            issues.add(&at.key("name"), "is the name that a panel of this app is called by");
        }
        functions.push(function);
    }
    functions
}

fn parse_function(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Function> {
    let known = [
        "name",
        "description",
        "params_schema",
        "return_schema",
        "action_type",
        "effects",
        "event",
        "background",
        "long_running",
        "impl",
    ];
    let fields = Fields::read(value, at, &known, issues)?;
    let name = Chars::some_up_to(NAME_CHARS_MAX);
    let params_schema = fields.optional("params_schema").cloned();
    let params_schema = params_schema.unwrap_or_else(|| Value::Object(Map::new()));
    let schema = Schema::parse_params(&params_schema, &at.key("params_schema"), issues);
    let declared = parse_action_type(&fields, issues);
    let implementation = fields
        .required("impl", issues)
        .and_then(|value| parse_implementation(value, &at.key("impl"), issues))
        .unwrap_or(Implementation::Declarative(Program::default()));
    Some(Function {
        name: fields.text("name", &name, issues),
        description: fields.text_or("description", "", &DESCRIPTION, issues),
        return_schema: fields.open_object("return_schema", issues),
        effects: fields.texts("effects", DECLARED_MAX, &name, issues),
        event: fields.text_or("event", "", &Chars::up_to(NAME_CHARS_MAX), issues),
        background: parse_flag(&fields, "background", issues),
        long_running: parse_flag(&fields, "long_running", issues),
        action_type: declared.unwrap_or_else(|| least_action_type(&implementation)),
        params_schema,
        schema,
        implementation,
    })
}

/// A boolean that is false where nothing is said.
fn parse_flag(fields: &Fields<'_, '_>, name: &str, issues: &mut Issues) -> bool {
    let written = fields.optional(name).map_or(Some(false), Value::as_bool);
    if written.is_none() {
        issues.add(&fields.at.key(name), "must be true or false");
    }
    written.unwrap_or_default()
}

fn parse_action_type(function: &Fields<'_, '_>, issues: &mut Issues) -> Option<ActionType> {
    let written = function.optional("action_type")?;
    let known = [ActionType::Read, ActionType::Write, ActionType::Destructive];
    let action_type = known.into_iter().find(|known| written.as_str() == Some(known.name()));
    if action_type.is_none() {
        issues.add(&function.at.key("action_type"), "must be read, write or destructive");
    }
    action_type
}

fn least_action_type(implementation: &Implementation) -> ActionType {
    let Implementation::Declarative(program) = implementation else { return ActionType::Write };
    let least = program.ops().map(|op| match op {
        "store.get" | "store.list" | "conditional" => ActionType::Read,
        "store.delete" => ActionType::Destructive,
        _ => ActionType::Write,
    });
    least.max().unwrap_or(ActionType::Read)
}

fn parse_implementation(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Implementation> {
    match object(value, at, issues)?.get("kind").and_then(Value::as_str) {
        Some("declarative") => {
            let fields = Fields::read(value, at, &["kind", "steps"], issues)?;
            let steps = fields.optional("steps");
            let program = steps.map(|steps| Program::parse(steps, &at.key("steps"), issues));
            Some(Implementation::Declarative(program.unwrap_or_default()))
        }
        Some("code") => Some(Implementation::Code(parse_entry(value, at, issues)?)),
        _ => {
            issues.add(&at.key("kind"), "must be declarative or code");
            None
        }
    }
}

fn parse_entry(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Entry> {
    let fields = Fields::read(value, at, &["kind", "module", "entry"], issues)?;
    let name = Chars::some_up_to(NAME_CHARS_MAX);
    Some(Entry {
        module: fields.text("module", &name, issues),
        entry: fields.text("entry", &name, issues),
    })
}

fn parse_panels(value: &Value, at: &At<'_>, issues: &mut Issues) -> Vec<Panel> {
    let Some(fields) = Fields::read(value, at, &["panels"], issues) else { return Vec::new() };
    let at = at.key("panels");
    let mut panels: Vec<Panel> = Vec::new();
    for (position, value) in fields.list("panels", PANELS_MAX, issues).iter().enumerate() {
        let at = at.index(position);
        let Some(panel) = parse_panel(value, &at, issues) else { continue };
        if panels.iter().any(|known| known.id == panel.id) {
            issues.add(&at.key("panel_id"), "is also the id of another panel");
        }
        panels.push(panel);
    }
    panels
}

fn parse_panel(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Panel> {
    let known = ["panel_id", "slot", "title", "icon", "render"];
    let fields = Fields::read(value, at, &known, issues)?;
    let id = fields.text("panel_id", &Chars::some_up_to(NAME_CHARS_MAX), issues);
    let slot = fields.text("slot", &Chars::some_up_to(NAME_CHARS_MAX), issues);
    let title = fields.text_or("title", "", &Chars::up_to(TITLE_CHARS_MAX), issues);
    let icon = fields.text_or("icon", "", &Chars::up_to(ICON_CHARS_MAX), issues);
    let render = fields.required("render", issues)?;
    let render = parse_render(render, &at.key("render"), issues)?;
    Some(Panel { id, slot, title, icon, render })
}

fn parse_render(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<Render> {
    let kind = object(value, at, issues)?.get("kind").and_then(Value::as_str);
    match kind {
        Some("code") => return Some(Render::Code(parse_entry(value, at, issues)?)),
        Some("static" | "template") => {}
        _ => {
            issues.add(&at.key("kind"), "must be static, template or code");
            return None;
        }
    }
    let fields = Fields::read(value, at, &["kind", "tree"], issues)?;
    let tree = fields.required("tree", issues)?;
    let at = at.key("tree");
    if kind == Some("static") {
        check_static(tree, &at, issues);
        return Some(Render::Static(tree.clone()));
    }
    Tree::parse_root(tree, &at, issues).map(|tree| Render::Template(PanelTemplate(tree)))
}

fn parse_kinds(app: &Fields<'_, '_>, issues: &mut Issues) -> Vec<DocumentKind> {
    let Some(data) = app.optional("data") else { return Vec::new() };
    let at = app.at.key("data");
    let kinds = Fields::read(data, &at, &["kinds"], issues);
    let Some(kinds) = kinds.and_then(|data| data.optional("kinds")) else { return Vec::new() };
    let at = at.key("kinds");
    let Some(kinds) = object(kinds, &at, issues) else { return Vec::new() };
    if kinds.len() > KINDS_MAX {
        issues.add(&at, format!("has {} kinds; the limit is {KINDS_MAX}", kinds.len()));
        return Vec::new();
    }
    let field = Chars::some_up_to(NAME_CHARS_MAX);
    let mut parsed = Vec::with_capacity(kinds.len());
    for (name, kind) in kinds {
        let at = at.key(name);
        if let Some(kind) = Fields::read(kind, &at, &["indexes"], issues) {
            let indexes = kind.texts("indexes", INDEXES_MAX, &field, issues);
            parsed.push(DocumentKind { name: name.clone(), indexes });
        }
    }
    parsed
}

fn parse_skeleton(app: &Fields<'_, '_>, issues: &mut Issues) -> Vec<SkeletonSection> {
    let at = app.at.key("skeleton");
    let sections = app.list("skeleton", DECLARED_MAX, issues).iter().enumerate();
    sections.filter_map(|(i, v)| parse_section(v, &at.index(i), issues)).collect()
}

/// How long a skeleton section holds if it does not say.
const SKELETON_TTL_SECONDS_DEFAULT: u64 = 300;

fn parse_section(value: &Value, at: &At<'_>, issues: &mut Issues) -> Option<SkeletonSection> {
    let known = ["section", "shape", "producer", "alert", "ttl"];
    let fields = Fields::read(value, at, &known, issues)?;
    let section = fields.text("section", &Chars::some_up_to(NAME_CHARS_MAX), issues);
    let shape = fields.open_object("shape", issues);
    let alert = parse_flag(&fields, "alert", issues);
    let ttl = fields.optional("ttl").map_or(Some(SKELETON_TTL_SECONDS_DEFAULT), Value::as_u64);
    if ttl.is_none() {
        issues.add(&at.key("ttl"), "must be a whole number of seconds");
    }
    let producer = fields.required("producer", issues)?;
    Some(SkeletonSection {
        section,
        shape: shape.unwrap_or_else(|| Value::Object(Map::new())),
        producer: parse_implementation(producer, &at.key("producer"), issues)?,
        alert,
        ttl_seconds: ttl?,
    })
}

fn parse_automations(app: &Fields<'_, '_>, issues: &mut Issues) -> Vec<Value> {
    let at = app.at.key("automations");
    let automations = app.list("automations", DECLARED_MAX, issues);
    for (position, automation) in automations.iter().enumerate() {
        object(automation, &at.index(position), issues);
    }
    automations.to_vec()
}
