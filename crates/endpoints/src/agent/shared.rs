//! What the agent's tasks share: the desk, the live sessions, the flows by SPI, figures and events.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_https::{Fingerprint, identity::IssueError};
use portcullis_license_server::LeaseClient;
use portcullis_protocol::{
    broker::{ConnectTag, SessionId},
    esp::{self as wire, Layout},
    license_path::LicensePath,
};
use tokio::{
    net::UdpSocket,
    sync::{Notify, broadcast},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use super::{
    config::{AgentConfig, AgentEvent, AgentStats, EndReason, LicenseState, Traffic},
    desk::{Admission, Desk, Expired, NoSuchSession, Occupied},
};
use crate::{esp::Spi, flow::AgentFlow, signalling::License};

/// Events a slow listener may lag behind before it misses the oldest.
const EVENTS: usize = 4096;
/// Lists of licence servers whose connections are kept.
const LEASE_CLIENTS: usize = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) certificate: Fingerprint,
    pub(crate) data: SocketAddr,
    pub(crate) udp: UdpSocket,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Rung when a seat may expire earlier than the reaper knows.
    pub(crate) seats_changed: Notify,
    pub(crate) counters: Counters,
    state: Mutex<State>,
    flows: RwLock<HashMap<Spi, Arc<SessionFlow>>>,
    events: broadcast::Sender<AgentEvent>,
    /// Clients of licence servers asked before: usually all launches name the same.
    licenses: Mutex<VecDeque<(Vec<LicensePath>, LeaseClient)>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) launched: AtomicU64,
    pub(crate) launches_refused: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) packets_sent: AtomicU64,
    pub(crate) packets_received: AtomicU64,
    pub(crate) dropped_unknown_spi: AtomicU64,
    pub(crate) dropped_rejected: AtomicU64,
    pub(crate) leases: AtomicU64,
}

#[derive(Debug)]
struct State {
    desk: Desk,
    live: BTreeMap<SessionId, Live>,
    returning: Vec<CancellationToken>,
}

/// A session that holds a seat.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) log_id: String,
    pub(crate) license: LicenseState,
    /// Cancelled when the session is over, after `reason` was set.
    pub(crate) ended: CancellationToken,
    pub(crate) reason: Arc<OnceLock<EndReason>>,
    /// Cancelled when the session's licence is given back; `None` when it has none.
    pub(crate) released: Option<CancellationToken>,
    /// What it carried, as far as is known.
    traffic: Traffic,
    /// Whether a task holds the client's connection. That task then sees the session to its end.
    attended: bool,
}

/// A seat was given.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) session: SessionId,
    /// Cancelled when the session is over.
    pub(crate) ended: CancellationToken,
    /// The same user's earlier session had to go; cancelled when its licence is given back.
    pub(crate) displaced: Option<CancellationToken>,
}

/// One session's flow, and the bell of the task that sends for it.
#[derive(Debug)]
pub(crate) struct SessionFlow {
    pub(crate) session: SessionId,
    pub(crate) log_id: String,
    pub(crate) layout: Layout,
    pub(crate) wake: Notify,
    flow: Mutex<AgentFlow>,
}

impl Shared {
    pub(crate) fn new(
        config: AgentConfig,
        certificate: Fingerprint,
        data: SocketAddr,
        udp: UdpSocket,
    ) -> Self {
        let desk = Desk::new(config.max_sessions, config.reservation, config.grace);
        Self {
            config,
            certificate,
            data,
            udp,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            seats_changed: Notify::new(),
            counters: Counters::default(),
            state: Mutex::new(State {
                desk,
                live: BTreeMap::new(),
                returning: Vec::new(),
            }),
            flows: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
            licenses: Mutex::default(),
        }
    }

    /// Gives a user a seat, which may end the same user's earlier session.
    pub(crate) fn admit(&self, user: &str, log_id: &str) -> Result<Admitted, Occupied> {
        let ended = self.shutdown.child_token();
        let mut state = self.state();
        let Admission { session, displaced } = state.desk.admit(user)?;
        let displaced = displaced.and_then(|session| Some((session, state.live.remove(&session)?)));
        state.live.insert(
            session,
            Live {
                log_id: log_id.to_owned(),
                license: LicenseState {
                    license: License::NotConfigured,
                    took: Duration::ZERO,
                },
                ended: ended.clone(),
                reason: Arc::default(),
                released: None,
                traffic: Traffic::default(),
                attended: false,
            },
        );
        drop(state);
        let displaced = displaced.and_then(|(session, live)| {
            self.conclude(session, &live, EndReason::TakenOver);
            live.released
        });
        Ok(Admitted {
            session,
            ended,
            displaced,
        })
    }

    /// Notes the licence of a session that is being prepared.
    pub(crate) fn licensed(
        &self,
        session: SessionId,
        license: LicenseState,
        released: CancellationToken,
    ) {
        if let Some(live) = self.state().live.get_mut(&session) {
            live.license = license;
            live.released = Some(released);
        }
    }

    /// A client of these licence servers, with kept connections when they were asked before.
    pub(crate) fn lease_client(
        &self,
        addresses: Vec<LicensePath>,
    ) -> Result<LeaseClient, IssueError> {
        let mut licenses = self.licenses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = licenses.iter().find(|(known, _)| *known == addresses) {
            return Ok(client.clone());
        }
        let client = LeaseClient::new(addresses.clone(), &self.config.license.trust)?;
        if licenses.len() >= LEASE_CLIENTS {
            licenses.pop_front();
        }
        licenses.push_back((addresses, client.clone()));
        Ok(client)
    }

    /// Licences on their way back from sessions that are over; each is cancelled on arrival.
    pub(crate) fn returning(&self) -> Vec<CancellationToken> {
        let mut state = self.state();
        state.returning.retain(|released| !released.is_cancelled());
        state.returning.clone()
    }

    /// Makes a session claimable. `false` when it is over already.
    pub(crate) fn reserve(&self, session: SessionId, tag: ConnectTag) -> bool {
        let reserved = self.state().desk.reserve(session, tag, Instant::now());
        self.seats_changed.notify_one();
        reserved && !self.shutdown.is_cancelled()
    }

    /// Connects a client to its session. The caller sees it to its end, by [`Self::disconnect`] or [`Self::end`].
    pub(crate) fn claim(&self, session: SessionId, tag: &str) -> Result<Live, NoSuchSession> {
        let mut state = self.state();
        state.desk.claim(session, tag, Instant::now())?;
        let live = state.live.get_mut(&session).ok_or(NoSuchSession)?;
        live.attended = true;
        Ok(live.clone())
    }

    /// Notes that a session's TCP connection broke, and what the session carried until then.
    pub(crate) fn disconnect(&self, session: SessionId, traffic: Traffic) {
        let mut state = self.state();
        state.desk.disconnect(session, Instant::now());
        let over = state.live.get_mut(&session).and_then(|live| {
            live.attended = false;
            live.traffic = traffic;
            live.reason.get().copied()
        });
        drop(state);
        self.seats_changed.notify_one();
        if let Some(reason) = over {
            self.end(session, reason, traffic);
        }
    }

    /// Ends a session; nothing happens when it is over already.
    pub(crate) fn end(&self, session: SessionId, reason: EndReason, traffic: Traffic) {
        let mut state = self.state();
        state.desk.vacate(session);
        let live = state.live.remove(&session);
        drop(state);
        if let Some(mut live) = live {
            live.traffic = traffic;
            self.conclude(session, &live, reason);
        }
    }

    /// Has a session end: by the task that holds its connection, or here and now when there is none.
    pub(crate) fn request_end(&self, session: SessionId, reason: EndReason) {
        let state = self.state();
        let Some(live) = state.live.get(&session) else {
            return;
        };
        let traffic = live.traffic;
        let attended = live.attended;
        if attended {
            let _ = live.reason.set(reason);
            live.ended.cancel();
        }
        drop(state);
        if !attended {
            self.end(session, reason, traffic);
        }
    }

    /// Has every session end.
    pub(crate) fn request_end_all(&self, reason: EndReason) {
        let sessions: Vec<_> = self.state().live.keys().copied().collect();
        for session in sessions {
            self.request_end(session, reason);
        }
    }

    pub(crate) fn poll_seat_timeout(&self) -> Option<Instant> {
        self.state().desk.poll_timeout()
    }

    pub(crate) fn handle_seat_timeout(&self, now: Instant) {
        let mut state = self.state();
        let expired: Vec<_> = state
            .desk
            .handle_timeout(now)
            .into_iter()
            .filter_map(|(session, why)| Some((session, why, state.live.remove(&session)?)))
            .collect();
        drop(state);
        for (session, why, live) in expired {
            let reason = match why {
                Expired::Unclaimed => EndReason::Unclaimed,
                Expired::Disconnected => EndReason::Disconnected,
            };
            self.conclude(session, &live, reason);
        }
    }

    /// Registers a flow under its SPI; `None` when another session has that one.
    pub(crate) fn register(
        &self,
        session: SessionId,
        log_id: &str,
        layout: Layout,
        spi: Spi,
        flow: AgentFlow,
    ) -> Option<Arc<SessionFlow>> {
        let mut flows = self.flows.write().unwrap_or_else(PoisonError::into_inner);
        if flows.contains_key(&spi) {
            return None;
        }
        let flow = Arc::new(SessionFlow {
            session,
            log_id: log_id.to_owned(),
            layout,
            wake: Notify::new(),
            flow: Mutex::new(flow),
        });
        flows.insert(spi, Arc::clone(&flow));
        Some(flow)
    }

    pub(crate) fn unregister(&self, spi: Spi) {
        self.flows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&spi);
    }

    /// The flow a datagram belongs to, under either layout.
    pub(crate) fn flow_of(&self, datagram: &[u8]) -> Option<Arc<SessionFlow>> {
        let flows = self.flows.read().unwrap_or_else(PoisonError::into_inner);
        [Layout::WithTransportHeader, Layout::Bare]
            .into_iter()
            .find_map(|layout| {
                let spi = Spi::new(wire::header(datagram, layout)?.spi)?;
                flows.get(&spi).filter(|flow| flow.layout == layout)
            })
            .cloned()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<AgentEvent> {
        self.events.subscribe()
    }

    /// Tells listeners, if there are any.
    pub(crate) fn emit(&self, event: AgentEvent) {
        let _ = self.events.send(event);
    }

    pub(crate) fn stats(&self) -> AgentStats {
        let occupancy = self.state().desk.occupancy();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AgentStats {
            reserved: occupancy.reserved,
            connected: occupancy.connected,
            disconnected: occupancy.disconnected,
            leases: read(&self.counters.leases),
            launched: read(&self.counters.launched),
            launches_refused: read(&self.counters.launches_refused),
            connections_refused: read(&self.counters.connections_refused),
            packets_sent: read(&self.counters.packets_sent),
            packets_received: read(&self.counters.packets_received),
            dropped_unknown_spi: read(&self.counters.dropped_unknown_spi),
            dropped_rejected: read(&self.counters.dropped_rejected),
        }
    }

    fn conclude(&self, session: SessionId, live: &Live, reason: EndReason) {
        let reason = *live.reason.get_or_init(|| reason);
        live.ended.cancel();
        if let Some(released) = &live.released {
            let mut state = self.state();
            state.returning.retain(|released| !released.is_cancelled());
            state.returning.push(released.clone());
        }
        let traffic = live.traffic;
        info!(
            session = live.log_id,
            number = session.0,
            ?reason,
            sent = traffic.sent,
            received = traffic.received.packets,
            "Session ended"
        );
        let rejected = traffic.received.rejected + traffic.received.duplicated;
        self.counters
            .dropped_rejected
            .fetch_add(rejected, Ordering::Relaxed);
        self.emit(AgentEvent::Ended {
            session,
            reason,
            traffic,
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionFlow {
    pub(crate) fn lock(&self) -> MutexGuard<'_, AgentFlow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
