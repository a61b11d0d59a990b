//! A subscription, its wallet and a bank in one thread under one clock: what each asks of the
//! others is carried out a step at a time, so that a test can stop between any two.
//!
//! A step is one commit, or one answer of the bank. A kill forgets what is on its way and keeps
//! what is durable; what was pending is asked for again, as at a start.

use std::collections::{BTreeMap, VecDeque};

use persistence::codec;
use persistence::record::sha256;
use supervision::testkit::{Given, Then};
use supervision::{Command, Entity, Event, Handle, Refusal, RowDraft, Timestamp};
use types::TenantId;

use super::charges::{ChargeSettled, Due, What};
use super::collecting::News;
use super::orders::{Asked, Outcome};
use super::terms::{Choice, Period};
use super::{PlanCredits, Subscription, SubscriptionEffect, SubscriptionEvent};
use crate::charging::Charged;
use crate::wallet::{LEDGER_FAMILY, LedgerLine, Reason, Wallet, WalletEvent};

pub(super) const TENANT: TenantId = TenantId(7);
const HOUR_MS: i64 = 60 * 60 * 1_000;

pub(super) fn choice(plan: &str, period: Period) -> Choice {
    Choice { plan: plan.to_owned(), period }
}

/// How the bank answers what it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Pays,
    Declines,
    Asks,
    HasNoCard,
    IsAway,
}

/// A bank that remembers what it has answered, by the charge's id.
pub(super) struct Bank {
    pub(super) mood: Mood,
    pub(super) paid: BTreeMap<u128, (What, i64)>,
    declined: BTreeMap<u128, Charged>,
    /// What waits for the payer.
    pub(super) asked: BTreeMap<u128, (What, i64)>,
}

impl Bank {
    fn charge(&mut self, due: &Due) -> Option<Charged> {
        let entry = (due.what.clone(), due.amount_cents);
        let succeeded = Charged::Succeeded { payment: format!("pi_{}", due.id % 1_000) };
        if let Some(known) = self.paid.get(&due.id) {
            assert_eq!(*known, entry, "one id, two charges");
            return Some(succeeded);
        }
        if let Some(known) = self.declined.get(&due.id) {
            return Some(known.clone());
        }
        let mood = if self.asked.contains_key(&due.id) { Mood::Asks } else { self.mood };
        match mood {
            Mood::IsAway => return None,
            Mood::Pays => {
                self.paid.insert(due.id, entry);
                return Some(succeeded);
            }
            Mood::Asks => {
                self.asked.insert(due.id, entry);
                let (payment, client_secret) = (format!("pi_{}", due.id % 1_000), String::new());
                return Some(Charged::RequiresAction { payment, client_secret });
            }
            Mood::Declines => {
                let declined = Charged::Declined { code: "card_declined".to_owned() };
                self.declined.insert(due.id, declined);
            }
            Mood::HasNoCard => {
                self.declined.insert(due.id, Charged::NoMethod);
            }
        }
        self.declined.get(&due.id).cloned()
    }
}

/// The postings of every event sum to zero.
fn balance(events: &[WalletEvent]) {
    for event in events {
        assert_eq!(event.postings().iter().map(|posting| posting.amount).sum::<i64>(), 0);
    }
}

/// What is on its way.
enum Work {
    Effect(SubscriptionEffect),
    Settle(u128, Charged),
}

pub(super) struct World {
    subscription: Option<Given<Subscription>>,
    wallet: Option<Given<Wallet>>,
    pub(super) bank: Bank,
    queue: VecDeque<Work>,
    pub(super) now: Timestamp,
    /// Every event so far, with its time.
    pub(super) events: Vec<(Timestamp, SubscriptionEvent)>,
    pub(super) ledger: Vec<LedgerLine>,
    request: u128,
    digest: Vec<u8>,
}

impl World {
    pub(super) fn new() -> Self {
        let subscription = Given::<Subscription>::nothing();
        let now = subscription.now();
        let (paid, asked, declined) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            subscription: Some(subscription),
            wallet: Some(Given::nothing()),
            bank: Bank { mood: Mood::Pays, paid, declined, asked },
            queue: VecDeque::new(),
            now,
            events: Vec::new(),
            ledger: Vec::new(),
            request: 0,
            digest: Vec::new(),
        }
    }

    pub(super) fn state(&self) -> &Subscription {
        self.subscription.as_ref().unwrap().state()
    }

    pub(super) fn wallet(&self) -> &Wallet {
        self.wallet.as_ref().unwrap().state()
    }

    /// The plan that the wallet knows, and what may be spent.
    pub(super) fn shown(&self) -> (&'static str, i64) {
        (self.wallet().plan().id, self.wallet().balance(self.now).available)
    }

    /// A digest over every event and ledger line so far.
    pub(super) fn digest(&self) -> [u8; 32] {
        sha256(&[&self.digest])
    }

    fn note<E: Entity, R>(&mut self, then: &Then<E, R>) {
        for event in &then.events {
            self.digest.extend(event.name().as_bytes());
            self.digest.extend(event.encode().unwrap());
            self.digest.extend(self.now.0.to_be_bytes());
        }
    }

    fn take_effects(&mut self, then: &Then<Subscription, impl Sized>) {
        self.events.extend(then.events.iter().map(|event| (self.now, event.clone())));
        self.queue.extend(then.effects.iter().cloned().map(Work::Effect));
    }

    fn ask<C: Command>(&mut self, command: C) -> Result<<Subscription as Handle<C>>::Reply, Refusal>
    where
        Subscription: Handle<C>,
    {
        let given = self.subscription.take().unwrap().at(self.now);
        let then = given.when(command);
        self.note(&then);
        self.take_effects(&then);
        self.subscription = Some(then.given);
        then.outcome
    }

    fn ask_wallet<C: Command>(&mut self, command: C)
    where
        Wallet: Handle<C>,
    {
        let then = self.wallet.take().unwrap().at(self.now).when(command);
        self.note(&then);
        balance(&then.events);
        self.read_rows(&then.rows);
        assert!(then.outcome.is_ok(), "{:?}", then.outcome.err());
        self.wallet = Some(then.given);
    }

    fn read_rows(&mut self, rows: &[RowDraft]) {
        for row in rows.iter().filter(|row| row.family == LEDGER_FAMILY) {
            let bytes = row.value.as_ref().unwrap();
            self.digest.extend(bytes);
            self.ledger.push(codec::decode(bytes).unwrap());
        }
    }

    /// An order; what it is answered with, once all that it begins is done.
    pub(super) fn order<C: Command>(&mut self, command: C) -> Result<Asked, Refusal>
    where
        Subscription: Handle<C, Reply = Asked>,
    {
        let asked = self.begin(command);
        self.run();
        asked
    }

    /// An order whose charge is on its way, as far as the first commit.
    pub(super) fn begin<C: Command>(&mut self, command: C) -> Result<Asked, Refusal>
    where
        Subscription: Handle<C, Reply = Asked>,
    {
        let asked = self.ask(command)?;
        if let Outcome::Charge(due) = &asked.outcome {
            self.queue.push_back(Work::Effect(SubscriptionEffect::Collect(due.clone())));
        }
        Ok(asked)
    }

    /// A command that begins nothing.
    pub(super) fn tell<C: Command>(
        &mut self,
        command: C,
    ) -> Result<<Subscription as Handle<C>>::Reply, Refusal>
    where
        Subscription: Handle<C>,
    {
        let reply = self.ask(command);
        self.run();
        reply
    }

    /// A request's number, another each time.
    pub(super) fn request(&mut self) -> u128 {
        self.request += 1;
        self.request
    }

    /// One thing that is on its way; whether there was one.
    pub(super) fn step(&mut self) -> bool {
        match self.queue.pop_front() {
            None => return false,
            Some(Work::Effect(SubscriptionEffect::Collect(due))) => {
                if let Some(outcome) = self.bank.charge(&due) {
                    self.queue.push_front(Work::Settle(due.id, outcome));
                }
            }
            Some(Work::Effect(SubscriptionEffect::Tell(news))) => self.tell_wallet(&news),
            Some(Work::Settle(charge, outcome)) => {
                self.ask(ChargeSettled { charge, outcome }).unwrap();
            }
        }
        true
    }

    fn tell_wallet(&mut self, news: &News) {
        for grant in news.grants().filter_map(|(_, grant)| grant) {
            if grant.expires_at.is_some_and(|at| at > self.now) {
                self.ask_wallet(grant);
            }
        }
        self.ask_wallet(news.note());
        self.ask(news.told()).unwrap();
    }

    pub(super) fn run(&mut self) {
        while self.step() {}
    }

    /// The process ends and starts again.
    pub(super) fn kill(&mut self) {
        self.queue.clear();
        let again = self.state().resume();
        self.queue.extend(again.into_iter().map(Work::Effect));
    }

    /// Time passes, in steps at which everything that is due is done.
    pub(super) fn pass_hours(&mut self, hours: i64) {
        let until = self.now.plus_ms(hours * HOUR_MS);
        while self.now < until {
            let wallet = self.wallet().next_deadline();
            let deadlines = [self.state().next_deadline(), wallet, Some(until)];
            let next = deadlines.into_iter().flatten().min().unwrap_or(until);
            self.now = next.max(self.now.plus_ms(1)).min(until);
            self.wake();
        }
    }

    /// The subscription's reminder fires; what it begins is on its way.
    pub(super) fn remind(&mut self) {
        let then = self.subscription.take().unwrap().at(self.now).when_due();
        self.note(&then);
        self.take_effects(&then);
        self.subscription = Some(then.given);
        let next = self.state().next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "what is due is left undone");
    }

    /// Reminders fire, and all that they begin is done.
    pub(super) fn wake(&mut self) {
        self.remind();
        let then = self.wallet.take().unwrap().at(self.now).when_due();
        self.note(&then);
        balance(&then.events);
        self.read_rows(&then.rows);
        self.wallet = Some(then.given);
        self.run();
    }

    /// The payer acts on all that the bank asks for: it is paid, or refused.
    pub(super) fn decide(&mut self, pays: bool) {
        for (id, entry) in std::mem::take(&mut self.bank.asked) {
            let outcome = match pays {
                true => {
                    self.bank.paid.insert(id, entry);
                    Charged::Succeeded { payment: format!("pi_{}", id % 1_000) }
                }
                false => {
                    let declined = Charged::Declined { code: "card_declined".to_owned() };
                    self.bank.declined.insert(id, declined.clone());
                    declined
                }
            };
            // Told twice, as a provider may.
            self.queue.push_back(Work::Settle(id, outcome.clone()));
            self.queue.push_back(Work::Settle(id, outcome));
        }
        self.run();
    }

    /// The credits that the plan has brought, by the subscription's own events.
    pub(super) fn credits(&self) -> impl Iterator<Item = &PlanCredits> {
        self.events.iter().filter_map(|(_, event)| match event {
            SubscriptionEvent::PlanCredits(credits) => Some(credits),
            _ => None,
        })
    }

    /// What was paid, in cents, by the subscription's own events.
    pub(super) fn cents_paid(&self) -> i64 {
        let paid = self.events.iter().map(|(_, event)| match event {
            SubscriptionEvent::ChargePaid(it) => it.amount_cents,
            _ => 0,
        });
        paid.sum()
    }

    /// What the plan's credits come to in the wallet's ledger.
    pub(super) fn credits_granted(&self) -> i64 {
        let lines = self.ledger.iter().filter(|line| line.reason == Reason::PlanCredit);
        lines.map(|line| line.amount).sum()
    }

    /// The names of the events since the `n`-th, in order.
    pub(super) fn names(&self, n: usize) -> Vec<&'static str> {
        self.events[n..].iter().map(|(_, event)| event.name()).collect()
    }
}
