//! One step: its arguments are resolved and checked, then carried out on the documents.
//!
//! What leaves the app (calls, completions) is handed back as data; the caller of the run carries
//! it out. An optional argument whose whole binding leads to nothing or to null counts as not
//! given, except the one that chooses the documents of an update or delete: what is missing there
//! never widens the choice. Numbers and booleans are turned into text where text is expected.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::condition::{Filter, FilterTemplate};
use super::meter::{Excess, Meter, VALUE_DEPTH_MAX, weigh};
use super::step::{
    CompleteStep, DOCUMENTS_LISTED_DEFAULT, DOCUMENTS_LISTED_MAX, Kind, ListStep, Step, Target,
};
use super::template::{Scope, Template, text_of};

/// What the data of one document, or one patch, may weigh, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a kind's name and of a document's id.
const NAME_BYTES_MAX: usize = 256;

/// A document of the app's store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// The id that the store gave it.
    pub id: String,
    /// The app's own fields.
    pub data: Map<String, Value>,
    /// When it was made: RFC 3339, UTC.
    pub created_at: String,
    /// When it was last changed: RFC 3339, UTC.
    pub updated_at: String,
}

impl Document {
    /// Sets the given fields and leaves the others.
    pub fn patch(&mut self, set: &Map<String, Value>, updated_at: String) {
        self.data.extend(set.iter().map(|(field, value)| (field.clone(), value.clone())));
        self.updated_at = updated_at;
    }

    fn into_value(self) -> Value {
        object([
            ("id", Value::String(self.id)),
            ("data", Value::Object(self.data)),
            ("created_at", Value::String(self.created_at)),
            ("updated_at", Value::String(self.updated_at)),
        ])
    }
}

/// Which documents a step asks for; all that is given must hold.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The kind.
    pub kind: &'a str,
    /// What the data must match.
    pub filter: Option<&'a Filter>,
    /// The ids among which to look.
    pub ids: Option<&'a [String]>,
    /// The most documents to answer: at least 1, at most 10,001.
    pub limit: usize,
}

/// The app's store as one run sees it: what is durable, changed by the run's own writes.
///
/// Documents are listed in the order of their making. A refusal fails the step and so the run,
/// whose writes the implementor then drops.
pub trait Documents {
    /// The document of this kind and id.
    ///
    /// # Errors
    /// Whatever the store refuses.
    fn get(&mut self, kind: &str, id: &str) -> Result<Option<Document>, Reason>;

    /// The documents that a query asks for.
    ///
    /// # Errors
    /// Whatever the store refuses, such as a query that would examine too many documents.
    fn list(&mut self, query: &Query<'_>) -> Result<Vec<Document>, Reason>;

    /// The ids of the documents that a query asks for.
    ///
    /// # Errors
    /// As [`Self::list`].
    fn find(&mut self, query: &Query<'_>) -> Result<Vec<String>, Reason> {
        let documents = self.list(query)?;
        Ok(documents.into_iter().map(|document| document.id).collect())
    }

    /// Makes a document and answers its id.
    ///
    /// # Errors
    /// Whatever the store refuses.
    fn create(&mut self, kind: &str, data: Map<String, Value>) -> Result<String, Reason>;

    /// Sets the given fields of a document; false if there is none.
    ///
    /// # Errors
    /// Whatever the store refuses.
    fn update(&mut self, kind: &str, id: &str, set: &Map<String, Value>) -> Result<bool, Reason>;

    /// Removes a document; false if there is none.
    ///
    /// # Errors
    /// Whatever the store refuses.
    fn delete(&mut self, kind: &str, id: &str) -> Result<bool, Reason>;
}

/// Why a step was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Reason {
    /// Stable, `snake_case`.
    pub code: Cow<'static, str>,
    /// In words.
    pub message: String,
}

impl Reason {
    /// A reason with a code that is known when the server is built.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into() }
    }
}

/// What a run asks of the world outside the app.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Call a function; the answer is what that function answers.
    Call {
        /// The app; the running one if the function is carried out by the app's own host.
        app_id: String,
        /// The function's name.
        function: String,
        /// An object.
        params: Value,
        /// How many calls lead to it: the callee's `call_depth`.
        call_depth: usize,
    },
    /// Complete a prompt; the answer is the text, as a JSON string.
    Complete {
        /// The prompt.
        prompt: String,
        /// The model, if the step names one.
        model: Option<String>,
        /// The temperature, if given.
        temperature: Option<f64>,
        /// The most tokens to answer, if given.
        max_tokens: Option<u64>,
    },
}

/// What a step leads to.
pub(crate) enum Effect {
    Bound(Value),
    Directive(Value),
    Jump(Option<usize>),
    Call { app_id: Option<String>, function: String, params: Value },
    Complete(Request),
}

/// Why a step was not carried out.
#[derive(Debug)]
pub(crate) enum Fault {
    Excess(Excess),
    /// More steps than this were executed.
    Steps(usize),
    Time,
    Reason(Reason),
}

impl From<Excess> for Fault {
    fn from(excess: Excess) -> Self {
        Self::Excess(excess)
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

/// Asked before each step, each changed document and each repeated node.
pub(crate) struct Deadline<'a> {
    pub(crate) expired: &'a dyn Fn() -> bool,
}

impl Deadline<'_> {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if (self.expired)() { Err(Fault::Time) } else { Ok(()) }
    }
}

/// What a step is carried out with.
pub(crate) struct Performer<'a> {
    pub(crate) scope: Scope<'a>,
    pub(crate) meter: &'a mut Meter,
    pub(crate) documents: &'a mut dyn Documents,
    pub(crate) deadline: &'a Deadline<'a>,
}

impl Performer<'_> {
    pub(crate) fn perform(&mut self, step: &Step) -> Result<Effect, Fault> {
        match step {
            Step::Create { kind, data } => self.create(kind, data),
            Step::Get { kind, id } => {
                let (kind, id) = (self.name("kind", kind)?, self.text("id", id)?);
                let document = self.documents.get(&kind, &id)?;
                let document = document.map_or(Ok(Value::Null), |document| self.bring(document))?;
                Ok(Effect::Bound(object([("doc", document)])))
            }
            Step::List(step) => self.list(step),
            Step::Update { kind, target, set } => self.update(kind, target, set),
            Step::Delete { kind, target } => self.delete(kind, target),
            Step::Call { app_id, function, params } => {
                let function = self.name("function", function)?;
                let app_id = self.optional(app_id.as_ref(), |p, t| p.text("app_id", t))?;
                let params = self.optional(params.as_ref(), |p, t| p.object("params", t))?;
                let params = Value::Object(params.unwrap_or_default());
                Ok(Effect::Call { app_id, function, params })
            }
            Step::Complete(step) => self.complete(step),
            Step::Directive { op, args } => self.directive(op, args),
            Step::Conditional { condition, then, otherwise } => {
                let holds = condition.holds(&self.scope, self.meter)?;
                Ok(Effect::Jump(if holds { *then } else { *otherwise }))
            }
        }
    }

    fn create(&mut self, kind: &Template, data: &Template) -> Result<Effect, Fault> {
        let kind = self.name("kind", kind)?;
        let data = self.object("data", data)?;
        self.check_weight(&data)?;
        let id = self.documents.create(&kind, data)?;
        self.meter.take_node(&id)?;
        Ok(Effect::Bound(object([("id", Value::String(id))])))
    }

    fn list(&mut self, step: &ListStep) -> Result<Effect, Fault> {
        let kind = self.name("kind", &step.kind)?;
        let filter = step.filter.as_ref().filter(|filter| !filter.is_absent(&self.scope));
        let filter = filter.map(|filter| self.filter(filter)).transpose()?;
        let ids = self.optional(step.ids.as_ref(), Self::ids)?;
        let limit = self.optional(step.limit.as_ref(), |p, t| p.integer("limit", t))?;
        let limit = limit.unwrap_or(DOCUMENTS_LISTED_DEFAULT);
        let allowed = (1..=DOCUMENTS_LISTED_MAX).contains(&limit);
        let Some(limit) = usize::try_from(limit).ok().filter(|_| allowed) else {
            let message = format!("limit must be from 1 to {DOCUMENTS_LISTED_MAX}, not {limit}");
            return Err(invalid(message).into());
        };
        let query = Query { kind: &kind, filter: filter.as_ref(), ids: ids.as_deref(), limit };
        let documents = self.documents.list(&query)?;
        let mut docs = Vec::with_capacity(documents.len());
        let mut ids = Vec::with_capacity(documents.len());
        for document in documents {
            self.meter.take_node(&document.id)?;
            ids.push(Value::String(document.id.clone()));
            docs.push(self.bring(document)?);
        }
        let count = Value::from(ids.len());
        let (docs, ids) = (Value::Array(docs), Value::Array(ids));
        Ok(Effect::Bound(object([("docs", docs), ("ids", ids), ("count", count)])))
    }

    fn update(
        &mut self,
        kind: &Template,
        target: &Target,
        set: &Template,
    ) -> Result<Effect, Fault> {
        let kind = self.name("kind", kind)?;
        let set = self.object("set", set)?;
        self.check_weight(&set)?;
        let mut updated = Vec::new();
        for id in self.targets(&kind, target)? {
            self.deadline.check()?;
            if self.documents.update(&kind, &id, &set)? {
                self.meter.take_node(&id)?;
                updated.push(Value::String(id));
            }
        }
        let count = Value::from(updated.len());
        Ok(Effect::Bound(object([("ids", Value::Array(updated)), ("count", count)])))
    }

    fn delete(&mut self, kind: &Template, target: &Target) -> Result<Effect, Fault> {
        let kind = self.name("kind", kind)?;
        let mut count = 0_u64;
        for id in self.targets(&kind, target)? {
            self.deadline.check()?;
            if self.documents.delete(&kind, &id)? {
                count += 1;
            }
        }
        Ok(Effect::Bound(object([("count", Value::from(count))])))
    }

    fn targets(&mut self, kind: &str, target: &Target) -> Result<Vec<String>, Fault> {
        match target {
            Target::Id(id) => Ok(vec![self.text("id", id)?]),
            Target::Ids(ids) => self.ids(ids),
            Target::Where(filter) => {
                let filter = self.filter(filter)?;
                let max = usize::try_from(DOCUMENTS_LISTED_MAX).unwrap_or(usize::MAX);
                // One more is asked for, to tell a full answer from one that was cut off.
                let limit = max.saturating_add(1);
                let query = Query { kind, filter: Some(&filter), ids: None, limit };
                let found = self.documents.find(&query)?;
                if found.len() > max {
                    let message = format!("where matches more than {max} documents");
                    return Err(Reason::new("too_many_documents", message).into());
                }
                Ok(found)
            }
        }
    }

    fn complete(&mut self, step: &CompleteStep) -> Result<Effect, Fault> {
        let prompt = self.text("prompt", &step.prompt)?;
        let model = self.optional(step.model.as_ref(), |p, t| p.text("model", t))?;
        let temperature = self.optional(step.temperature.as_ref(), |performer, template| {
            let value = performer.resolve(template)?;
            let wrong = || wrong_type("temperature", Kind::Number, &value).into();
            value.as_f64().ok_or_else(wrong)
        })?;
        let max_tokens =
            self.optional(step.max_tokens.as_ref(), |p, t| p.integer("max_tokens", t))?;
        Ok(Effect::Complete(Request::Complete { prompt, model, temperature, max_tokens }))
    }

    fn directive(
        &mut self,
        op: &'static str,
        args: &[(&'static str, Kind, Template)],
    ) -> Result<Effect, Fault> {
        let mut directive = Map::with_capacity(args.len() + 1);
        directive.insert("action".to_owned(), Value::String(op.to_owned()));
        for (name, kind, template) in args {
            let required = matches!(*name, "message" | "url") || (op, *name) == ("open", "target");
            if !required && template.is_absent(&self.scope) {
                continue;
            }
            let value = match kind {
                Kind::Text => Value::String(self.text(name, template)?),
                _ => Value::Object(self.object(name, template)?),
            };
            directive.insert((*name).to_owned(), value);
        }
        Ok(Effect::Directive(Value::Object(directive)))
    }

    /// A document on its way into the run's values, weighed first.
    fn bring(&mut self, document: Document) -> Result<Value, Fault> {
        for text in [&document.id, &document.created_at, &document.updated_at] {
            self.meter.take_node(text)?;
        }
        for (field, value) in &document.data {
            self.meter.take(field.len())?;
            self.meter.take_value(value, 0)?;
        }
        Ok(document.into_value())
    }

    fn resolve(&mut self, template: &Template) -> Result<Value, Fault> {
        Ok(template.resolve(&self.scope, self.meter, 0)?)
    }

    fn optional<T>(
        &mut self,
        template: Option<&Template>,
        read: impl FnOnce(&mut Self, &Template) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match template.filter(|template| !template.is_absent(&self.scope)) {
            Some(template) => read(self, template).map(Some),
            None => Ok(None),
        }
    }

    fn text(&mut self, name: &str, template: &Template) -> Result<String, Fault> {
        match self.resolve(template)? {
            Value::String(text) => Ok(text),
            value @ (Value::Array(_) | Value::Object(_)) => {
                Err(wrong_type(name, Kind::Text, &value).into())
            }
            scalar => Ok(text_of(&scalar).into_owned()),
        }
    }

    /// A text that must not be empty or long.
    fn name(&mut self, name: &str, template: &Template) -> Result<String, Fault> {
        let text = self.text(name, template)?;
        if text.is_empty() || text.len() > NAME_BYTES_MAX {
            let message = format!("{name} must have 1 to {NAME_BYTES_MAX} bytes");
            return Err(invalid(message).into());
        }
        Ok(text)
    }

    fn integer(&mut self, name: &str, template: &Template) -> Result<u64, Fault> {
        let value = self.resolve(template)?;
        value.as_u64().ok_or_else(|| wrong_type(name, Kind::Integer, &value).into())
    }

    fn object(&mut self, name: &str, template: &Template) -> Result<Map<String, Value>, Fault> {
        match self.resolve(template)? {
            Value::Object(members) => Ok(members),
            value => Err(wrong_type(name, Kind::Object, &value).into()),
        }
    }

    fn ids(&mut self, template: &Template) -> Result<Vec<String>, Fault> {
        let items = match self.resolve(template)? {
            Value::Array(items) => items,
            value => return Err(wrong_type("ids", Kind::Ids, &value).into()),
        };
        if items.len() as u64 > DOCUMENTS_LISTED_MAX {
            let message =
                format!("ids has {} items; the limit is {DOCUMENTS_LISTED_MAX}", items.len());
            return Err(invalid(message).into());
        }
        let id = |item| match item {
            Value::String(id) => Ok(id),
            value => Err(wrong_type("every one of ids", Kind::Text, &value).into()),
        };
        items.into_iter().map(id).collect()
    }

    fn filter(&mut self, filter: &FilterTemplate) -> Result<Filter, Fault> {
        let resolved = filter.resolve(&self.scope, self.meter)?;
        resolved.map_err(|message| invalid(message).into())
    }

    fn check_weight(&self, data: &Map<String, Value>) -> Result<(), Fault> {
        let mut bytes = 0;
        for (field, value) in data {
            bytes += field.len() + weigh(value, VALUE_DEPTH_MAX).ok_or(Excess::Depth)?;
        }
        if bytes > DOCUMENT_BYTES_MAX {
            let message = format!("weighs {bytes} bytes; the limit is {DOCUMENT_BYTES_MAX}");
            return Err(Reason::new("document_too_large", message).into());
        }
        Ok(())
    }
}

/// An object of the given members, which are moved (`json!` would copy them).
pub(crate) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn invalid(message: String) -> Reason {
    Reason::new("argument_invalid", message)
}

fn wrong_type(name: &str, kind: Kind, value: &Value) -> Reason {
    invalid(format!("{name} must be {}, not {}", kind.words(), super::issue::type_name(value)))
}
