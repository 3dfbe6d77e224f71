//! The gateway's counters for Prometheus. They say what the node does, never who does it.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    core::{Counters, Reason, Tally},
    relay::Shared,
};

/// What every name begins with.
const PREFIX: &str = "portcullis_gateway_";

/// The metrics of one gateway, read when they are asked for.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
}

impl Metrics {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// What the core counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.with(|core, _| core.counters().clone())
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (sessions, pending, draining, counters, sequences) = self.shared.with(|core, _| {
            (
                core.session_count(),
                core.pending_count(),
                core.is_draining(),
                core.counters().clone(),
                core.sequence_totals(),
            )
        });
        let early = self.shared.early_closes();
        let mut out = Output(encoder);
        out.gauge("sessions", "Sessions now", sessions)?;
        out.gauge("grants_pending", "Grants waiting for their client", pending)?;
        out.gauge(
            "draining",
            "Whether new grants are refused",
            usize::from(draining),
        )?;
        out.counter("grants", "Grants given", counters.granted)?;
        out.counter(
            "grants_expired",
            "Grants whose client did not come in time",
            counters.grants_expired,
        )?;
        out.tally("grants_refused", "Grants refused", &counters.grants_refused)?;
        out.labelled(
            "admissions",
            "Control connections admitted",
            "kind",
            [
                ("started", counters.admitted),
                ("taken_up_again", counters.reattached),
            ],
        )?;
        let refused = counters.admissions_refused.iter().chain(early.iter());
        out.labelled(
            "connections_refused",
            "Control connections closed without being admitted",
            "reason",
            refused,
        )?;
        out.counter(
            "agents_unreachable",
            "Control connections whose agent took no connection",
            counters.agents_unreachable,
        )?;
        out.tally("sessions_ended", "Sessions ended", &counters.ended)?;
        out.labelled(
            "sessions_ended_udp",
            "Sessions ended, by whether their datagrams made the whole way",
            "verdict",
            counters.udp_verdicts.iter(),
        )?;
        out.labelled(
            "udp_packets",
            "Datagrams relayed",
            "direction",
            [
                ("up", counters.forwarded.up.packets),
                ("down", counters.forwarded.down.packets),
            ],
        )?;
        out.labelled(
            "udp_bytes",
            "UDP payload relayed, in bytes",
            "direction",
            [
                ("up", counters.forwarded.up.bytes),
                ("down", counters.forwarded.down.bytes),
            ],
        )?;
        out.counter(
            "udp_offered",
            "Copies of datagrams sent to learn which agent answers",
            counters.offered,
        )?;
        out.counter(
            "udp_sources_bound",
            "Client addresses bound to a session",
            counters.bound,
        )?;
        out.counter(
            "udp_sources_rebound",
            "Sessions that went on from another port of the client's address",
            counters.rebound,
        )?;
        out.tally("udp_dropped", "Datagrams dropped", &counters.dropped)?;
        let (up, down) = (&sequences.up, &sequences.down);
        for (name, help, up, down) in [
            (
                "udp_sequence_received",
                "ESP sequence numbers that came in, each counted once",
                up.received,
                down.received,
            ),
            (
                "udp_sequence_lost",
                "ESP sequence numbers that did not come in",
                up.lost,
                down.lost,
            ),
            (
                "udp_sequence_reordered",
                "ESP sequence numbers that came in after a newer one",
                up.reordered,
                down.reordered,
            ),
            (
                "udp_sequence_duplicated",
                "ESP sequence numbers that came in again",
                up.duplicated,
                down.duplicated,
            ),
            (
                "udp_sequence_late",
                "Datagrams that came in too late to be of use",
                up.late,
                down.late,
            ),
        ] {
            out.labelled(name, help, "direction", [("up", up), ("down", down)])?;
        }
        out.labelled(
            "udp_client_socket_errors",
            "Failed sends to and receives from clients",
            "reason",
            self.shared.client_troubles.counts(),
        )?;
        out.labelled(
            "udp_agent_socket_errors",
            "Failed sends to and receives from agents",
            "reason",
            self.shared.agent_troubles.counts(),
        )
    }
}

/// Writes metrics under the common prefix.
struct Output<'a>(DescriptorEncoder<'a>);

impl Output<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let name = format!("{PREFIX}{name}");
        let encoder = self
            .0
            .encode_descriptor(&name, help, None, MetricType::Gauge)?;
        gauge.encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let name = format!("{PREFIX}{name}");
        let encoder = self
            .0
            .encode_descriptor(&name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn tally<R: Reason>(&mut self, name: &str, help: &str, tally: &Tally<R>) -> fmt::Result {
        self.labelled(name, help, "reason", tally.iter())
    }

    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let name = format!("{PREFIX}{name}");
        let mut encoder = self
            .0
            .encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            let labels = [(label, value)];
            ConstCounter::new(count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
