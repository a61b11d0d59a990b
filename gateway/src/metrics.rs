//! The figures that `/metrics` shows, in Prometheus' text format: base units, no tenant labels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use activity::feed::Feed;
use axum::http::{Method, StatusCode};
use extensions::Outside;
use identity::mail::PostOffice;
use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use supervision::System;
use supervision::monitor::Histogram;

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
struct ReasonLabels {
    reason: String,
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

/// One route's counters: few, so that a scan is the fastest way to the right one.
type RouteCounters = Vec<(Method, StatusCode, Total)>;

/// The server's figures.
#[derive(Default)]
pub struct Metrics {
    requests: RwLock<HashMap<Box<str>, RouteCounters>>,
    took: Durations,
    answered: AtomicU64,
}

/// A histogram that is only atomics, as Prometheus wants it.
#[derive(Default, Debug)]
struct Durations(Arc<Histogram>);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (buckets, sum) = self.0.snapshot();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Metrics {
    /// Requests answered since the start.
    pub fn requests(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Counts one request that was answered.
    pub fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.took.0.record(took);
        let is_it = |it: &&(Method, StatusCode, Total)| it.0 == *method && it.1 == status;
        if let Some(counter) =
            self.requests.read().get(route).and_then(|counters| counters.iter().find(is_it))
        {
            counter.2.inc();
            return;
        }
        let counter = Total::default();
        counter.inc();
        let mut requests = self.requests.write();
        let counters = requests.entry(route.into()).or_default();
        match counters.iter().find(is_it) {
            Some(known) => drop(known.2.inc()),
            None => counters.push((method.clone(), status, counter)),
        }
    }

    fn by_route(&self) -> Family<RouteLabels, Total> {
        let family = Family::<RouteLabels, Total>::default();
        for (route, counters) in self.requests.read().iter() {
            for (method, status, counter) in counters {
                let (method, route) = (method.to_string(), route.to_string());
                let labels = RouteLabels { method, route, status: status.as_u16() };
                family.get_or_create(&labels).inc_by(counter.get());
            }
        }
        family
    }

    /// The text of `/metrics`.
    pub fn render(
        &self,
        system: &System,
        outside: Option<&Arc<Outside>>,
    ) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("bailiwick");
        registry.register("http_requests", "Requests answered", self.by_route());
        let (help, took) = ("How long requests took", Durations(self.took.0.clone()));
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, took);
        register_journal(&mut registry, system);
        register_kinds(&mut registry, system);
        register_mail(&mut registry, system);
        outside.inspect(|outside| register_outside(&mut registry, outside));
        register_feed(&mut registry, system);
        register_process(&mut registry);
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
    let mut now = |name: &str, help: &str, value: u64| {
        let figure = Figure::default();
        figure.set(i64::try_from(value).unwrap_or(i64::MAX));
        journal.register(name, help, figure);
    };
    now("queue_depth", "Works waiting for the writer", figures.queue_depth);
    now("free_bytes", "Room on the disk", figures.free_bytes);
    now("low_space", "Whether that is too little for new work", figures.low_space.into());
}

fn register_mail(registry: &mut Registry, system: &System) {
    let figures = system.port::<PostOffice>().figures();
    let mail = registry.sub_registry_with_prefix("mail");
    let mut total = |name: &str, help: &str, value: u64| {
        let counter = Total::default();
        counter.inc_by(value);
        mail.register(name, help, counter);
    };
    total("sent", "Mails that were taken", figures.sent);
    total("failures", "Attempts to send a mail that failed", figures.failed);
    total("given_up", "Mails that were given up", figures.given_up);
    let waiting = Figure::default();
    waiting.set(figures.waiting as i64);
    mail.register("waiting", "Mails that wait to be taken", waiting);
}

fn register_outside(registry: &mut Registry, outside: &Outside) {
    let (figures, [read, written]) = outside.figures();
    let hosts = registry.sub_registry_with_prefix("hosts");
    let total = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter = Total::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    total(hosts, "answered", "Calls that hosts of apps answered", figures.answered);
    total(hosts, "failures", "Calls that hosts of apps failed", figures.failed);
    total(hosts, "unknown", "Calls of hosts whose outcome is unknown", figures.unknown);
    total(hosts, "refused", "Calls that were not sent to hosts", figures.refused);
    let mut now = |name: &str, help: &str, value: usize| {
        let figure = Figure::default();
        figure.set(i64::try_from(value).unwrap_or(i64::MAX));
        hosts.register(name, help, figure);
    };
    now("under_way", "Calls that hosts are carrying out", figures.under_way);
    now("circuits_open", "Apps whose host is not called for now", figures.circuits_open);
    let model = registry.sub_registry_with_prefix("model");
    total(model, "tokens_read", "Tokens of prompts", read);
    total(model, "tokens_written", "Tokens of completions", written);
}

fn register_feed(registry: &mut Registry, system: &System) {
    let Some(feed) = system.find_port::<Feed>() else { return };
    let figures = feed.figures();
    let readers = Figure::default();
    readers.set(figures.readers as i64);
    registry.register("event_readers", "Readers of the event feed", readers);
    let dropped = Family::<ReasonLabels, Total>::default();
    for (reason, count) in figures.dropped {
        dropped.get_or_create(&ReasonLabels { reason: reason.to_owned() }).inc_by(count);
    }
    registry.register("event_readers_dropped", "Readers that the server has ended", dropped);
}

/// What Linux says of this process; elsewhere nothing is told.
fn register_process(registry: &mut Registry) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        let memory = Figure::default();
        memory.set(bytes);
        let help = "Memory of the process that is in use";
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, memory);
    }
}

/// The line `VmRSS:  1234 kB` of proc_pid_status(5).
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_read_from_what_the_system_says() {
        let status = "Name:\tbailiwick\nVmPeak:\t 10 kB\nVmRSS:\t  2048 kB\nThreads:\t3\n";
        assert_eq!(resident_bytes(status), Some(2_048 * 1_024));
        assert_eq!(resident_bytes("VmRSS: many"), None);
    }
}
