//! A developer's statement over a history that nobody has planned: every line adds up, to the line
//! before it, to the calls behind it, to the books of who paid.

use journeys::{Api, Server, User, text};
use market::Bookkeeper;
use serde_json::{Value, json};

/// How many things happen.
const STEPS: usize = 60;
/// What the history is made of, unless `STATEMENT_SEED` says otherwise.
const SEED: u64 = 20_261_122;

/// Numbers that look random: xorshift64*, as Vigna has published it in 2014.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

struct Shop<'a> {
    server: &'a Server,
    operator: User,
    ada: User,
    buyers: Vec<User>,
    dice: Dice,
    payouts: Vec<Value>,
}

impl Shop<'_> {
    fn api(&self) -> &Api {
        &self.server.api
    }

    /// A batch of some calls, of which some fail; a wallet may be too empty for it.
    async fn buy(&mut self) {
        let buyer = self.buyers[self.dice.below(self.buyers.len())].clone();
        let app = ["shelf", "rack"][self.dice.below(2)];
        let names = ["add_book", "books", "no_such_function"];
        let calls: Vec<Value> = (0..=self.dice.below(6))
            .map(|_| json!({"function": names[self.dice.below(3)], "params": {"title": "Emma"}}))
            .collect();
        let path = format!("/v1/extensions/{app}/batch");
        let calls = json!({"calls": calls});
        let answer = self.api().post(&path, &calls).as_user(&buyer).send().await;
        assert!([200, 402].contains(&answer.status), "{}", answer.text());
    }

    async fn fill(&mut self) {
        let buyer = self.buyers[self.dice.below(self.buyers.len())].clone();
        let credits = 1 + self.dice.below(60) as i64;
        self.api().grant(&self.operator, &buyer.id, credits).await;
    }

    async fn ask_for_payout(&mut self) {
        let amount = 1 + self.dice.below(25);
        let body = json!({"amount": amount});
        let answer = self.api().post("/v1/developer/payouts", &body).as_user(&self.ada);
        let answer = answer.send().await;
        match answer.status {
            200 => self.payouts.push(answer.ok(200)["id"].clone()),
            _ => drop(answer.problem(409, "insufficient_earnings")),
        }
    }

    /// Approves, rejects or pays one of the payouts, in an order that may not be allowed.
    async fn decide(&mut self) {
        if self.payouts.is_empty() {
            return;
        }
        let id = self.payouts[self.dice.below(self.payouts.len())].clone();
        let act = ["approve", "reject", "paid"][self.dice.below(3)];
        let path = format!("/v1/admin/payouts/{id}/{act}");
        let answer = self.api().post(&path, &json!({})).service().send().await;
        assert!([200, 409].contains(&answer.status), "{}", answer.text());
    }

    /// Everything that was settled is credited.
    async fn book(&self) {
        for buyer in &self.buyers {
            self.api().settled_balance(buyer).await;
        }
        let system = &self.server.running.app.system;
        let books = system.port::<Bookkeeper>();
        system.settle().await;
        while books.run(system).await {}
        system.settle().await;
    }

    /// The whole statement, page by page, the newest line first.
    async fn lines(&self) -> Vec<Value> {
        let (mut lines, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/developer/statement?limit=7{cursor}");
            let page = self.api().get(&path).as_user(&self.ada).send().await.ok(200);
            lines.extend(page["lines"].as_array().unwrap().clone());
            match &page["next_cursor"] {
                Value::Null => return lines,
                next => cursor = format!("&cursor={}", text(next)),
            }
        }
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn sum(list: &Value, name: &str) -> i64 {
    list.as_array().unwrap().iter().map(|it| number(&it[name])).sum()
}

/// Each line adds up to the one before it.
fn lines_add_up(lines: &[Value]) {
    let (mut available, mut pending, mut paid) = (0, 0, 0);
    for (place, line) in lines.iter().rev().enumerate() {
        assert_eq!(number(&line["number"]), place as i64 + 1, "{line}");
        let moved = line["payout_amount"].as_i64().unwrap_or(0);
        match text(&line["kind"]).as_str() {
            "sales" => assert_eq!(sum(&line["sales"], "earnings"), number(&line["amount"])),
            "payout_pending" => pending += moved,
            "payout_rejected" => pending -= moved,
            "payout_paid" => (pending, paid) = (pending - moved, paid + moved),
            kind => assert_eq!(kind, "payout_approved"),
        }
        for sale in line["sales"].as_array().unwrap() {
            let shares = number(&sale["platform_share"]) + number(&sale["earnings"]);
            assert_eq!(shares, number(&sale["credits"]), "{sale}");
        }
        available += number(&line["amount"]);
        let after =
            ["available_after", "pending_payout_after", "paid_out_after"].map(|it| &line[it]);
        assert_eq!(after.map(number), [available, pending, paid], "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_adds_up_whatever_has_happened() {
    let seed = std::env::var("STATEMENT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(SEED);
    println!("STATEMENT_SEED={seed}");
    let server = Server::start_with(|settings| settings.payout_minimum = 1).await;
    let api = &server.api;
    let (operator, ada) = (api.operator().await, api.user("ada").await);
    api.shelf(&ada, "shelf").await;
    api.deploy(&ada, "rack", &journeys::shelf_document("rack")).await;
    api.grant(&operator, &ada.id, 9_000).await;
    let tier = api.request(hyper::Method::PUT, "/v1/developer/tier");
    tier.json(r#"{"tier": "indie"}"#).as_user(&ada).send().await.ok(200);
    for app in ["shelf", "rack"] {
        let path = format!("/v1/admin/apps/{app}/approve");
        api.post(&path, &json!({})).service().send().await.ok(200);
    }
    let mut buyers = Vec::new();
    for name in ["bob", "cy"] {
        let buyer = api.user(name).await;
        // What is welcome pays no developer: most of it goes first.
        let spend = json!({"amount": 490, "reason": "the welcome credits"});
        api.post("/v1/billing/debits", &spend).as_user(&buyer).send().await.ok(201);
        api.grant(&operator, &buyer.id, 100).await;
        buyers.push(buyer);
    }
    let (dice, payouts) = (Dice(seed | 1), Vec::new());
    let mut shop = Shop { server: &server, operator, ada, buyers, dice, payouts };
    for _ in 0..STEPS {
        match shop.dice.below(10) {
            0..=4 => shop.buy().await,
            5 => shop.fill().await,
            6 => shop.ask_for_payout().await,
            7 => shop.book().await,
            _ => shop.decide().await,
        }
    }
    shop.book().await;
    let lines = shop.lines().await;
    lines_add_up(&lines);
    all_adds_up(&shop, &lines).await;
    server.stop().await;
}

/// The lines add up to the calls behind them, to what was earned, and to what was paid.
async fn all_adds_up(shop: &Shop<'_>, lines: &[Value]) {
    let api = shop.api();
    let (mut credits, mut traces) = (0, Vec::new());
    for line in lines {
        let path = format!("/v1/developer/statement/{}/calls", line["number"]);
        let behind = api.get(&path).as_user(&shop.ada).send().await.ok(200);
        assert_eq!(behind["truncated"], false);
        let calls = &behind["calls"];
        if line["kind"] == "sales" {
            assert_eq!(sum(calls, "earnings"), number(&line["amount"]), "{line} {behind}");
            assert_eq!(sum(calls, "credits"), sum(&line["sales"], "credits"), "{line} {behind}");
        }
        credits += sum(calls, "credits");
        traces.extend(calls.as_array().unwrap().iter().map(|call| text(&call["trace_id"])));
    }
    assert!(credits > 0, "something was sold");
    let mut paid = 0;
    for buyer in &shop.buyers {
        let ledger = api.ledger(buyer).await;
        let of_apps = ledger.iter().filter(|line| !line["app_id"].is_null());
        paid -= of_apps.map(|line| number(&line["amount"])).sum::<i64>();
        let path = "/v1/actions?per_page=200";
        let actions = api.get(path).as_user(buyer).send().await.ok(200);
        let known = actions["items"].as_array().unwrap().iter();
        let known: Vec<String> = known.map(|it| text(&it["trace_id"])).collect();
        traces.retain(|trace| !known.iter().any(|it| it.starts_with(trace.as_str())));
    }
    assert_eq!(credits, paid, "what the buyers paid");
    assert!(traces.is_empty(), "in nobody's records: {traces:?}");
    let all = api.get("/v1/developer/earnings").as_user(&shop.ada).send().await.ok(200);
    let newest = &lines[0];
    for (name, after) in [
        ("available", "available_after"),
        ("pending_payout", "pending_payout_after"),
        ("paid_out", "paid_out_after"),
    ] {
        assert_eq!(all[name], newest[after], "{name}");
    }
    let parts = ["available", "pending_payout", "paid_out"].map(|name| number(&all[name]));
    assert_eq!(number(&all["total_earned"]), parts.iter().sum::<i64>());
    let platform = number(&all["total_platform_share"]);
    assert_eq!(platform + number(&all["total_earned"]), credits);
    let nobody = api.get("/v1/developer/statement").as_user(&shop.buyers[0]).send().await;
    nobody.problem(403, "not_a_developer");
    let wrong = api.get("/v1/developer/statement?cursor=abc").as_user(&shop.ada).send().await;
    wrong.problem(422, "validation_error");
    let none = api.get("/v1/developer/statement/9999/calls").as_user(&shop.ada).send().await;
    none.problem(404, "not_found");
}
