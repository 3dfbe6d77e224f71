//! What the Connection Manager counts. No label ever names a user, a session or an address.

use std::time::Duration;

use portcullis_protocol::broker::{AllocResultId, ListResultId, Response};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::session::Reject;

/// The Connection Manager's figures. Clones count into the same figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    allocations: Family<AllocationLabels, Counter>,
    rejects: Family<RejectLabels, Counter>,
    pub(crate) sessions: Gauge,
    pub(crate) broker: Histogram,
    pub(crate) agent: Histogram,
    pub(crate) gateway: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    message: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AllocationLabels {
    result: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabels {
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to about 33 s: from an in-process broker to an agent that times out.
        let durations = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        Self {
            requests: Family::default(),
            allocations: Family::default(),
            rejects: Family::default(),
            sessions: Gauge::default(),
            broker: durations(),
            agent: durations(),
            gateway: durations(),
        }
    }
}

impl Metrics {
    /// Has `registry` show the figures, under names that begin with `portcullis_manager_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("portcullis_manager");
        registry.register(
            "requests",
            "Requests of clients by message and outcome",
            self.requests.clone(),
        );
        registry.register(
            "allocations",
            "Answered allocations by result id",
            self.allocations.clone(),
        );
        registry.register(
            "rejects",
            "Requests without a message of the protocol in answer, by reason",
            self.rejects.clone(),
        );
        registry.register("sessions", "Sessions at this moment", self.sessions.clone());
        for (name, help, histogram) in [
            ("broker", "Time the broker took to answer", &self.broker),
            ("agent", "Time agents took to launch a session", &self.agent),
            (
                "gateway",
                "Time the gateway took to admit a client",
                &self.gateway,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }

    /// Counts a request that was answered with a message of the protocol.
    pub(crate) fn answered(&self, message: &'static str, response: &Response) {
        let outcome = if succeeded(response) { "ok" } else { "failed" };
        self.count(message, outcome);
        if let Response::AllocateResource(answer) = response {
            let result = allocation_label(&answer.result.id);
            self.allocations
                .get_or_create(&AllocationLabels { result })
                .inc();
        }
    }

    /// Counts a request that was not.
    pub(crate) fn rejected(&self, message: &'static str, reason: &'static str) {
        self.count(message, "rejected");
        self.rejects.get_or_create(&RejectLabels { reason }).inc();
    }

    fn count(&self, message: &'static str, outcome: &'static str) {
        let labels = RequestLabels { message, outcome };
        self.requests.get_or_create(&labels).inc();
    }
}

/// Notes how long something took.
pub(crate) fn observe(histogram: &Histogram, took: Duration) {
    histogram.observe(took.as_secs_f64());
}

/// The label of a rejection.
pub(crate) const fn reject_label(reject: Reject) -> &'static str {
    match reject {
        Reject::NoSession => "no_session",
        Reject::OutOfOrder => "out_of_order",
        Reject::UnknownMessage => "unknown_message",
        Reject::Loop => "loop",
        Reject::BrokerUnavailable => "broker_unavailable",
        Reject::TooManySessions => "too_many_sessions",
        Reject::Internal => "internal",
    }
}

fn succeeded(response: &Response) -> bool {
    match response {
        Response::Hello(_) | Response::Bye(_) | Response::Unknown(_) => true,
        Response::Authenticate(answer) => answer.result.id.is_success(),
        Response::GetResourceList(answer) => answer.result.id == ListResultId::Successful,
        Response::AllocateResource(answer) => answer.result.id == AllocResultId::Successful,
    }
}

/// Documented ids only: what brokers make up would let them open a series each.
fn allocation_label(id: &AllocResultId) -> String {
    let undocumented = matches!(id, AllocResultId::Other(_));
    if undocumented { "other" } else { id.as_str() }.into()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn names_and_labels_are_as_documented() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.rejected("hello", reject_label(Reject::Loop));
        metrics.answered("bye", &Response::Bye(Default::default()));
        metrics.sessions.set(3);
        observe(&metrics.agent, Duration::from_millis(30));
        let mut text = String::new();
        encode(&mut text, &registry).expect("text can be written");
        for line in [
            "portcullis_manager_requests_total{message=\"hello\",outcome=\"rejected\"} 1",
            "portcullis_manager_requests_total{message=\"bye\",outcome=\"ok\"} 1",
            "portcullis_manager_rejects_total{reason=\"loop\"} 1",
            "portcullis_manager_sessions 3",
            "portcullis_manager_agent_seconds_count 1",
            "portcullis_manager_broker_seconds_count 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
