//! How an app does, for everybody: from what is known anyway. Nobody's question makes the server
//! ask the app's host, and nothing of tenants or calls is told.
//!
//! Deliberate limit: what is known of a host is since the start of the server, in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use control::app::Status;
use supervision::{Class, Origin, Refusal, System, Timestamp};
use types::AppId;

use crate::breaker::{Breaker, Circuit};
use crate::catalogue::CompiledApp;
use crate::ir::{Implementation, Render};
use crate::runtime::Extensions;

/// How an app does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// It runs inside the server, or its host answered last.
    Healthy,
    /// Its host failed last, or is being tried again.
    Degraded,
    /// Its host keeps failing, or it is stopped.
    Unavailable,
    /// Its host was not called since the server started.
    Unknown,
}

impl HealthStatus {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}

/// What is told of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How it does.
    pub status: HealthStatus,
    /// The current version.
    pub version: String,
    /// How the circuit to its host stands; `None` for an app that has none.
    pub circuit: Option<Circuit>,
    /// When its host last answered, to the second.
    pub last_success: Option<Timestamp>,
    /// When it last failed, to the second.
    pub last_failure: Option<Timestamp>,
}

impl Extensions {
    /// How an app does; 404 for one that is not there for everybody.
    pub async fn health(
        &self,
        system: &Arc<System>,
        app: &str,
        origin: &Origin,
    ) -> Result<Health, Refusal> {
        let missing = || Refusal::not_found("app");
        let id = AppId::new(app).map_err(|_| missing())?;
        let app = self.apps().find(system, &id, origin).await;
        let app = app.map_err(|it| if it.class == Class::NotFound { missing() } else { it })?;
        if app.status != Status::Active || app.ir.is_none() {
            return Err(missing());
        }
        let is_stopped = self.settings().frozen.check_app(&id).is_err();
        let known = self.outside().filter(|_| has_code(&app)).and_then(|it| it.hosts.known(&id));
        let told = |breaker: &Breaker| of_host(breaker, Instant::now(), system.clock().now());
        let mut health = match known {
            Some(bulkhead) => told(&bulkhead.breaker.lock()),
            None if has_code(&app) => {
                Health { status: HealthStatus::Unknown, circuit: Some(Circuit::Closed), ..inside() }
            }
            None => inside(),
        };
        if is_stopped {
            health.status = HealthStatus::Unavailable;
        }
        Ok(Health { version: app.version.clone(), ..health })
    }
}

fn inside() -> Health {
    Health {
        status: HealthStatus::Healthy,
        version: String::new(),
        circuit: None,
        last_success: None,
        last_failure: None,
    }
}

/// Whether something of it is carried out by a host of its own.
fn has_code(app: &CompiledApp) -> bool {
    let Some(ir) = &app.ir else { return false };
    let is_code = |it: &Implementation| matches!(it, Implementation::Code(_));
    ir.functions.iter().any(|function| is_code(&function.implementation))
        || ir.panels.iter().any(|panel| matches!(panel.render, Render::Code(_)))
}

fn of_host(breaker: &Breaker, now: Instant, present: Timestamp) -> Health {
    let circuit = breaker.circuit(now);
    let last = breaker.last();
    let status = match (circuit, last.success, last.failure) {
        (Circuit::Open, ..) => HealthStatus::Unavailable,
        (Circuit::HalfOpen, ..) => HealthStatus::Degraded,
        (Circuit::Closed, None, None) => HealthStatus::Unknown,
        (Circuit::Closed, success, failure) if success < failure => HealthStatus::Degraded,
        (Circuit::Closed, ..) => HealthStatus::Healthy,
    };
    let at = |seen: Instant| {
        let ago = now.saturating_duration_since(seen);
        let ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        let second = Duration::from_secs(1).as_millis() as i64;
        Timestamp(present.0.saturating_sub(ms).div_euclid(second) * second)
    };
    Health {
        status,
        circuit: Some(circuit),
        last_success: last.success.map(at),
        last_failure: last.failure.map(at),
        ..inside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{FAILURES_MAX, OPEN_FOR};

    #[test]
    fn a_host_is_told_by_how_its_requests_ended() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let told = |breaker: &Breaker, ms| {
            let now = start + Duration::from_millis(ms);
            of_host(breaker, now, Timestamp(60_000 + ms as i64))
        };
        assert_eq!(told(&breaker, 0).status, HealthStatus::Unknown);
        breaker.report(true, start);
        let health = told(&breaker, 1_500);
        assert_eq!(health.status, HealthStatus::Healthy);
        assert_eq!((health.last_success, health.last_failure), (Some(Timestamp(60_000)), None));
        breaker.report(false, start + Duration::from_secs(1));
        assert_eq!(told(&breaker, 1_000).status, HealthStatus::Degraded);
        for _ in 1..FAILURES_MAX {
            breaker.report(false, start + Duration::from_secs(1));
        }
        assert_eq!(told(&breaker, 1_000).status, HealthStatus::Unavailable);
        let later = 1_000 + OPEN_FOR.as_millis() as u64;
        assert_eq!(told(&breaker, later).status, HealthStatus::Degraded);
    }
}
