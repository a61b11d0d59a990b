//! The story: Ada writes an app and sells it, Bob finds it and pays for it, an operator keeps the
//! marketplace, and in the end everything adds up.
//!
//! Credits come into wallets in one place, [`Story::top_up`]. Names are new in every telling, so
//! that it can be told to the same server again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::app::{document, listing, wider_document};
use super::teller::{Asker, Step, Teller, get, post};
use super::{DemoError, OperatorLogin, PASSWORD};

/// What the developer's tier costs, in credits.
const TIER_CREDITS: i64 = 9_000;
/// What the buyer spends of, in credits.
const BUYER_CREDITS: i64 = 20_000;
/// How many reports are bought at once.
const REPORTS: usize = 6;
/// How long the outbox and the books are waited for: so often, with a pause between.
const LOOKS_MAX: u32 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// See the module's head.
pub(super) struct Story {
    teller: Teller,
    operator: Option<OperatorLogin>,
    /// Where mails are read, on the demo's own server.
    outbox: Option<PathBuf>,
    /// In every name.
    unique: String,
}

impl Story {
    pub(super) fn new(
        teller: Teller,
        operator: Option<OperatorLogin>,
        outbox: Option<PathBuf>,
    ) -> Self {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        Self { teller, operator, outbox, unique }
    }

    pub(super) async fn tell(mut self) -> Result<(), DemoError> {
        let app = format!("valuer-{}", self.unique);
        self.teller.chapter("A developer and an app");
        let ada = match self.outbox.clone() {
            Some(outbox) => self.sign_up_by_mail("Ada", &outbox).await?,
            None => self.sign_up("Ada").await?,
        };
        let operator = self.log_in_operator().await?;
        let tier = match &operator {
            None => "explorer",
            Some(operator) => {
                self.top_up(operator, &ada, TIER_CREDITS).await?;
                "indie"
            }
        };
        self.write(&ada, &app, tier).await?;
        let Some(operator) = operator else {
            self.teller.remark("Without an operator's password nobody reviews the app here.");
            self.call(&ada, &app).await?;
            return self.account_for_it(&ada, &app).await;
        };
        self.review(&operator, &ada, &app).await?;
        self.teller.chapter("Somebody else finds it and pays for it");
        let bob = self.sign_up("Bob").await?;
        self.find_and_install(&bob, &app).await?;
        self.top_up(&operator, &bob, BUYER_CREDITS).await?;
        self.call(&bob, &app).await?;
        self.buy(&bob, &app).await?;
        self.account_for_it(&bob, &app).await?;
        self.earn(&ada, &app).await?;
        self.pay_out(&operator, &ada).await?;
        self.widen(&ada, &bob, &app).await
    }

    fn email(&self, name: &str) -> String {
        format!("{}-{}@example.com", name.to_lowercase(), self.unique)
    }

    /// Through the account API: in at once, the address is verified later.
    async fn sign_up(&mut self, name: &'static str) -> Result<Asker, DemoError> {
        let email = self.email(name);
        let body = json!({"email": email, "password": PASSWORD, "full_name": name,
            "company": format!("{name}'s")});
        let what = format!("{name} signs up: a user, a tenant and a wallet");
        self.teller.step(None, post(&what, "/api/v1/auth/register", body).answered(201)).await?;
        self.log_in(name, &email, PASSWORD).await
    }

    async fn log_in(
        &mut self,
        name: &'static str,
        email: &str,
        password: &str,
    ) -> Result<Asker, DemoError> {
        let body = json!({"email": email, "password": password});
        let step = post(&format!("{name} logs in"), "/v1/auth/login", body);
        let tokens = self.teller.step(None, step).await?;
        asker(&self.teller, name, &tokens)
    }

    /// With a mail, whose link proves the address.
    async fn sign_up_by_mail(
        &mut self,
        name: &'static str,
        outbox: &Path,
    ) -> Result<Asker, DemoError> {
        let email = self.email(name);
        let body = json!({"email": email, "password": PASSWORD, "first_name": name});
        let step = post(&format!("{name} signs up by mail"), "/v1/auth/signup", body);
        self.teller.step(None, step.answered(201)).await?;
        let mut token = None;
        for _ in 0..LOOKS_MAX {
            token = token_in(outbox, &email)?;
            if token.is_some() {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.teller.remark("The mail lies in the server's outbox; its link holds a token.");
        let step = post("The link is opened", "/v1/auth/verify-email", json!({"token": token}));
        let tokens = self.teller.step(None, step).await?;
        asker(&self.teller, name, &tokens)
    }

    async fn log_in_operator(&mut self) -> Result<Option<Asker>, DemoError> {
        let Some(OperatorLogin { email, password }) = self.operator.take() else { return Ok(None) };
        self.log_in("Operator", &email, &password).await.map(Some)
    }

    /// Paid credits come into a wallet: here by the operator's grant.
    async fn top_up(
        &mut self,
        operator: &Asker,
        whose: &Asker,
        credits: i64,
    ) -> Result<(), DemoError> {
        let me = self.teller.silently(Some(whose), get("who am I", "/v1/auth/me")).await?;
        let tenant = me["tenant_id"].as_str().unwrap_or_default();
        let path = format!("/v1/operator/tenants/{tenant}/grants");
        let body = json!({"credits": credits, "kind": "paid", "reason": "the demo"});
        let step = post(&format!("{credits} paid credits for {}", whose.name), &path, body);
        self.teller.step(Some(operator), step.answered(201)).await?;
        Ok(())
    }

    async fn write(&mut self, ada: &Asker, app: &str, tier: &str) -> Result<(), DemoError> {
        let nickname = format!("demo{}", &self.unique[self.unique.len() - 12..]);
        let ask = &mut self.teller;
        let body = json!({"tier": tier, "nickname": nickname});
        ask.step(Some(ada), post("becomes a developer", "/v1/developer/register", body)).await?;
        ask.step(Some(ada), post("creates an app", "/v1/developer/apps", listing(app))).await?;
        let call = "/v1/extensions/developer/call";
        let ir = document(app);
        let body = json!({"function": "smoke_ir", "params": {"ir_dict": ir,
            "function": "value", "args": {"title": "Ficciones", "pages": 174}}});
        ask.step(Some(ada), post("tries a function before deploying", call, body)).await?;
        let params = json!({"app_id": app, "ir_dict": ir, "dev_mode": true});
        let body = json!({"function": "deploy_ir", "params": params});
        ask.step(Some(ada), post("deploys a draft of it", call, body)).await?;
        Ok(())
    }

    async fn review(&mut self, operator: &Asker, ada: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        ask.chapter("It is reviewed, and goes live");
        let submit = format!("/v1/developer/apps/{app}/submit");
        let submitted = ask.step(Some(ada), post("submits it", &submit, json!({}))).await?;
        ask.check("submits it", submitted["status"] == "pending_review", &submitted)?;
        let waiting = get("what waits for a review", "/v1/admin/apps/pending");
        ask.step(Some(operator), waiting).await?;
        let approve = format!("/v1/admin/apps/{app}/approve");
        ask.step(Some(operator), post("approves it", &approve, json!({}))).await?;
        Ok(())
    }

    async fn find_and_install(&mut self, bob: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        let search = format!("/v1/marketplace/apps?search=book%20valuer%20{}", self.unique);
        let found = ask.step(Some(bob), get("searches for it", &search)).await?;
        ask.check("searches for it", found["apps"][0]["app_id"] == app, &found)?;
        let details = format!("/v1/marketplace/apps/{app}");
        ask.step(Some(bob), get("sees what it does and asks for", &details)).await?;
        let install = format!("{details}/install");
        let step = post("installs it, and agrees to what it asks for", &install, json!({}));
        ask.step(Some(bob), step).await?;
        Ok(())
    }

    async fn call(&mut self, who: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        let path = format!("/v1/extensions/{app}/call");
        let call = || json!({"function": "reports", "params": {}});
        let step = post("calls it", &path, call()).key("demo-1");
        let first = ask.step(Some(who), step).await?;
        let what = "the same key again: the same answer, paid once";
        let again = ask.step(Some(who), post(what, &path, call()).key("demo-1")).await?;
        ask.check(what, first == again, &again)
    }

    async fn buy(&mut self, bob: &Asker, app: &str) -> Result<(), DemoError> {
        let report = |number: usize| {
            let params = json!({"title": format!("Volume {number}"), "pages": 100 + number});
            json!({"function": "value", "params": params})
        };
        let mut calls: Vec<Value> = (1..=REPORTS).map(report).collect();
        calls.push(json!({"function": "no_such_function"}));
        let path = format!("/v1/extensions/{app}/batch");
        let what = format!("buys {REPORTS} reports at once, and asks for what is not there");
        self.teller.step(Some(bob), post(&what, &path, json!({"calls": calls}))).await?;
        Ok(())
    }

    async fn account_for_it(&mut self, who: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        ask.step(Some(who), get("what is left", "/v1/billing/balance")).await?;
        ask.step(Some(who), get("the ledger", "/v1/billing/wallet/history?limit=3")).await?;
        let path = format!("/v1/actions?per_page=3&app_id={app}");
        ask.step(Some(who), get("what was done", &path)).await?;
        let body = json!({"amount": 1_000_000, "reason": "more than there is"});
        let step = post("spends too much", "/v1/billing/debits", body).answered(402);
        ask.step(Some(who), step).await?;
        let verified = ask.step(Some(who), get("verifies the chain", "/v1/actions/verify")).await?;
        ask.check("verifies the chain", verified["verified"] == true, &verified)
    }

    async fn earn(&mut self, ada: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        ask.chapter("The developer is paid");
        for _ in 0..LOOKS_MAX {
            let earned = get("earnings", "/v1/developer/earnings");
            let earned = ask.silently(Some(ada), earned).await?;
            if earned["total_earned"].as_i64() > Some(0) {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        let path = format!("/v1/developer/earnings/{app}");
        ask.step(Some(ada), get("what the app has earned, by day", &path)).await?;
        let statement = get("the statement", "/v1/developer/statement");
        let statement = ask.step(Some(ada), statement).await?;
        let lines = statement["lines"].as_array();
        let sold = lines.into_iter().flatten().find(|line| line["amount"].as_i64() > Some(0));
        let number = sold.map(|line| line["number"].clone()).unwrap_or_default();
        let path = format!("/v1/developer/statement/{number}/calls");
        let traced = ask.step(Some(ada), get("the calls behind a line of it", &path)).await?;
        let calls = traced["calls"].as_array().into_iter().flatten();
        let earned: i64 = calls.filter_map(|call| call["earnings"].as_i64()).sum();
        let amount = sold.map(|line| line["amount"].clone()).unwrap_or_default();
        ask.check("the calls add up to the line", json!(earned) == amount, &traced)
    }

    async fn pay_out(&mut self, operator: &Asker, ada: &Asker) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        let rules = get("the rules", "/v1/admin/developer/config");
        let rules = ask.silently(Some(operator), rules).await?;
        let body = json!({"amount_tokens": rules["payout_minimum"]});
        let step = post("asks for a payout", "/v1/developer/payouts", body);
        let payout = ask.step(Some(ada), step).await?;
        let waiting = get("what waits to be paid", "/v1/admin/payouts/pending");
        ask.step(Some(operator), waiting).await?;
        for (what, act) in [("approves it", "approve"), ("pays, and notes it", "paid")] {
            let path = format!("/v1/admin/payouts/{}/{act}", payout["id"]);
            let step = post(what, &path, json!({"note": "thank you"}));
            ask.step(Some(operator), step).await?;
        }
        let path = "/v1/developer/statement";
        let statement = ask.step(Some(ada), get("the statement again", path)).await?;
        ask.check("the statement adds up", adds_up(&statement), &statement)
    }

    async fn widen(&mut self, ada: &Asker, bob: &Asker, app: &str) -> Result<(), DemoError> {
        let ask = &mut self.teller;
        ask.chapter("A version that wants more asks again");
        let params = json!({"app_id": app, "ir_dict": wider_document(app)});
        let body = json!({"function": "deploy_ir", "params": params});
        let step = post("deploys 1.1.0, which takes away", "/v1/extensions/developer/call", body);
        ask.step(Some(ada), step).await?;
        let path = format!("/v1/extensions/{app}/call");
        let call = |what: &str| -> Step {
            post(what, &path, json!({"function": "reports", "params": {}}))
        };
        let refused = ask.step(Some(bob), call("calls it").answered(409)).await?;
        let install = format!("/v1/marketplace/apps/{app}/install");
        let body = json!({"terms": refused["terms"]});
        ask.step(Some(bob), post("agrees to just that", &install, body)).await?;
        ask.step(Some(bob), call("calls it again")).await?;
        Ok(())
    }
}

fn asker(teller: &Teller, name: &'static str, tokens: &Value) -> Result<Asker, DemoError> {
    let token = tokens["access_token"].as_str().unwrap_or_default().to_owned();
    teller.check("a token", !token.is_empty(), &json!({}))?;
    Ok(Asker { name, token })
}

/// Each line's balance is its amount more than that of the line before it.
fn adds_up(statement: &Value) -> bool {
    let mut balance = 0;
    let lines: Vec<&Value> = statement["lines"].as_array().into_iter().flatten().collect();
    lines.iter().rev().all(|line| {
        balance += line["amount"].as_i64().unwrap_or(i64::MIN / 2);
        line["available_after"].as_i64() == Some(balance)
    })
}

/// The token in the link of a mail to somebody, once the mail is there.
fn token_in(outbox: &Path, email: &str) -> Result<Option<String>, std::io::Error> {
    let Ok(entries) = std::fs::read_dir(outbox) else { return Ok(None) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|it| it != "eml") {
            continue;
        }
        let mail = std::fs::read_to_string(path)?;
        let mut lines = mail.lines();
        if lines.any(|line| line == format!("To: {email}")) {
            let links = mail.lines().filter(|line| line.starts_with("http"));
            let mut tokens = links.filter_map(|line| line.split_once("?token="));
            return Ok(tokens.next().map(|(_, token)| token.trim().to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_adds_up_from_its_oldest_line() {
        let line = |amount, after| json!({"amount": amount, "available_after": after});
        assert!(adds_up(&json!({"lines": [line(-3, 4), line(0, 7), line(7, 7)]})));
        assert!(!adds_up(&json!({"lines": [line(-3, 5), line(7, 7)]})));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_told_to_its_end() {
        let args =
            super::super::DemoArgs { url: None, operator_email: None, operator_password: None };
        super::super::run(args).await.unwrap();
    }
}
