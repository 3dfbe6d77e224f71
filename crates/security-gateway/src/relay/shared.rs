//! The core under its lock, and what hangs on its sessions.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use portcullis_protocol::client_hello::ServerName;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    notes::{EarlyClose, LogBudget, Troubles},
    sys::Poll,
    upstream::UpstreamSockets,
};
use crate::core::{Admission, AdmissionRefusal, Event, Gateway, Reason, SessionKey, Tally};

/// What every task of a gateway shares.
#[derive(Debug)]
pub(crate) struct Shared {
    guarded: Mutex<Guarded>,
    /// Told when the core's next deadline has come nearer.
    pub(super) wake: Notify,
    /// Where datagrams of clients come in and go out.
    pub(super) clients: UdpSocket,
    /// What the thread that relays datagrams waits with; every UDP socket is in it.
    pub(super) poll: Arc<Poll>,
    pub(super) upstream: UpstreamSockets,
    pub(crate) client_troubles: Troubles,
    pub(crate) agent_troubles: Troubles,
}

/// What is kept under the lock. The lock is held for one decision, or one batch of datagrams, and never across an await.
#[derive(Debug)]
struct Guarded {
    core: Gateway,
    /// Every session of the core has an entry, made and removed under the same lock.
    sessions: HashMap<SessionKey, Tokens>,
    /// Of sessions alone, each removed with its session.
    locals: Locals,
    /// What the timer task sleeps for.
    armed: Option<Instant>,
    early_closes: Tally<EarlyClose>,
    log: LogBudget,
}

/// The local address that the client of each session sends to, where the socket has several.
pub(super) type Locals = HashMap<SessionKey, IpAddr>;

/// Cancelled when a session, or its present control connection, is to end.
#[derive(Debug)]
struct Tokens {
    session: CancellationToken,
    connection: CancellationToken,
}

/// An admitted connection, and what ends it.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) admission: Admission,
    /// Cancelled when the session ends, or the client comes back on another connection.
    pub(super) connection_over: CancellationToken,
}

impl Shared {
    pub(super) fn new(
        core: Gateway,
        clients: UdpSocket,
        upstream: UpstreamSockets,
        poll: Arc<Poll>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clients,
            poll,
            guarded: Mutex::new(Guarded {
                core,
                sessions: HashMap::new(),
                locals: HashMap::new(),
                armed: None,
                early_closes: Tally::default(),
                log: LogBudget::default(),
            }),
            wake: Notify::new(),
            upstream,
            client_troubles: Troubles::default(),
            agent_troubles: Troubles::default(),
        })
    }

    /// Lets the core decide something, and does what follows from it.
    pub(crate) fn with<R>(&self, decide: impl FnOnce(&mut Gateway, Instant) -> R) -> R {
        self.with_guarded(|guarded, now| decide(&mut guarded.core, now))
    }

    /// Lets the core decide on datagrams, and does what follows from it. Local addresses may be kept for sessions that live.
    pub(super) fn with_locals(&self, decide: impl FnOnce(&mut Gateway, &mut Locals, Instant)) {
        self.with_guarded(|guarded, now| decide(&mut guarded.core, &mut guarded.locals, now));
    }

    fn with_guarded<R>(&self, decide: impl FnOnce(&mut Guarded, Instant) -> R) -> R {
        let mut ended = Vec::new();
        let (result, nearer) = {
            let mut guarded = self.lock();
            // Read under the lock, so that the core never sees time run back.
            let now = Instant::now();
            let result = decide(&mut guarded, now);
            while let Some(event) = guarded.core.poll_event() {
                if let Event::SessionEnded { key, .. } = &event
                    && let Some(tokens) = guarded.sessions.remove(key)
                {
                    tokens.session.cancel();
                    guarded.locals.remove(key);
                    self.upstream.close(*key);
                }
                ended.push(event);
            }
            let next = guarded.core.poll_timeout();
            let nearer = match (next, guarded.armed) {
                (Some(next), Some(armed)) => next < armed,
                (Some(_), None) => true,
                (None, _) => false,
            };
            (result, nearer)
        };
        if nearer {
            self.wake.notify_one();
        }
        for event in &ended {
            log_event(event);
        }
        result
    }

    /// What the timer task is to sleep for.
    pub(super) fn arm(&self) -> Option<Instant> {
        let mut guarded = self.lock();
        guarded.armed = guarded.core.poll_timeout();
        guarded.armed
    }

    /// Decides on a control connection.
    pub(super) fn admit(
        &self,
        client: SocketAddr,
        server_name: Option<&ServerName>,
    ) -> Result<Admitted, AdmissionRefusal> {
        self.with_guarded(|guarded, now| {
            let admission = guarded.core.handle_client_hello(client, server_name, now)?;
            let tokens = guarded
                .sessions
                .entry(admission.session)
                .or_insert_with(|| {
                    let session = CancellationToken::new();
                    let connection = session.child_token();
                    Tokens {
                        session,
                        connection,
                    }
                });
            if admission.reattached {
                tokens.connection.cancel();
                tokens.connection = tokens.session.child_token();
            }
            Ok(Admitted {
                admission,
                connection_over: tokens.connection.clone(),
            })
        })
    }

    /// Does something for a session under the lock, unless it is over.
    pub(super) fn if_alive<R>(&self, session: SessionKey, act: impl FnOnce() -> R) -> Option<R> {
        let guarded = self.lock();
        guarded.sessions.contains_key(&session).then(act)
    }

    /// Counts a connection closed before its ClientHello could be matched, and logs it while there is room.
    pub(super) fn close_early(&self, client: SocketAddr, reason: &EarlyClose) {
        let kept_back = {
            let mut guarded = self.lock();
            guarded.early_closes.add(reason);
            guarded.log.take(Instant::now())
        };
        if let Some(kept_back) = kept_back {
            info!(%client, %reason, kept_back, "Connection closed before admission");
        }
    }

    /// Logs a refused connection while there is room.
    pub(super) fn log_refusal(
        &self,
        client: SocketAddr,
        server_name: Option<&ServerName>,
        reason: &AdmissionRefusal,
    ) {
        if let Some(kept_back) = self.lock().log.take(Instant::now()) {
            let server_name = server_name.map(ServerName::as_str);
            info!(%client, server_name, %reason, kept_back, "Connection refused");
        }
    }

    pub(crate) fn early_closes(&self) -> Tally<EarlyClose> {
        self.lock().early_closes.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // A panic in one task must not take every session with it; the core keeps its tables in step call by call.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_event(event: &Event) {
    match event {
        Event::GrantExpired {
            grant,
            log_id,
            client,
        } => {
            info!(session = %log_id, %grant, %client, "Grant expired, since the client did not come");
        }
        Event::SessionEnded {
            key,
            log_id,
            reason,
            lasted,
            totals,
            quality,
            udp,
        } => {
            info!(
                session = %log_id,
                %key,
                %reason,
                udp = udp.label(),
                seconds = lasted.as_secs(),
                packets_up = totals.up.packets,
                packets_down = totals.down.packets,
                bytes_up = totals.up.bytes,
                bytes_down = totals.down.bytes,
                lost_up = quality.up.counts.lost,
                lost_down = quality.down.counts.lost,
                "Session ended"
            );
        }
    }
}
