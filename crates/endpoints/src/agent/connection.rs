//! TCP 4172: one connection is one session, from the claim to the good-bye.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use portcullis_protocol::broker::SessionId;
use secrecy::ExposeSecret;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info};

use super::{
    config::{AgentEvent, EndReason, Traffic},
    shared::{Live, SessionFlow, Shared},
};
use crate::{
    esp::Spi,
    flow::{AgentFlow, MTU_RANGE, Terms},
    signalling::{
        Accepted, AgentMessage, Bye, ByeReason, Cipher, ClientMessage, Connect, MessageStream,
        ReceiveError, RefusalReason, Refused, Stopped,
        keys::{KeyContext, SessionKeys},
    },
};

/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From the handshake to the first message.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections at a time. Waiting ones cost a handshake each; a real agent serves one.
const CONNECTIONS: usize = 4096;
/// Pause after an accept that failed, for instance because file descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long the agent waits for packets that were sent before the client stopped.
const SETTLE: Duration = Duration::from_millis(500);
/// How long a client that has said good-bye waits for its licence to be back, and the connection to close.
const RELEASE: Duration = Duration::from_secs(2);
/// Packets sent before other work gets its turn.
const BURST: usize = 64;

type Stream = MessageStream<TlsStream<TcpStream>>;

/// Accepts connections until the agent shuts down.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: TlsAcceptor) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (shared_by_task, tls) = (Arc::clone(&shared), tls.clone());
                shared.tasks.spawn(async move {
                    serve(&shared_by_task, &tls, stream, peer).await;
                    drop(slot);
                });
            }
            Err(error) => {
                debug!(
                    error = &error as &dyn std::error::Error,
                    "Cannot accept a connection"
                );
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Why no session came of a connection.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the TLS handshake failed")]
    Tls(#[source] std::io::Error),
    #[error("nothing came in time")]
    TimedOut,
    #[error("no message came")]
    Receive(#[source] ReceiveError),
    #[error("the first message is not a connect")]
    OutOfOrder,
    #[error("the proposal is refused: {0:?}")]
    Refused(RefusalReason),
    #[error("no keys could be taken from the TLS session")]
    Keys(#[source] rustls::Error),
}

async fn serve(shared: &Arc<Shared>, tls: &TlsAcceptor, tcp: TcpStream, peer: SocketAddr) {
    let greeted = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        greeted = greet(shared, tls, tcp) => greeted,
    };
    // From the claim on, a session is seen to its end whatever happens.
    let opened = match greeted {
        Ok((stream, connect)) => open(shared, stream, peer, &connect).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok(session) => session.run().await,
        Err(error) => {
            debug!(
                %peer,
                error = &error as &dyn std::error::Error,
                "Connection refused"
            );
            shared
                .counters
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            shared.emit(AgentEvent::ConnectionRefused { peer });
        }
    }
}

/// TLS and the first message.
async fn greet(
    shared: &Shared,
    tls: &TlsAcceptor,
    tcp: TcpStream,
) -> Result<(Stream, Connect), OpenError> {
    if shared.config.faults.mute_signalling {
        tokio::time::sleep(shared.config.idle).await;
        return Err(OpenError::TimedOut);
    }
    let _ = tcp.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(tcp))
        .await
        .map_err(|_| OpenError::TimedOut)?
        .map_err(OpenError::Tls)?;
    let mut stream = MessageStream::new(stream);
    let first = tokio::time::timeout(CONNECT, stream.receive())
        .await
        .map_err(|_| OpenError::TimedOut)?
        .map_err(OpenError::Receive)?;
    match first {
        Some(ClientMessage::Connect(connect)) => Ok((stream, connect)),
        Some(ClientMessage::Stop(_) | ClientMessage::Bye(_)) | None => Err(OpenError::OutOfOrder),
    }
}

async fn open(
    shared: &Arc<Shared>,
    mut stream: Stream,
    peer: SocketAddr,
    connect: &Connect,
) -> Result<Session, OpenError> {
    match claim(shared, connect) {
        Ok((live, agreed)) => Session::begin(shared, stream, peer, connect, live, agreed).await,
        Err(reason) => {
            // The client learns why when it still listens; either way the connection is over.
            let _ = stream
                .send(&AgentMessage::Refused(Refused { reason }))
                .await;
            stream.close().await;
            Err(OpenError::Refused(reason))
        }
    }
}

/// What both ends use from here on.
struct Agreed {
    client_spi: Spi,
    cipher: Cipher,
    transport_header: bool,
    mtu: u16,
}

/// Checks a proposal, then claims its session: a proposal that cannot be met does not use up the tag.
fn claim(shared: &Shared, connect: &Connect) -> Result<(Live, Agreed), RefusalReason> {
    let client_spi = Spi::new(connect.client_spi).ok_or(RefusalReason::InvalidProposal)?;
    if !MTU_RANGE.contains(&connect.mtu) || !connect.load.is_within_limits() {
        return Err(RefusalReason::InvalidProposal);
    }
    let cipher = *connect
        .ciphers
        .iter()
        .find(|cipher| shared.config.ciphers.contains(cipher))
        .ok_or(RefusalReason::NoCommonCipher)?;
    let live = shared
        .claim(
            SessionId(connect.session_id),
            connect.connect_tag.expose_secret(),
        )
        .map_err(|_| RefusalReason::NoSuchSession)?;
    Ok((
        live,
        Agreed {
            client_spi,
            cipher,
            transport_header: connect.transport_header && shared.config.transport_header,
            mtu: connect.mtu.min(shared.config.mtu),
        },
    ))
}

/// A claimed session with its connection and its flow.
struct Session {
    shared: Arc<Shared>,
    id: SessionId,
    live: Live,
    stream: Stream,
    spi: Spi,
    flow: Arc<SessionFlow>,
}

/// How a session's connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said good-bye.
    Bye,
    /// The connection broke.
    Broken,
    /// The agent wants it over, for this reason.
    Over(EndReason),
}

impl Session {
    async fn begin(
        shared: &Arc<Shared>,
        stream: Stream,
        peer: SocketAddr,
        connect: &Connect,
        live: Live,
        agreed: Agreed,
    ) -> Result<Self, OpenError> {
        let id = SessionId(connect.session_id);
        let prepared = Self::prepare(shared, stream, peer, connect, live, &agreed);
        let mut session = prepared.inspect_err(|_| {
            shared.end(id, EndReason::ProtocolError, Traffic::default());
        })?;
        let accepted = AgentMessage::Accepted(Accepted {
            agent_spi: session.spi.get(),
            cipher: agreed.cipher,
            transport_header: agreed.transport_header,
            mtu: agreed.mtu,
            license: session.live.license.license,
            license_ms: u32::try_from(session.live.license.took.as_millis()).unwrap_or(u32::MAX),
            desktop: shared.config.hostname.clone(),
        });
        info!(
            session = session.live.log_id,
            %peer,
            cipher = ?agreed.cipher,
            transport_header = agreed.transport_header,
            "Client connected"
        );
        shared.emit(AgentEvent::Connected {
            session: id,
            peer,
            server_name: session.server_name(),
            cipher: agreed.cipher,
        });
        // A client that is gone already shows at the first read.
        let _ = session.stream.send(&accepted).await;
        Ok(session)
    }

    fn prepare(
        shared: &Arc<Shared>,
        stream: Stream,
        peer: SocketAddr,
        connect: &Connect,
        live: Live,
        agreed: &Agreed,
    ) -> Result<Self, OpenError> {
        let id = SessionId(connect.session_id);
        let terms = Terms::new(
            agreed.transport_header,
            agreed.mtu,
            peer.ip().to_canonical(),
        );
        loop {
            let spi = Spi::from_random(random_u32());
            let context = KeyContext {
                session_id: connect.session_id,
                client_spi: agreed.client_spi,
                agent_spi: spi,
            };
            let keys = SessionKeys::derive(agreed.cipher, context, |out, label, context| {
                let (_, tls) = stream.get_ref().get_ref();
                tls.export_keying_material(out, label, Some(context))
                    .map(|_| ())
            })
            .map_err(OpenError::Keys)?;
            let flow = AgentFlow::new(
                terms,
                &keys,
                agreed.client_spi,
                spi,
                connect.load,
                Instant::now(),
            );
            // The SPI may be taken, once in four thousand million times the number of sessions.
            if let Some(flow) = shared.register(id, &live.log_id, terms.layout, spi, flow) {
                return Ok(Self {
                    shared: Arc::clone(shared),
                    id,
                    live,
                    stream,
                    spi,
                    flow,
                });
            }
        }
    }

    fn server_name(&self) -> Option<String> {
        let (_, tls) = self.stream.get_ref().get_ref();
        tls.server_name().map(str::to_owned)
    }

    async fn run(mut self) {
        let end = self.converse().await;
        self.shared.unregister(self.spi);
        let traffic = {
            let flow = self.flow.lock();
            Traffic {
                sent: flow.sent(),
                received: flow.received(),
            }
        };
        match end {
            End::Broken => self.shared.disconnect(self.id, traffic),
            End::Bye => {
                self.shared.end(self.id, EndReason::Bye, traffic);
                // When the client sees the connection close, seat and licence are free again.
                if let Some(released) = &self.live.released {
                    let _ = tokio::time::timeout(RELEASE, released.cancelled()).await;
                }
                self.stream.close().await;
            }
            End::Over(reason) => {
                self.shared.end(self.id, reason, traffic);
                let bye = Bye {
                    reason: bye_reason(reason),
                };
                let _ = self.stream.send(&AgentMessage::Bye(bye)).await;
                self.stream.close().await;
            }
        }
    }

    async fn converse(&mut self) -> End {
        let mut packet = Vec::new();
        loop {
            let more = self.transmit(&mut packet).await;
            let now = Instant::now();
            let (next, heard) = {
                let flow = self.flow.lock();
                (flow.poll_timeout(), flow.last_heard())
            };
            let idle_at = heard + self.shared.config.idle;
            if now >= idle_at {
                return End::Over(EndReason::Idle);
            }
            let wake_at = match next {
                _ if more => now,
                Some(next) => next.min(idle_at),
                None => idle_at,
            };
            tokio::select! {
                message = self.stream.receive() => match message {
                    Ok(Some(ClientMessage::Stop(stop))) => {
                        if !self.settle(stop.sent).await {
                            return End::Broken;
                        }
                    }
                    Ok(Some(ClientMessage::Bye(_))) => return End::Bye,
                    Ok(Some(ClientMessage::Connect(_))) | Err(ReceiveError::Read(_)) => {
                        return End::Over(EndReason::ProtocolError);
                    }
                    Ok(None) | Err(ReceiveError::Broken(_)) => return End::Broken,
                },
                () = self.live.ended.cancelled() => {
                    let reason = self.live.reason.get().copied();
                    return End::Over(reason.unwrap_or(EndReason::ShuttingDown));
                }
                () = self.flow.wake.notified() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
    }

    /// Sends what is due, up to [`BURST`] packets. Returns whether more may be due.
    async fn transmit(&self, packet: &mut Vec<u8>) -> bool {
        for _ in 0..BURST {
            let to = self.flow.lock().poll_transmit(Instant::now(), packet);
            let Some(to) = to else {
                return false;
            };
            // A packet the system refuses to send is a lost packet like any other, and shows as such.
            let _ = self.shared.udp.send_to(packet, to).await;
            self.shared
                .counters
                .packets_sent
                .fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Stops sending, waits for what the client sent before it stopped, and gives account. `false` when the client is gone.
    async fn settle(&mut self, client_sent: u64) -> bool {
        let sent = self.flow.lock().stop();
        let everything = async {
            while self.flow.lock().received().packets < client_sent {
                self.flow.wake.notified().await;
            }
        };
        // Whatever is missing afterwards counts as lost.
        let _ = tokio::time::timeout(SETTLE, everything).await;
        let stopped = Stopped {
            sent,
            received: self.flow.lock().received(),
            dropped_unknown_spi: self
                .shared
                .counters
                .dropped_unknown_spi
                .load(Ordering::Relaxed),
        };
        self.stream
            .send(&AgentMessage::Stopped(stopped))
            .await
            .is_ok()
    }
}

fn bye_reason(reason: EndReason) -> ByeReason {
    match reason {
        EndReason::Idle => ByeReason::Idle,
        EndReason::TakenOver => ByeReason::TakenOver,
        EndReason::LicenseLost => ByeReason::LicenseLost,
        EndReason::ProtocolError => ByeReason::ProtocolError,
        EndReason::Bye => ByeReason::Done,
        EndReason::ShuttingDown
        | EndReason::Unclaimed
        | EndReason::Disconnected
        | EndReason::NotPrepared => ByeReason::ShuttingDown,
    }
}

fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the SPI is merely predictable; the keys do not depend on it alone.
    let _ = getrandom::fill(&mut bytes);
    u32::from_be_bytes(bytes)
}
