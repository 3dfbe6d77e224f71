//! Opening sessions through a relay.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{setsockopt, sockopt},
};
use socket2::{Domain, Socket, Type};
use thiserror::Error;

use super::{End, LoadGenerator, Session, hello::client_hello};

/// Most sessions: each takes up to four descriptors here, and ports of one loopback address at the relay.
pub const MAX_SESSIONS: u16 = 10_000;
/// How long each step of opening a session may take.
const STEP: Duration = Duration::from_secs(5);
/// How long a first datagram is waited for before it is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// Receive buffer asked for, in bytes. Many sockets share the machine; bursts of a session are smaller than this.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Descriptors of a session, both ends.
const DESCRIPTORS: u64 = 4;
/// Descriptors for everything else.
const OTHER_DESCRIPTORS: u64 = 256;
/// What the first datagram up and its answer hold.
const GREETING: [u8; 64] = [0x77; 64];

/// Why sessions could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A socket of ours.
    #[error("cannot open the sockets of session {session}")]
    Socket {
        /// Counted from 0.
        session: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The control connection.
    #[error("the control connection of session {session} did not come through")]
    Control {
        /// Counted from 0.
        session: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The datagrams.
    #[error("the datagrams of session {session} did not come through")]
    Datagrams {
        /// Counted from 0.
        session: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The limit on open files.
    #[error("this process may not have {wanted} open files, at most {limit}")]
    Descriptors {
        /// How many are needed.
        wanted: u64,
        /// The hard limit.
        limit: u64,
    },
}

/// The agents' sockets, from before their addresses are told to a relay.
#[derive(Debug)]
pub struct AgentSide {
    control: TcpListener,
    datagrams: Vec<UdpSocket>,
}

impl AgentSide {
    /// One TCP port for all agents and a UDP port for each, on 127.0.0.1. Raises this process's limit on open files where it has to,
    /// by what `held` other descriptors take.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(sessions: u16, held: u64) -> Result<Self, OpenError> {
        let sessions = sessions.min(MAX_SESSIONS);
        allow_descriptors(u64::from(sessions) * DESCRIPTORS + OTHER_DESCRIPTORS + held)?;
        let failed = |session| move |source| OpenError::Socket { session, source };
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed(0))?;
        let datagrams = (0..usize::from(sessions))
            .map(|session| udp(Ipv4Addr::LOCALHOST).map_err(failed(session)))
            .collect::<Result<_, _>>()?;
        Ok(Self { control, datagrams })
    }

    /// The TCP port control connections are to come to.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn control_port(&self) -> io::Result<u16> {
        Ok(self.control.local_addr()?.port())
    }

    /// The UDP port of each session's agent.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ports(&self) -> io::Result<Vec<u16>> {
        self.datagrams
            .iter()
            .map(|socket| Ok(socket.local_addr()?.port()))
            .collect()
    }
}

impl LoadGenerator {
    /// The address a session's client comes from.
    #[must_use]
    pub fn client_address(session: u16) -> Ipv4Addr {
        let [high, low] = session.to_be_bytes();
        Ipv4Addr::new(127, 2, high, low)
    }

    /// The server name a session's ClientHello sends.
    #[must_use]
    pub fn server_name(session: u16) -> String {
        format!("s-{session}.bench.invalid")
    }

    /// Opens every session through a relay, one after the other: the control connection, if the relay takes one, then a datagram
    /// each way.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(agents: AgentSide, relay: SocketAddr, control: bool) -> Result<Self, OpenError> {
        let AgentSide {
            control: listener,
            datagrams,
        } = agents;
        let mut sessions = Vec::with_capacity(datagrams.len());
        for (index, agent) in (0..u16::MAX).zip(datagrams) {
            let session = usize::from(index);
            let control = control
                .then(|| connect(index, relay, &listener))
                .transpose()
                .map_err(|source| OpenError::Control { session, source })?;
            let client = udp(Self::client_address(index))
                .map_err(|source| OpenError::Socket { session, source })?;
            greet(&client, &agent, relay)
                .map_err(|source| OpenError::Datagrams { session, source })?;
            sessions.push(Session {
                client: End::new(client),
                agent: End::new(agent),
                _control: control,
                down_since_up: 0,
            });
        }
        Ok(Self {
            sessions,
            start: Instant::now(),
            turn: 0,
        })
    }
}

/// A control connection through the relay, both ends of it.
fn connect(
    session: u16,
    relay: SocketAddr,
    listener: &TcpListener,
) -> io::Result<(TcpStream, TcpStream)> {
    let hello = client_hello(&LoadGenerator::server_name(session))
        .ok_or_else(|| io::Error::other("the server name is too long"))?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((LoadGenerator::client_address(session), 0)).into())?;
    socket.connect_timeout(&relay.into(), STEP)?;
    let mut client = TcpStream::from(socket);
    client.write_all(&hello)?;
    let mut agent = accept(listener)?;
    agent.set_read_timeout(Some(STEP))?;
    let mut seen = vec![0; hello.len()];
    agent.read_exact(&mut seen)?;
    if seen != hello {
        return Err(io::Error::other("the relay changed the ClientHello"));
    }
    Ok((client, agent))
}

/// Takes a connection, which must come within [`STEP`].
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + STEP;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_micros(100));
            }
            Err(error) => return Err(error),
        }
    }
}

/// A datagram up, which tells the agent's socket whom to answer, and one down.
fn greet(client: &UdpSocket, agent: &UdpSocket, relay: SocketAddr) -> io::Result<()> {
    client.connect(relay)?;
    for socket in [client, agent] {
        socket.set_read_timeout(Some(AGAIN))?;
    }
    let until = Instant::now() + STEP;
    let mut buffer = [0; 2048];
    loop {
        client.send(&GREETING)?;
        let peer = agent.recv_from(&mut buffer).map(|(_, peer)| peer);
        let answered = peer.and_then(|peer| {
            agent.connect(peer)?;
            agent.send(&GREETING)?;
            client.recv(&mut buffer)
        });
        match answered {
            Ok(_) => break,
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => {}
        }
    }
    client.set_nonblocking(true)?;
    agent.set_nonblocking(true)
}

/// A bound UDP socket that takes trains of packets whole.
fn udp(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // The system may grant less.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    let socket = UdpSocket::from(socket);
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    Ok(socket)
}

fn allow_descriptors(wanted: u64) -> Result<(), OpenError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    if soft >= wanted {
        return Ok(());
    }
    // Root may raise the hard limit too.
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).map_err(|_| {
        OpenError::Descriptors {
            wanted,
            limit: hard,
        }
    })
}
