//! The session itself: TCP 4172, then UDP 4172.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use portcullis_https::{Trust, identity::IssueError};
use portcullis_protocol::broker::{ConnectTag, SessionId};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::config::{AgentCertificate, ClientConfig};
use crate::{
    esp::Spi,
    flow::{ClientFlow, MTU_RANGE, Received, Terms},
    signalling::{
        Accepted, AgentMessage, Bye, ByeReason, ClientMessage, Connect, MessageStream,
        ReceiveError, RefusalReason, Stop, Stopped,
        keys::{KeyContext, SessionKeys},
    },
    socket, tag,
};

/// Packets sent, or taken, before other work gets its turn.
const BURST: usize = 64;
/// Largest datagram looked at; no session is set to larger ones.
const DATAGRAM_BYTES: usize = 2048;
/// For the agent's account of the flow, which itself waits for stragglers.
const STOP: Duration = Duration::from_secs(5);

/// Where and how a session is reached: a broker's target, every part present.
#[derive(Clone, Debug)]
pub struct SessionTarget {
    /// Address or host name.
    pub address: String,
    /// Port, for TCP and UDP.
    pub port: u16,
    /// Server name for TLS. Sent only when it is a DNS name: the TLS library cannot send IP literals or odd names.
    pub sni: Option<String>,
    /// The session.
    pub session_id: SessionId,
    /// Its secret.
    pub connect_tag: ConnectTag,
}

/// Why there is no session, or no longer one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The target's host name has no address.
    #[error("the session's host name {host:?} has no address")]
    Resolve {
        /// The name.
        host: String,
    },
    /// No TCP connection.
    #[error("no TCP connection")]
    Tcp(#[source] io::Error),
    /// No TCP connection in time.
    #[error("no TCP connection within {0:?}")]
    TcpTimedOut(Duration),
    /// The connect-tag names no certificate, so the agent cannot be told from an impostor.
    #[error("the connect-tag names no certificate")]
    TagWithoutCertificate,
    /// The policy for agent certificates cannot be used.
    #[error("the policy for the agent's certificate cannot be used")]
    Policy(#[source] IssueError),
    /// The connection was closed or broke before TLS stood.
    #[error("the TLS handshake broke off")]
    Tls(#[source] io::Error),
    /// TLS did not stand in time.
    #[error("the TLS handshake was not answered within {0:?}")]
    TlsTimedOut(Duration),
    /// The other end's certificate is not the one the connect-tag names, or not believed under the policy.
    #[error("the agent's certificate is not the expected one")]
    Certificate(#[source] io::Error),
    /// The agent refused.
    #[error("the agent refused: {0:?}")]
    Refused(RefusalReason),
    /// The agent did not answer inside TLS in time.
    #[error("the agent did not answer within {0:?}")]
    SignallingTimedOut(Duration),
    /// The connection closed while the session should stand.
    #[error("the signalling connection was closed")]
    Closed,
    /// What came over it was not understood.
    #[error("the signalling connection failed")]
    Receive(#[source] ReceiveError),
    /// A message could not be sent.
    #[error("the signalling connection broke")]
    Send(#[source] io::Error),
    /// The agent said something out of order, or proposed what cannot be.
    #[error("the agent broke the rules of session signalling")]
    OutOfOrder,
    /// No keys could be taken from the TLS session.
    #[error("no keys could be taken from the TLS session")]
    Keys(#[source] rustls::Error),
    /// No UDP socket.
    #[error("no UDP socket")]
    UdpSocket(#[source] io::Error),
    /// No invite was answered.
    #[error("none of {invites} packets over UDP was answered within {within:?}")]
    NoUdp {
        /// Packets sent.
        invites: u32,
        /// The limit in force.
        within: Duration,
        /// Whether a host answered that nothing listens there.
        refused: bool,
    },
    /// UDP fell silent.
    #[error("nothing came over UDP for {0:?}")]
    Silent(Duration),
    /// The agent ended the session.
    #[error("the agent ended the session: {0:?}")]
    Bye(ByeReason),
}

/// A session whose signalling stands and whose UDP flow does not yet.
#[derive(Debug)]
pub struct Signalled {
    session: Session,
    accepted: Accepted,
}

/// A session that stands.
#[derive(Debug)]
pub struct Session {
    stream: MessageStream<TlsStream<TcpStream>>,
    udp: UdpSocket,
    flow: ClientFlow,
    limits: super::config::Limits,
    via: SocketAddr,
    refused: bool,
    datagram: Vec<u8>,
    packet: Vec<u8>,
}

/// Both ends' accounts of a flow that has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What the agent says.
    pub agent: Stopped,
    /// Packets the client sent.
    pub sent: u64,
    /// What reached the client.
    pub received: Received,
}

/// What ended a stretch of pumping.
enum Pumped {
    Deadline,
    Opened,
    Message(AgentMessage),
}

impl Signalled {
    /// Connects to a target over TCP and claims its session.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn open(target: &SessionTarget, config: &ClientConfig) -> Result<Self, SessionError> {
        let via = resolve(target, config).await?;
        let tls = tls(target, config)?;
        let tcp = tokio::time::timeout(config.limits.connect, tcp(via, config.local_address))
            .await
            .map_err(|_| SessionError::TcpTimedOut(config.limits.connect))?
            .map_err(SessionError::Tcp)?;
        let local = tcp.local_addr().map_err(SessionError::Tcp)?.ip();
        let name = server_name(target.sni.as_deref(), via.ip());
        let stream = tokio::time::timeout(config.limits.handshake, tls.connect(name, tcp))
            .await
            .map_err(|_| SessionError::TlsTimedOut(config.limits.handshake))?
            .map_err(handshake_error)?;
        let mut stream = MessageStream::new(stream);

        let client_spi = Spi::from_random(random_u32());
        let proposal = ClientMessage::Connect(Connect {
            session_id: target.session_id.0,
            connect_tag: target.connect_tag.expose().into(),
            client_spi: client_spi.get(),
            transport_header: config.transport_header,
            ciphers: config.ciphers.clone(),
            mtu: config.mtu,
            load: config.load,
        });
        stream.send(&proposal).await.map_err(SessionError::Send)?;
        let answer = tokio::time::timeout(config.limits.signalling, stream.receive())
            .await
            .map_err(|_| SessionError::SignallingTimedOut(config.limits.signalling))?;
        let accepted = match received(answer)? {
            AgentMessage::Accepted(accepted) => accepted,
            AgentMessage::Refused(refused) => return Err(SessionError::Refused(refused.reason)),
            AgentMessage::Bye(bye) => return Err(SessionError::Bye(bye.reason)),
            AgentMessage::Stopped(_) => return Err(SessionError::OutOfOrder),
        };
        let agent_spi = Spi::new(accepted.agent_spi).ok_or(SessionError::OutOfOrder)?;
        let agreed = config.ciphers.contains(&accepted.cipher)
            && (config.transport_header || !accepted.transport_header)
            && MTU_RANGE.contains(&accepted.mtu)
            && accepted.mtu <= config.mtu;
        if !agreed {
            return Err(SessionError::OutOfOrder);
        }
        let context = KeyContext {
            session_id: target.session_id.0,
            client_spi,
            agent_spi,
        };
        let keys = SessionKeys::derive(accepted.cipher, context, |out, label, context| {
            let (_, tls) = stream.get_ref().get_ref();
            tls.export_keying_material(out, label, Some(context))
                .map(|_| ())
        })
        .map_err(SessionError::Keys)?;
        // From the same local address as TCP: a gateway ties the two together by it.
        let udp = socket::udp(SocketAddr::new(local, 0)).map_err(SessionError::UdpSocket)?;
        udp.connect(via).await.map_err(SessionError::UdpSocket)?;
        let flow = ClientFlow::new(
            Terms::new(accepted.transport_header, accepted.mtu, via.ip()),
            &keys,
            client_spi,
            agent_spi,
            config.load,
            config.limits.invite_every,
            Instant::now(),
        );
        Ok(Self {
            session: Session {
                stream,
                udp,
                flow,
                limits: config.limits.clone(),
                via,
                refused: false,
                datagram: vec![0; DATAGRAM_BYTES],
                packet: Vec::with_capacity(DATAGRAM_BYTES),
            },
            accepted,
        })
    }

    /// The terms the agent accepted.
    #[must_use]
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// Address and port of the session.
    #[must_use]
    pub fn via(&self) -> SocketAddr {
        self.session.via
    }

    /// Sends invites over UDP until one is answered.
    ///
    /// # Errors
    /// [`SessionError::NoUdp`] when none is; otherwise whatever befell the signalling connection.
    pub async fn invite(self) -> Result<Session, SessionError> {
        let mut session = self.session;
        let within = session.limits.invite;
        match session.pump(Instant::now() + within).await? {
            Pumped::Opened => Ok(session),
            Pumped::Deadline => {
                let error = SessionError::NoUdp {
                    invites: session.flow.invites(),
                    within,
                    refused: session.refused,
                };
                // The agent need not wait for a client that has given up.
                session.bye().await;
                Err(error)
            }
            Pumped::Message(message) => Err(unasked(&message)),
        }
    }
}

impl Session {
    /// Streams both ways for `span`.
    ///
    /// # Errors
    /// When the session ends before.
    pub async fn stream(&mut self, span: Duration) -> Result<(), SessionError> {
        let end = Instant::now() + span;
        loop {
            match self.pump(end).await? {
                Pumped::Deadline => return Ok(()),
                Pumped::Opened => {}
                Pumped::Message(message) => return Err(unasked(&message)),
            }
        }
    }

    /// Has both ends stop sending, and compares what each sent with what the other received.
    ///
    /// # Errors
    /// When the agent gives no account.
    pub async fn stop(&mut self) -> Result<Account, SessionError> {
        let sent = self.flow.stop();
        self.stream
            .send(&ClientMessage::Stop(Stop { sent }))
            .await
            .map_err(SessionError::Send)?;
        let agent = match self.pump(Instant::now() + STOP).await? {
            Pumped::Message(AgentMessage::Stopped(stopped)) => stopped,
            Pumped::Message(message) => return Err(unasked(&message)),
            Pumped::Deadline | Pumped::Opened => {
                return Err(SessionError::SignallingTimedOut(STOP));
            }
        };
        let settled = Instant::now() + self.limits.settle;
        while self.flow.received().packets < agent.sent {
            let step = settled.min(Instant::now() + SETTLE_STEP);
            match self.pump(step).await? {
                Pumped::Deadline if step == settled => break,
                Pumped::Deadline | Pumped::Opened => {}
                Pumped::Message(message) => return Err(unasked(&message)),
            }
        }
        Ok(Account {
            agent,
            sent,
            received: self.flow.received(),
        })
    }

    /// Says good-bye and waits, for a moment, until the agent has closed too: by then it has let go of everything.
    pub async fn bye(mut self) {
        let bye = Bye {
            reason: ByeReason::Done,
        };
        if self.stream.send(&ClientMessage::Bye(bye)).await.is_ok() {
            self.stream.close_after_peer().await;
        }
    }

    pub(crate) fn flow(&self) -> &ClientFlow {
        &self.flow
    }

    /// Sends and receives until the deadline, the flow's opening, or a message.
    async fn pump(&mut self, deadline: Instant) -> Result<Pumped, SessionError> {
        loop {
            let more = self.transmit().await;
            let now = Instant::now();
            let silent_at = self.flow.last_heard() + self.limits.silence;
            if now >= silent_at {
                return Err(SessionError::Silent(self.limits.silence));
            }
            if now >= deadline {
                return Ok(Pumped::Deadline);
            }
            let mut wake_at = deadline.min(silent_at);
            if let Some(next) = self.flow.poll_timeout() {
                wake_at = wake_at.min(next);
            }
            if more {
                wake_at = now;
            }
            tokio::select! {
                message = self.stream.receive() => {
                    return received(message).map(Pumped::Message);
                }
                taken = self.udp.recv(&mut self.datagram) => {
                    if self.take(taken) {
                        return Ok(Pumped::Opened);
                    }
                }
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
    }

    /// Sends what is due, up to [`BURST`] packets. Returns whether more may be due.
    async fn transmit(&mut self) -> bool {
        for _ in 0..BURST {
            if !self.flow.poll_transmit(Instant::now(), &mut self.packet) {
                return false;
            }
            // A packet the system refuses to send is a lost packet like any other; a refusal by the peer's host is noted.
            if let Err(error) = self.udp.send(&self.packet).await {
                self.note(&error);
            }
        }
        true
    }

    /// Takes a datagram and those that wait behind it, up to [`BURST`]. Returns whether the flow was opened.
    fn take(&mut self, first: io::Result<usize>) -> bool {
        let mut opened = self.take_one(first);
        for _ in 1..BURST {
            match self.udp.try_recv(&mut self.datagram) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                taken => opened |= self.take_one(taken),
            }
        }
        opened
    }

    fn take_one(&mut self, taken: io::Result<usize>) -> bool {
        match taken {
            Ok(length) => {
                let datagram = self.datagram.get_mut(..length).unwrap_or_default();
                self.flow.handle_datagram(datagram, Instant::now())
            }
            Err(error) => {
                self.note(&error);
                false
            }
        }
    }

    fn note(&mut self, error: &io::Error) {
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
    }
}

/// How often a stopping client looks whether everything has come.
const SETTLE_STEP: Duration = Duration::from_millis(5);

fn received(
    message: Result<Option<AgentMessage>, ReceiveError>,
) -> Result<AgentMessage, SessionError> {
    match message {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(SessionError::Closed),
        Err(error) => Err(SessionError::Receive(error)),
    }
}

/// What a message means that came when none was expected.
fn unasked(message: &AgentMessage) -> SessionError {
    match message {
        AgentMessage::Bye(bye) => SessionError::Bye(bye.reason),
        AgentMessage::Accepted(_) | AgentMessage::Refused(_) | AgentMessage::Stopped(_) => {
            SessionError::OutOfOrder
        }
    }
}

async fn resolve(
    target: &SessionTarget,
    config: &ClientConfig,
) -> Result<SocketAddr, SessionError> {
    if let Ok(address) = target.address.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, target.port));
    }
    let unknown = || SessionError::Resolve {
        host: target.address.chars().take(100).collect(),
    };
    let looked_up = tokio::net::lookup_host((target.address.as_str(), target.port));
    let mut addresses = tokio::time::timeout(config.limits.connect, looked_up)
        .await
        .map_err(|_| unknown())?
        .map_err(|_| unknown())?;
    addresses.next().ok_or_else(unknown)
}

fn tls(target: &SessionTarget, config: &ClientConfig) -> Result<TlsConnector, SessionError> {
    let trust = match &config.agent_certificate {
        AgentCertificate::FromConnectTag => {
            let certificate =
                tag::certificate(&target.connect_tag).ok_or(SessionError::TagWithoutCertificate)?;
            Trust::Pinned(vec![certificate])
        }
        AgentCertificate::Trust(trust) => trust.clone(),
    };
    trust
        .client_config(None)
        .map(TlsConnector::from)
        .map_err(SessionError::Policy)
}

async fn tcp(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The name for the ClientHello; the address, which is never sent, when there is no DNS name to send.
fn server_name(sni: Option<&str>, address: IpAddr) -> ServerName<'static> {
    sni.and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or_else(|| ServerName::IpAddress(address.into()))
}

fn handshake_error(error: io::Error) -> SessionError {
    let of_certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
    if of_certificate {
        SessionError::Certificate(error)
    } else {
        SessionError::Tls(error)
    }
}

fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the SPI is merely predictable; the keys do not depend on it alone.
    let _ = getrandom::fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_names_go_into_the_client_hello() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        for name in ["ws-17", "SAL-W7P64-SA15", "s1.desk.example"] {
            let sent = server_name(Some(name), address);
            assert!(matches!(sent, ServerName::DnsName(_)), "{name}");
        }
        for name in [
            None,
            Some(""),
            Some("two words"),
            Some("192.0.2.1"),
            Some("::1"),
        ] {
            let sent = server_name(name, address);
            assert!(matches!(sent, ServerName::IpAddress(_)), "{name:?}");
        }
    }
}
