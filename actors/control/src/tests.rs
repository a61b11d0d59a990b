//! What an app promises, story by story.

use serde_json::json;
use supervision::testkit::Given;
use types::{AppId, JsonBytes, SharePercent, TenantId, UserId};

use crate::app::{
    App, Create, Deploy, DeployReceipt, Listing, SetStatus, Status, Update, VERSIONS_MAX,
};
use crate::pricing::PricingModel;

const ADA: UserId = UserId(1);
const HOME: TenantId = TenantId(1);

fn create(developer: UserId) -> Create {
    let listing = Listing {
        display_name: "Shelf".to_owned(),
        description: String::new(),
        category: "general".to_owned(),
        icon: String::new(),
        git_url: "https://example.test/shelf".to_owned(),
        pricing_model: PricingModel::Free,
        pricing_config: None,
        revenue_split_dev: SharePercent::new(70).unwrap(),
    };
    Create { id: AppId::new("shelf").unwrap(), developer, tenant: HOME, listing }
}

fn deploy(version: &str, content: u8) -> Deploy {
    let ir = JsonBytes::from(json!({ "content": content }));
    Deploy { version: version.to_owned(), ir, digest: [content; 32], dev_mode: true }
}

fn created() -> Given<App> {
    Given::nothing().when(create(ADA)).then()
}

fn receipt(version: &str, status: Status, unchanged: bool) -> DeployReceipt {
    DeployReceipt { version: version.to_owned(), status, unchanged }
}

#[test]
fn an_app_is_created_once_and_stays_its_developers() {
    let then = created().when(create(ADA));
    assert!(then.events.is_empty());
    let (again, given) = then.reply();
    assert_eq!((again.developer, again.status), (ADA, Status::Draft));
    assert_eq!(given.when(create(UserId(2))).refused().0, "app_id_taken");
}

#[test]
fn a_version_is_deployed_again_only_with_the_same_content() {
    let (first, given) = created().when(deploy("1.0.0", 1)).reply();
    assert_eq!(first, receipt("1.0.0", Status::Draft, false));
    let then = given.when(deploy("1.0.0", 1));
    assert!(then.events.is_empty());
    let (again, given) = then.reply();
    assert_eq!(again, receipt("1.0.0", Status::Draft, true));
    let (code, given) = given.when(deploy("1.0.0", 2)).refused();
    assert_eq!(code, "version_exists");
    // Another version, and then back to the first.
    let given = given.when(deploy("1.1.0", 2)).then().when(deploy("1.0.0", 1)).then();
    let app = given.state().details().unwrap();
    assert_eq!(app.current().unwrap().version, "1.0.0");
    assert_eq!(app.ir.as_ref().unwrap().value(), json!({"content": 1}));
    assert_eq!(app.versions.len(), 2);
}

#[test]
fn only_so_many_versions_are_remembered() {
    let mut given = created();
    for number in 0..VERSIONS_MAX + 5 {
        given = given.when(deploy(&format!("1.{number}"), 1)).then();
    }
    assert_eq!(given.state().details().unwrap().versions.len(), VERSIONS_MAX + 1);
    assert_eq!(given.when(deploy("1.10", 2)).refused().0, "version_exists");
}

#[test]
fn a_deploy_outside_dev_mode_submits_a_draft_and_leaves_other_states() {
    let public = || Deploy { dev_mode: false, ..deploy("1.0.0", 1) };
    let given = created().when(deploy("1.0.0", 1)).then();
    let (submitted, given) = given.when(public()).reply();
    assert_eq!(submitted, receipt("1.0.0", Status::PendingReview, false));
    let set = |status| SetStatus { status, reason: None };
    let given = given.when(set(Status::Active)).then();
    let (kept, _) = given.when(public()).reply();
    assert_eq!(kept, receipt("1.0.0", Status::Active, true));
}

#[test]
fn a_state_leads_only_where_it_should() {
    let set =
        |status, reason: Option<&str>| SetStatus { status, reason: reason.map(str::to_owned) };
    let (code, given) = created().when(set(Status::PendingReview, None)).refused();
    assert_eq!(code, "not_deployed");
    let given = given.when(deploy("1.0.0", 1)).then();
    let (code, given) = given.when(set(Status::Active, None)).refused();
    assert_eq!(code, "wrong_status");
    let given = given.when(set(Status::PendingReview, None)).then();
    let given = given.when(set(Status::Draft, Some("no icon"))).then();
    assert_eq!(given.state().details().unwrap().reject_reason.as_deref(), Some("no icon"));
    let given = given.when(set(Status::PendingReview, None)).then();
    assert_eq!(given.state().details().unwrap().reject_reason, None);
}

#[test]
fn the_price_changes_only_while_nobody_else_can_call_it() {
    let priced = |price: i64| Update {
        pricing_model: Some(PricingModel::PerAction),
        pricing_config: Some(JsonBytes::from(json!({ "default": price }))),
        ..Update::default()
    };
    let given = created().when(priced(3)).then().when(deploy("1.0.0", 1)).then();
    let (code, given) = given.when(priced(-3)).refused();
    assert_eq!(code, "validation_error");
    let submitted = SetStatus { status: Status::PendingReview, reason: None };
    let given = given.when(submitted).then();
    assert!(given.when(priced(3)).events.is_empty());
    let given = created().when(Deploy { dev_mode: false, ..deploy("1.0.0", 1) }).then();
    let (code, given) = given.when(priced(3)).refused();
    assert_eq!(code, "pricing_locked");
    let named = Update { display_name: Some("Books".to_owned()), ..Update::default() };
    let (details, _) = given.when(named).reply();
    assert_eq!(details.listing.display_name, "Books");
}

#[test]
fn nothing_happens_to_an_app_that_does_not_exist() {
    let (code, given) = Given::<App>::nothing().when(deploy("1.0.0", 1)).refused();
    assert_eq!(code, "not_found");
    assert_eq!(given.when(Update::default()).refused().0, "not_found");
}
