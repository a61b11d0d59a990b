//! What all answers of a batch may weigh together, each being within its own limit.

use super::*;
use crate::execute::ANSWERS_BYTES_MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_too_large_together_fail_alone_and_cost_nothing() {
    let world = world().await;
    world.fill(10_000).await;
    // Seven documents of nearly a mebibyte: a list of them is within what one call answers.
    const TITLE_BYTES: usize = 1_000_000;
    const BOOKS: usize = 7;
    for letter in ["a", "b", "c", "d", "e", "f", "g"] {
        let added = world.call("add_book", json!({"title": letter.repeat(TITLE_BYTES)})).await;
        assert!(added.unwrap().is_success());
    }
    let fit = ANSWERS_BYTES_MAX / (BOOKS * TITLE_BYTES);
    let before = world.settled().await;
    let mut calls = vec![call("books", json!({})); fit + 2];
    calls.push(call("add_book", json!({"title": "small"})));
    let answers = world.extensions.batch(&world.system, world.request(), calls).await.unwrap();
    let failed: Vec<_> = (0..answers.len()).filter(|&n| !answers[n].is_success()).collect();
    assert_eq!(failed, [fit, fit + 1], "a small one fits in behind them");
    for n in failed {
        assert_eq!(answers[n].error_code.as_deref(), Some("size_exceeded"));
        assert!(answers[n].data.is_null(), "nothing of it is sent");
    }
    assert_eq!(world.settled().await, before - fit as i64 - BOOK);
    world.system.stop().await;
}
