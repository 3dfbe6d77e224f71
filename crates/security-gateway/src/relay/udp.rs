//! Datagrams: received in batches, decided on under one lock, sent in batches without waiting.
//!
//! A thread of its own does it, since nothing it does waits for anything but datagrams. It costs a datagram no memory to be found,
//! no clock to be read and no system call beside the batch's.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, info};

use super::{
    notes::{SocketTrouble, Troubles},
    runs::{Runs, Way, taken_apart},
    shared::{Locals, Shared},
    sys::{self, BATCH, Events, MAX_SEGMENTS, Message, Piece, Receiver, Run, Sender, WAKE},
};
use crate::core::{Gateway, SessionKey, UpstreamSocket, Verdict};

/// The tokens of the sockets all sessions share. A session's own socket has the session's key, which counts from one up.
const CLIENTS: u64 = u64::MAX - 1;
const AGENTS_V4: u64 = u64::MAX - 2;
const AGENTS_V6: u64 = u64::MAX - 3;
/// Rest after a receive error that is not of the network's making, so that a socket in trouble costs no core.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(1);

/// The thread that relays datagrams. Stopped, and waited for, on drop.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Starts relaying what the sockets receive.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        shared.poll.add(&shared.clients, CLIENTS)?;
        for (socket, token) in shared
            .upstream
            .shared()
            .into_iter()
            .zip([AGENTS_V4, AGENTS_V6])
        {
            if let Some(socket) = socket {
                shared.poll.add(socket, token)?;
            }
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let (running, ended) = oneshot::channel();
        let thread = {
            let (shared, stopping) = (Arc::clone(shared), Arc::clone(&stopping));
            thread::Builder::new()
                .name("pcoip-udp".to_owned())
                .spawn(move || {
                    let _running: oneshot::Sender<()> = running;
                    Relay::new(shared).run(&stopping);
                })?
        };
        Ok(Self {
            shared: Arc::clone(shared),
            stopping,
            thread: Some(thread),
            ended,
        })
    }

    /// Waits until the thread is gone, which it is before its time only when something is badly wrong.
    pub(super) async fn ended(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.shared.poll.wake();
        // It looks up between two batches, so this takes no longer than one.
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            error!("The thread that relays datagrams panicked");
        }
    }
}

/// Whom a socket receives from.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// Clients.
    Clients,
    /// Agents; answers go out to clients by the other socket.
    Agents(UpstreamSocket),
}

/// What the thread has.
struct Relay {
    shared: Arc<Shared>,
    receiver: Receiver,
    to_agents: Runs,
    to_clients: Runs,
    outlet: Outlet,
}

impl Relay {
    fn new(shared: Arc<Shared>) -> Self {
        let room = BATCH * MAX_SEGMENTS;
        let own_sockets = shared.upstream.shared().iter().all(Option::is_none);
        let together = sys::can_segment(&shared.clients);
        Self {
            receiver: Receiver::new(),
            to_agents: Runs::new(room, own_sockets, together),
            to_clients: Runs::new(room, false, together),
            outlet: Outlet {
                sender: Sender::new(),
                segmentation: together,
            },
            shared,
        }
    }

    fn run(mut self, stopping: &AtomicBool) {
        let shared = Arc::clone(&self.shared);
        let mut events = Events::new();
        loop {
            match shared.poll.wait(&mut events) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    error!(%error, "Cannot wait for datagrams");
                    return;
                }
            }
            for token in events.tokens() {
                let [v4, v6] = shared.upstream.shared();
                let agents = Side::Agents(UpstreamSocket::Shared);
                match token {
                    WAKE => {
                        if stopping.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    CLIENTS => self.relay(&shared.clients, Side::Clients),
                    AGENTS_V4 => v4.into_iter().for_each(|socket| self.relay(socket, agents)),
                    AGENTS_V6 => v6.into_iter().for_each(|socket| self.relay(socket, agents)),
                    key => {
                        let session = SessionKey::from_raw(key);
                        // Gone when the session has just ended.
                        if let Some(socket) = shared.upstream.of(session) {
                            self.relay(&socket, Side::Agents(UpstreamSocket::Of(session)));
                        }
                    }
                }
            }
        }
    }

    /// Relays up to a batch of what a socket has received.
    fn relay(&mut self, socket: &UdpSocket, side: Side) {
        let received = self.receiver.receive(socket);
        if self.receiver.received() > 0 {
            self.decide(side);
            self.send(side);
        }
        if let Err(error) = received {
            self.troubles(side).add(&error);
            match SocketTrouble::of(&error) {
                SocketTrouble::Refused
                | SocketTrouble::Unreachable
                | SocketTrouble::Denied
                | SocketTrouble::TooLong => {}
                SocketTrouble::Full | SocketTrouble::Other => thread::sleep(RECEIVE_ERROR_PAUSE),
            }
        }
    }

    /// The troubles of receiving from one side.
    fn troubles(&self, side: Side) -> &Troubles {
        match side {
            Side::Clients => &self.shared.client_troubles,
            Side::Agents(_) => &self.shared.agent_troubles,
        }
    }

    fn decide(&mut self, side: Side) {
        let Self {
            shared,
            receiver,
            to_agents,
            to_clients,
            ..
        } = self;
        match side {
            Side::Clients => {
                to_agents.clear();
                shared.with_locals(|core, locals, now| {
                    for message in receiver.messages() {
                        for piece in datagrams(&message) {
                            let payload = payload(receiver.buffer(), piece);
                            let verdict = core.handle_client_datagram(message.from, payload, now);
                            add_upward(to_agents, &message, piece, &verdict, locals);
                        }
                    }
                });
            }
            Side::Agents(socket) => {
                to_clients.clear();
                shared.with_locals(|core, locals, now| {
                    decide_downward(receiver, to_clients, socket, core, locals, now);
                });
            }
        }
    }

    fn send(&mut self, side: Side) {
        let buffer = self.receiver.buffer();
        match side {
            Side::Clients => {
                let senders = self.shared.upstream.senders();
                self.outlet.send(
                    buffer,
                    &mut self.to_agents,
                    &self.shared.agent_troubles,
                    |session, ipv4| senders.socket(session, ipv4),
                );
            }
            Side::Agents(_) => self.outlet.send(
                buffer,
                &mut self.to_clients,
                &self.shared.client_troubles,
                |_, _| Some(&self.shared.clients),
            ),
        }
    }
}

/// Adds what is to be sent for a client's datagram, and keeps which local address the client sent it to.
fn add_upward(
    runs: &mut Runs,
    message: &Message,
    piece: Piece,
    verdict: &Verdict<'_>,
    locals: &mut Locals,
) {
    for forward in verdict.forwards() {
        if let Some(local) = message.local {
            locals.insert(forward.session, local);
        }
        let way = Way {
            session: forward.session,
            to: forward.to,
            local: None,
            tos: message.tos,
        };
        runs.add(way, piece);
    }
}

fn decide_downward(
    receiver: &Receiver,
    runs: &mut Runs,
    socket: UpstreamSocket,
    core: &mut Gateway,
    locals: &Locals,
    now: Instant,
) {
    let mut last: Option<(SessionKey, Option<IpAddr>)> = None;
    for message in receiver.messages() {
        for piece in datagrams(&message) {
            let payload = payload(receiver.buffer(), piece);
            let verdict = core.handle_agent_datagram(socket, message.from, payload, now);
            for forward in verdict.forwards() {
                let local = match last {
                    Some((session, local)) if session == forward.session => local,
                    Some(_) | None => locals.get(&forward.session).copied(),
                };
                last = Some((forward.session, local));
                let way = Way {
                    session: forward.session,
                    to: forward.to,
                    local,
                    tos: message.tos,
                };
                runs.add(way, piece);
            }
        }
    }
}

/// The datagrams of a message. One of no bytes is one all the same.
fn datagrams(message: &Message) -> impl Iterator<Item = Piece> + use<> {
    let Message {
        start,
        length,
        segment,
        ..
    } = *message;
    let end = start + length.max(1);
    (start..end).step_by(segment).map(move |at| Piece {
        start: at,
        length: segment.min(start + length - at),
    })
}

fn payload(buffer: &[u8], piece: Piece) -> &[u8] {
    buffer
        .get(piece.start..piece.start + piece.length)
        .unwrap_or_default()
}

/// Sends runs.
struct Outlet {
    sender: Sender,
    /// Whether the kernel cuts runs into datagrams.
    segmentation: bool,
}

impl Outlet {
    /// Sends all runs, each by the socket that `choose` names for its session and address family.
    fn send<'a>(
        &mut self,
        buffer: &[u8],
        all: &mut Runs,
        troubles: &Troubles,
        choose: impl Fn(SessionKey, bool) -> Option<&'a UdpSocket>,
    ) {
        let (mut runs, mut sessions, mut pieces) = (all.runs(), all.sessions(), all.pieces());
        while let (Some(run), Some(session)) = (runs.first(), sessions.first()) {
            let socket = choose(*session, run.ipv4);
            let same = |(run, session): &(&Run, &SessionKey)| match (
                socket,
                choose(**session, run.ipv4),
            ) {
                (Some(one), Some(other)) => std::ptr::eq(one, other),
                (Some(_) | None, _) => false,
            };
            let sent = match socket {
                Some(socket) => {
                    let together = runs.iter().zip(sessions).take_while(same).count().max(1);
                    let batch = runs.get(..together).unwrap_or(runs);
                    match self.sender.send(socket, buffer, batch, pieces) {
                        Ok(sent) => sent.max(1),
                        Err(error) => {
                            self.recover(socket, buffer, run, pieces, error, troubles);
                            1
                        }
                    }
                }
                None => {
                    // The session ended a moment ago, its socket could not be opened, or there is none of this family.
                    let error = io::Error::from_raw_os_error(libc::ENETUNREACH);
                    (0..run.segments).for_each(|_| troubles.add(&error));
                    1
                }
            };
            let used: usize = runs.iter().take(sent).map(|run| run.pieces).sum();
            runs = runs.get(sent..).unwrap_or_default();
            sessions = sessions.get(sent..).unwrap_or_default();
            pieces = pieces.get(used..).unwrap_or_default();
        }
        if !self.segmentation {
            all.keep_apart();
        }
    }

    /// Does what can be done for a run that could not be sent. Whatever the error, it is this run's alone.
    #[cold]
    fn recover(
        &mut self,
        socket: &UdpSocket,
        buffer: &[u8],
        run: &Run,
        pieces: &[Piece],
        error: io::Error,
        troubles: &Troubles,
    ) {
        if run.segments == 1 {
            troubles.add(&error);
            return;
        }
        if matches!(error.raw_os_error(), Some(libc::EIO | libc::EOPNOTSUPP)) && self.segmentation {
            self.segmentation = false;
            info!(%error, "Datagrams are sent one by one, since the kernel does not cut them here");
        }
        // What is refused together may pass one by one; what an earlier datagram is to blame for certainly may.
        let alone = Run {
            segments: 1,
            pieces: 1,
            ..*run
        };
        for piece in taken_apart(run, pieces) {
            if let Err(error) = self.sender.send(socket, buffer, &[alone], &[piece]) {
                troubles.add(&error);
            }
        }
    }
}

#[cfg(test)]
mod tests;
