//! The app of the story: it values books, and keeps a report of each.

use serde_json::{Value, json};

/// What a report costs, in credits.
pub(super) const REPORT_PRICE: i64 = 2_500;

/// The app as its developer creates it.
pub(super) fn listing(app: &str) -> Value {
    json!({"app_id": app, "display_name": "Book valuer",
        "description": "Values a book and keeps a report of it",
        "category": "books", "icon": "book", "git_url": "https://example.com/valuer.git",
        "pricing_model": "per_action",
        "pricing_config": {"default": 0, "functions": {"value": REPORT_PRICE}}})
}

/// Its document.
pub(super) fn document(app: &str) -> Value {
    json!({"ir_version": "1.0", "app": {"id": app, "version": "1.0.0", "title": "Book valuer",
        "capabilities": ["store"], "functions": [
        {"name": "value", "action_type": "write",
         "params_schema": {"title": {"type": "string"}, "pages": {"type": "integer"}},
         "impl": {"kind": "declarative", "steps": [
            {"id": "put", "op": "store.create", "args": {"kind": "report", "data": {
                "title": "{{args.title}}", "pages": "{{args.pages}}",
                "label": "{{args.title}} ({{args.pages}} p.)"}}}]}},
        {"name": "reports", "action_type": "read", "params_schema": {},
         "impl": {"kind": "declarative", "steps": [
            {"id": "all", "op": "store.list", "args": {"kind": "report", "limit": 50}}]}}]}})
}

/// A version that wants more: it takes reports away.
pub(super) fn wider_document(app: &str) -> Value {
    let mut document = document(app);
    document["app"]["version"] = json!("1.1.0");
    let discard = json!({"name": "discard", "action_type": "destructive",
        "params_schema": {"id": {"type": "string"}},
        "impl": {"kind": "declarative", "steps": [
            {"id": "gone", "op": "store.delete",
             "args": {"kind": "report", "id": "{{args.id}}"}}]}});
    if let Some(functions) = document["app"]["functions"].as_array_mut() {
        functions.push(discard);
    }
    document
}
