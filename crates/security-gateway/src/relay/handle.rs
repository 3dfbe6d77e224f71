//! What others may ask of a running gateway.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use portcullis_protocol::esp::Layout;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::{
    core::{
        EndReason, Flow, GrantId, GrantRefusal, GrantRequest, Granted, Quality, Reason, SessionKey,
        SessionView, StandingGrant, StandingGrantTaken, TcpState,
    },
    metrics::Metrics,
};

/// A handle to a gateway. Cheap to clone; it stays good, if of no use, when the gateway has stopped.
#[derive(Clone, Debug)]
pub struct GatewayHandle {
    shared: Arc<Shared>,
}

/// What went one way in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    /// Datagrams relayed.
    pub packets: u64,
    /// Their UDP payloads together, in bytes.
    pub bytes: u64,
    /// How well they had come in. A gateway of an earlier version does not say.
    #[serde(default)]
    pub quality: QualitySummary,
}

/// How well datagrams came in one way, by their sequence numbers, on the leg before the gateway: upwards the client's, downwards
/// the agent's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QualitySummary {
    /// Where the ESP header was found to stand: `transport_header` or `bare`; `None` while that is not known, and then nothing is
    /// counted.
    pub layout: Option<String>,
    /// Sequence numbers that came, each counted once.
    pub received: u64,
    /// Sequence numbers that did not come.
    pub lost: u64,
    /// Sequence numbers that have not come and are still waited for.
    pub missing: u64,
    /// Received ones that came after a newer one.
    pub reordered: u64,
    /// Sequence numbers that came again.
    pub duplicated: u64,
    /// Datagrams that came too late to be of use; they are among the lost.
    pub late: u64,
    /// How unevenly datagrams come, in microseconds; the sender's own unevenness is contained in it.
    pub jitter_us: Option<u64>,
}

/// A session, for administrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// Names the session on this gateway.
    pub key: u64,
    /// The session log id.
    pub session: String,
    /// The client's end of the control connection, now or last.
    pub client: SocketAddr,
    /// The client's end of the UDP path, once known.
    pub udp_client: Option<SocketAddr>,
    /// The agent's TCP end.
    pub agent_tcp: SocketAddr,
    /// The agent's UDP end.
    pub agent_udp: SocketAddr,
    /// Who it is for.
    pub user: String,
    /// What the user calls the desktop.
    pub desktop: String,
    /// The control connection: `connecting`, `live` or `closed`.
    pub tcp: String,
    /// Seconds since the client was admitted.
    pub age_seconds: u64,
    /// Milliseconds since a datagram was last relayed.
    pub idle_ms: Option<u64>,
    /// Whether datagrams make the whole way: `too_soon` to say, `client_silent` (the control connection came, but UDP never did:
    /// blocked on the client's side), `agent_silent` (the agent never answered the client's datagrams) or `both_ways`. A gateway
    /// of an earlier version does not say.
    #[serde(default)]
    pub udp: Option<String>,
    /// From the client to the agent.
    pub up: FlowSummary,
    /// From the agent to the client.
    pub down: FlowSummary,
}

impl GatewayHandle {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Grants a client one connection to an agent, soon.
    ///
    /// # Errors
    /// See [`GrantRefusal`].
    pub fn authorize(&self, request: GrantRequest) -> Result<Granted, GrantRefusal> {
        self.shared.with(|core, now| core.authorize(request, now))
    }

    /// Adds a grant that stays as long as the gateway runs.
    ///
    /// # Errors
    /// [`StandingGrantTaken`] when one for the same client network and server name is there already.
    pub fn add_standing_grant(&self, grant: StandingGrant) -> Result<GrantId, StandingGrantTaken> {
        self.shared.with(|core, _| core.add_standing_grant(grant))
    }

    /// Every session, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionSummary> {
        let views = self.shared.with(|core, now| core.sessions(now));
        views.into_iter().map(SessionSummary::from).collect()
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.shared.with(|core, _| core.session_count())
    }

    /// How many grants wait for their client.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.shared.with(|core, _| core.pending_count())
    }

    /// Ends a session at once, on an administrator's word. False when there is none under this key.
    #[must_use]
    pub fn end_session(&self, key: SessionKey) -> bool {
        self.shared
            .with(|core, now| core.end_session(key, EndReason::Administrator, now))
    }

    /// Stops or resumes taking new grants. Sessions and grants already given are not touched.
    pub fn drain(&self, on: bool) {
        self.shared.with(|core, _| core.set_draining(on));
    }

    /// Whether new grants are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.with(|core, _| core.is_draining())
    }

    /// The gateway's metrics, to be registered once.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::new(Arc::clone(&self.shared))
    }
}

impl From<SessionView> for SessionSummary {
    fn from(view: SessionView) -> Self {
        Self {
            key: view.key.get(),
            session: view.log_id.to_string(),
            client: view.client,
            udp_client: view.udp_client,
            agent_tcp: view.agent.tcp(),
            agent_udp: view.agent.udp(),
            user: view.user,
            desktop: view.desktop,
            tcp: match view.tcp {
                TcpState::Connecting => "connecting",
                TcpState::Live => "live",
                TcpState::Closed => "closed",
            }
            .to_owned(),
            age_seconds: view.age.as_secs(),
            idle_ms: view.idle.map(milliseconds),
            udp: Some(view.udp.label().to_owned()),
            up: FlowSummary::new(view.flows.up, &view.quality.up),
            down: FlowSummary::new(view.flows.down, &view.quality.down),
        }
    }
}

impl FlowSummary {
    fn new(flow: Flow, quality: &Quality) -> Self {
        Self {
            packets: flow.packets,
            bytes: flow.bytes,
            quality: quality.into(),
        }
    }
}

impl From<&Quality> for QualitySummary {
    fn from(quality: &Quality) -> Self {
        Self {
            layout: quality.layout.map(|layout| {
                match layout {
                    Layout::WithTransportHeader => "transport_header",
                    Layout::Bare => "bare",
                }
                .to_owned()
            }),
            received: quality.counts.received,
            lost: quality.counts.lost,
            missing: quality.missing,
            reordered: quality.counts.reordered,
            duplicated: quality.counts.duplicated,
            late: quality.counts.late,
            jitter_us: quality
                .jitter
                .map(|jitter| u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
