//! What an index has rows for, and what it does not tell.

use persistence::codec;
use proptest::prelude::*;
use serde_json::json;
use supervision::Timestamp;
use supervision::testkit::Given;
use types::{AppId, JsonBytes, TenantId, UserId};

use super::*;
use crate::ir::Filter;

fn scope() -> Scope {
    Scope { tenant: TenantId(7), user: UserId(8), app: AppId::new("shelf").unwrap() }
}

fn index(salt: u128) -> Index {
    let stage = Stage::Building(None);
    Index { number: 0, kind: "book".to_owned(), field: "tag".to_owned(), salt, stage }
}

fn row(data: &Value) -> Vec<u8> {
    let at = Timestamp(5);
    let data = JsonBytes::from(data);
    let document = StoredDocument { version: 1, created_at: at, updated_at: at, data };
    codec::encode(&document).unwrap()
}

fn plan(fields: &[&str]) -> PlanIndexes {
    let declared = fields.iter().map(|field| ("book".to_owned(), (*field).to_owned()));
    PlanIndexes { scope: scope(), declared: declared.collect() }
}

fn set_of(rows: &[RowDraft]) -> Option<Indexes> {
    let set = rows.iter().find(|row| row.family == INDEX_SET_FAMILY)?;
    Some(set.value.as_ref().map(|row| Indexes::decode(row)).unwrap_or_default())
}

#[test]
fn an_index_is_begun_grown_and_ready() {
    let then = Given::<ExtensionSession>::nothing().when(plan(&["tag", "tag"]));
    assert!(set_of(&then.rows).unwrap().is_building("book", "tag"));
    let (work, given) = then.reply();
    let IndexWork::Grow(index) = work else { panic!("{work:?}") };
    assert!(given.when(plan(&["tag"])).events.is_empty());

    let (_, given) = Given::<ExtensionSession>::nothing().when(plan(&["tag"])).reply();
    let given =
        given.row(DOCUMENT_FAMILY, &scope().document_key("book", 3), &row(&json!({"n": 1})));
    let given =
        given.row(DOCUMENT_FAMILY, &scope().document_key("book", 4), &row(&json!({"tag": "a"})));
    let grow = |index: &Index, is_last| GrowIndex {
        scope: scope(),
        index: index.clone(),
        ids: vec![3, 4],
        is_last,
    };
    let then = given.when(grow(&index, false));
    let entries: Vec<_> = then.rows.iter().filter(|row| row.family == INDEX_FAMILY).collect();
    let digest = index.digest(&json!("a")).unwrap();
    assert_eq!(entries.len(), 1, "a document without the field is not in it");
    assert!(entries[0].key.starts_with(&scope().value_prefix(0, digest)));
    assert!(!entries[0].key.windows(3).any(|part| part == b"\x03a"), "no value in a key");
    let (work, given) = then.reply();
    let IndexWork::Grow(further) = work else { panic!("{work:?}") };
    assert_eq!(further.stage, Stage::Building(Some(4)));
    let stale = given.when(grow(&index, true));
    assert!(stale.events.is_empty(), "what was read before it went further is not taken");
    let then = stale.then().when(grow(&further, true));
    assert!(set_of(&then.rows).unwrap().ready("book", "tag").is_some());
    assert_eq!(then.reply().0, IndexWork::Done);
}

#[test]
fn what_is_not_declared_any_more_is_swept_before_it_is_gone() {
    let given = Given::<ExtensionSession>::nothing().when(plan(&["tag"])).then();
    let (work, given) = given.when(plan(&["other"])).reply();
    assert_eq!(work, IndexWork::Sweep(0));
    let key = scope().entry_key(&IndexEntry { number: 0, digest: 1, id: 2 });
    let sweep = SweepIndex { scope: scope(), number: 0 };
    let then = given.row(INDEX_FAMILY, &key, &[]).when(sweep.clone());
    assert!(then.rows.iter().any(|row| row.key == key && row.value.is_none()));
    let (work, given) = then.reply();
    let IndexWork::Grow(index) = work else { panic!("{work:?}") };
    assert_eq!((index.number, index.field.as_str()), (1, "other"));
    assert!(given.when(sweep).events.is_empty());
    // The number of one that is gone is not given again.
    let (work, _) = Given::<ExtensionSession>::nothing()
        .when(plan(&["tag"]))
        .then()
        .when(plan(&[]))
        .then()
        .when(SweepIndex { scope: scope(), number: 0 })
        .then()
        .when(plan(&["tag"]))
        .reply();
    assert!(matches!(work, IndexWork::Grow(index) if index.number == 1));
}

#[test]
fn a_value_that_is_too_large_is_in_no_index() {
    let fits = "x".repeat(INDEXED_VALUE_BYTES_MAX - 5);
    assert!(index(1).digest(&json!(fits)).is_some());
    assert_eq!(index(1).digest(&json!(format!("{fits}x"))), None);
    assert_eq!(index(1).digest(&json!(vec![0; 500])), None);
    assert_ne!(index(1).digest(&json!(fits)), index(2).digest(&json!(fits)));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        (-3_i32..3).prop_map(|n| json!(f64::from(n))),
        Just(json!(0.5)),
        Just(json!(-0.0)),
        Just(json!(u64::MAX)),
        "[a1]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_a_where_takes_for_equal_has_one_digest(left in value(), right in value()) {
        let filter = Filter::parse(&json!({"tag": {"eq": left}})).unwrap();
        let data = json!({"tag": right});
        let is_equal = filter.matches(data.as_object().unwrap());
        let (left, right) = (index(9).digest(&left), index(9).digest(&right));
        prop_assert!(!is_equal || left == right);
        prop_assert!(left.is_some() && right.is_some());
    }
}
