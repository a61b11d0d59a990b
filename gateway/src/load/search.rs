//! The scenario `search`: finding apps in a marketplace of many.
//!
//! Preparing fills the marketplace by the public routes: developers of the greatest tier, each with
//! its share of the apps, every app deployed and approved. Names and descriptions are put together
//! from a few hundred words, so that a question finds from one app to some thousands.
//!
//! Deliberate limit: the apps stay; a second run adds to them.

use futures::future::try_join_all;
use hyper::Method;
use serde_json::{Value, json};

use super::LoadError;
use super::scenario::{Accept, Workload};
use super::setup::{Member, Setup};

/// Apps of one developer: fewer than the greatest tier has.
const APPS_PER_DEVELOPER: usize = 900;
/// What the greatest tier costs, and more.
const CREDITS: u64 = 1_000_000;
/// How many different questions are asked.
pub(crate) const QUESTIONS: usize = 64;

const ADJECTIVES: [&str; 16] = [
    "quiet", "rapid", "amber", "modern", "rural", "lucid", "plain", "royal", "solar", "tidal",
    "urban", "vivid", "woven", "young", "zonal", "basic",
];
const NOUNS: [&str; 16] = [
    "shelf", "ledger", "atlas", "notes", "garden", "mail", "weather", "calendar", "recipe",
    "music", "budget", "travel", "archive", "market", "photo", "health",
];
const VERBS: [&str; 8] =
    ["keeps", "sorts", "finds", "counts", "shares", "plans", "draws", "translates"];

fn word<'a>(words: &[&'a str], number: usize) -> &'a str {
    words[number % words.len()]
}

/// What the app of a number is called and says.
fn texts(number: usize) -> (String, String, &'static str) {
    let (adjective, noun) = (word(&ADJECTIVES, number), word(&NOUNS, number / 16));
    let name = format!("{adjective} {noun} {number}");
    let description = format!(
        "A {adjective} {noun} that {} your {} and {} every {} for you, number {number}",
        word(&VERBS, number / 3),
        word(&NOUNS, number / 7),
        word(&VERBS, number / 5),
        word(&NOUNS, number / 11),
    );
    (name, description, word(&NOUNS, number / 256))
}

/// What is asked for: whole words, beginnings, two words, a number that one app has.
fn question(number: usize) -> String {
    match number % 4 {
        0 => word(&NOUNS, number / 4).to_owned(),
        1 => word(&ADJECTIVES, number / 4)[..3].to_owned(),
        2 => format!("{}%20{}", word(&ADJECTIVES, number / 4), word(&NOUNS, number)),
        _ => (number * 37).to_string(),
    }
}

/// Fills the marketplace, and answers the questions.
pub(crate) async fn prepare(setup: &Setup) -> Result<Workload, LoadError> {
    let apps = setup.apps();
    let members = setup.register_members(apps.div_ceil(APPS_PER_DEVELOPER).max(1)).await?;
    let each = members.iter().enumerate().map(|(place, member)| {
        let first = place * APPS_PER_DEVELOPER;
        fill(setup, member, first..apps.min(first + APPS_PER_DEVELOPER))
    });
    try_join_all(each).await?;
    let token = match members.first() {
        Some(member) => &member.token,
        None => return Err(LoadError::Missing { options: "--apps" }),
    };
    let request = |number| {
        let path = format!("/v1/marketplace/apps?search={}", question(number));
        setup.member_request(Method::GET, &path, token, None)
    };
    let requests = (0..QUESTIONS).map(request).collect::<Result<_, _>>()?;
    Ok(Workload::new(requests, Accept::Ok))
}

async fn fill(
    setup: &Setup,
    member: &Member,
    numbers: std::ops::Range<usize>,
) -> Result<(), LoadError> {
    setup.grant_if_possible(&member.tenant_id, CREDITS).await?;
    let register = json!({ "tier": "partner", "nickname": setup.unique("load") });
    match setup.post(member, "/v1/developer/register", &register).await {
        Err(LoadError::Refused { status: 400, .. }) => {}
        other => drop(other?),
    }
    for number in numbers {
        let (name, description, category) = texts(number);
        let app_id = setup.unique("find");
        let app = json!({
            "app_id": app_id,
            "display_name": name,
            "description": description,
            "category": category,
            "icon": "box",
            "git_url": "https://example.com/app.git",
        });
        setup.post(member, "/v1/developer/apps", &app).await?;
        let deploy = json!({
            "user_id": member.user_id,
            "tenant_id": member.tenant_id,
            "function": "deploy_ir",
            "params": { "app_id": app_id, "ir_dict": document(&app_id) },
        });
        setup.post(member, "/v1/extensions/developer/call", &deploy).await?;
        let approve = format!("/v1/admin/apps/{app_id}/approve");
        setup.post_as_service(&approve, &json!({})).await?;
    }
    Ok(())
}

/// An app with one function.
fn document(app_id: &str) -> Value {
    let steps = json!([{ "id": "all", "op": "store.list", "args": { "kind": "thing" } }]);
    json!({
        "ir_version": "1.0",
        "app": {
            "id": app_id,
            "version": "1.0.0",
            "title": app_id,
            "functions": [{
                "name": "things",
                "action_type": "read",
                "params_schema": {},
                "impl": { "kind": "declarative", "steps": steps },
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn apps_and_questions_differ() {
        let names: BTreeSet<_> = (0..10_000).map(|number| texts(number).0).collect();
        assert_eq!(names.len(), 10_000);
        let questions: BTreeSet<_> = (0..QUESTIONS).map(question).collect();
        assert!(questions.len() > QUESTIONS / 2, "{questions:?}");
    }
}
