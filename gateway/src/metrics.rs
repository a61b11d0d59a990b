//! The figures that `/metrics` shows, in Prometheus' text format: base units, no tenant labels.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use supervision::System;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    kind: String,
    command: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Accepted,
    Refused,
}

type Figure = Gauge<i64, AtomicI64>;
type Total = Counter<u64, AtomicU64>;

/// The server's figures.
pub struct Metrics {
    requests: Family<RouteLabels, Total>,
    seconds: Histogram,
    answered: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        Self { requests: Family::default(), seconds, answered: AtomicU64::new(0) }
    }
}

impl Metrics {
    /// Requests answered since the start.
    pub fn requests(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Counts one request that was answered.
    pub fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let (method, route) = (method.to_string(), route.to_owned());
        let labels = RouteLabels { method, route, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        self.seconds.observe(took.as_secs_f64());
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The text of `/metrics`.
    pub fn render(&self, system: &System) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("bailiwick");
        registry.register("http_requests", "Requests answered", self.requests.clone());
        let (text, unit) = ("How long requests took", Unit::Seconds);
        registry.register_with_unit("http_request_duration", text, unit, self.seconds.clone());
        register_journal(&mut registry, system);
        register_kinds(&mut registry, system);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn register_journal(registry: &mut Registry, system: &System) {
    let figures = system.journal().statistics();
    let journal = registry.sub_registry_with_prefix("journal");
    let mut total = |name: &str, help: &str, value: u64| {
        let counter = Total::default();
        counter.inc_by(value);
        journal.register(name, help, counter);
    };
    total("commits", "Engine commits", figures.commits);
    total("records", "Records written", figures.records);
    total("syncs", "Syncs that the commits cost", figures.syncs);
    total("written_bytes", "Bytes handed to the engine", figures.bytes);
    let depth = Figure::default();
    depth.set(figures.queue_depth as i64);
    journal.register("queue_depth", "Works waiting for the writer", depth);
}

fn register_kinds(registry: &mut Registry, system: &System) {
    let live = Family::<KindLabels, Figure>::default();
    let quarantined = Family::<KindLabels, Figure>::default();
    let crashes = Family::<KindLabels, Total>::default();
    let commands = Family::<CommandLabels, Total>::default();
    for kind in system.kinds() {
        let view = kind.kind_view();
        let labels = KindLabels { kind: view.kind.to_owned() };
        live.get_or_create(&labels).set(view.live as i64);
        quarantined.get_or_create(&labels).set(view.quarantined.len() as i64);
        crashes.get_or_create(&labels).inc_by(view.crashes);
        for command in view.commands {
            let outcomes =
                [(Outcome::Accepted, command.accepted), (Outcome::Refused, command.refused)];
            for (outcome, count) in outcomes {
                let (kind, command) = (view.kind.to_owned(), command.command.to_owned());
                commands.get_or_create(&CommandLabels { kind, command, outcome }).inc_by(count);
            }
        }
    }
    let actors = registry.sub_registry_with_prefix("actors");
    actors.register("live", "Actors in memory", live);
    actors.register("quarantined", "Entities in quarantine", quarantined);
    actors.register("crashes", "Turns that crashed", crashes);
    actors.register("commands", "Commands handled", commands);
}
