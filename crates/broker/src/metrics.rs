//! The broker's figures. No label carries a user, a desktop or a session.

use std::time::Duration;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{HandleError, machine::Verdict};

/// Prefix of every name here.
const PREFIX: &str = "portcullis_broker";
/// Bounds of the histogram, in seconds: from one cheap hash to the end of the line's patience.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0, 40.0];

type Labels = [(&'static str, String); 2];
type Reason = [(&'static str, &'static str); 1];

/// The figures. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    answers: Family<Labels, Counter>,
    refusals: Family<Reason, Counter>,
    pub(crate) sessions: Gauge,
    checks: Histogram,
    unchecked: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            answers: Family::default(),
            refusals: Family::default(),
            sessions: Gauge::default(),
            checks: Histogram::new(BUCKETS),
            unchecked: Counter::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        registry.register(
            "answers",
            "Messages answered, by message and result",
            self.answers.clone(),
        );
        registry.register(
            "refusals",
            "Messages not answered, by reason",
            self.refusals.clone(),
        );
        registry.register(
            "sessions",
            "Broker sessions, idle ones included until they are noticed",
            self.sessions.clone(),
        );
        registry.register_with_unit(
            "password_check",
            "Time of password checks, waiting in line included",
            Unit::Seconds,
            self.checks.clone(),
        );
        registry.register(
            "password_checks_refused",
            "Logons refused because the line was too long",
            self.unchecked.clone(),
        );
    }

    pub(crate) fn answered(&self, message: &str, result: &str) {
        let labels = [
            ("message", message.to_owned()),
            ("result", result.to_owned()),
        ];
        self.answers.get_or_create(&labels).inc();
    }

    pub(crate) fn refused(&self, error: &HandleError) {
        let reason = match error {
            HandleError::NoSession { .. } => "no_session",
            HandleError::OutOfOrder { .. } => "out_of_order",
            HandleError::UnknownMessage { .. } => "unknown_message",
            HandleError::TooManySessions => "too_many_sessions",
            HandleError::Random(_) => "random",
        };
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn checked(&self, took: Duration, verdict: Verdict) {
        self.checks.observe(took.as_secs_f64());
        if verdict == Verdict::NotChecked {
            self.unchecked.inc();
        }
    }
}
