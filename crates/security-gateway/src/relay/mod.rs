//! The gateway with its sockets: a thin shell around [`crate::core`].
//!
//! Tasks: one accepts control connections and owns one task for each; one sleeps until the core's next deadline. A thread relays
//! datagrams. All of them end with [`SecurityGateway::run`].

mod handle;
mod notes;
mod pass;
mod runs;
mod shared;
mod socket;
#[expect(
    unsafe_code,
    reason = "the system calls that carry many datagrams at once have no safe wrapper"
)]
mod sys;
mod tcp;
mod udp;
mod upstream;

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use handle::{FlowSummary, GatewayHandle, QualitySummary, SessionSummary};
pub(crate) use shared::Shared;

use self::{sys::Poll, tcp::TcpLimits, udp::Worker, upstream::UpstreamSockets};
use crate::core::{EndReason, Gateway, Limits, Settings, UpstreamPorts};

/// The port PCoIP uses, TCP and UDP.
pub const PCOIP_PORT: u16 = 4172;
/// The source port of datagrams to agents that firewalls expect.
pub const DEFAULT_UPSTREAM_PORT: u16 = 55_000;
/// How long a client may take to send its ClientHello, by default.
pub const DEFAULT_CLIENT_HELLO: Duration = Duration::from_secs(5);
/// How long connecting to an agent may take, by default.
pub const DEFAULT_AGENT_CONNECT: Duration = Duration::from_secs(10);
/// Connections that may wait for admission, by default.
pub const DEFAULT_UNADMITTED: usize = 1_024;
/// Connections of one address that may wait for admission, by default: an office behind one address at nine in the morning.
pub const DEFAULT_UNADMITTED_PER_ADDRESS: usize = 64;

/// How often a UDP port equal to a TCP port the kernel chose is tried for.
const PORT_ATTEMPTS: usize = 16;
/// How long closing connections may take once the gateway stops.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Which port datagrams to agents leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// This one for all sessions, so that a firewall can name it; an agent then has one session at a time. With 0 the kernel
    /// chooses it.
    Fixed(u16),
    /// One for each session, chosen by the kernel.
    Ephemeral,
}

/// How a gateway is set up.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where control connections of clients are taken.
    pub tcp_listen: SocketAddr,
    /// Where datagrams of clients are taken; with port 0, on the port of `tcp_listen`, since clients use one number for both. Answers
    /// leave from the address the client sent to.
    pub udp_listen: SocketAddr,
    /// Where clients reach this gateway from outside. The first of a client's address family is handed to it.
    pub public_addresses: Vec<IpAddr>,
    /// The port clients are told; the one listened on when `None`.
    pub public_port: Option<u16>,
    /// Which port datagrams to agents leave from.
    pub upstream: Upstream,
    /// Which local address connections and datagrams to agents leave from; the route's when `None`.
    pub upstream_address: Option<IpAddr>,
    /// How long connecting to an agent may take.
    pub agent_connect: Duration,
    /// How long a client may take to send its ClientHello.
    pub client_hello: Duration,
    /// Connections that may wait for admission.
    pub unadmitted: usize,
    /// Connections of one address that may wait for admission.
    pub unadmitted_per_address: usize,
    /// Limits of grants and sessions.
    pub limits: Limits,
}

impl Default for GatewayConfig {
    /// Port 4172 on every IPv4 address and 55000 towards agents. The public address has to be filled in.
    fn default() -> Self {
        let any = SocketAddr::from(([0, 0, 0, 0], PCOIP_PORT));
        Self {
            tcp_listen: any,
            udp_listen: any,
            public_addresses: Vec::new(),
            public_port: None,
            upstream: Upstream::Fixed(DEFAULT_UPSTREAM_PORT),
            upstream_address: None,
            agent_connect: DEFAULT_AGENT_CONNECT,
            client_hello: DEFAULT_CLIENT_HELLO,
            unadmitted: DEFAULT_UNADMITTED,
            unadmitted_per_address: DEFAULT_UNADMITTED_PER_ADDRESS,
            limits: Limits::default(),
        }
    }
}

/// Why a gateway cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// No address to hand to clients.
    #[error("no public address is named that clients could be sent to")]
    NoPublicAddress,
    /// An address no client could connect to.
    #[error("public address {address} is not one that clients could connect to")]
    UnusablePublicAddress {
        /// The address as configured.
        address: IpAddr,
    },
    /// The port for control connections.
    #[error("cannot listen for clients on TCP {address}")]
    Tcp {
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The port for datagrams of clients.
    #[error("cannot receive from clients on UDP {address}")]
    Udp {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The port for datagrams to agents.
    #[error("cannot send to agents from UDP {address}")]
    Upstream {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A gateway whose ports are open. It serves once [`SecurityGateway::run`] is polled.
#[derive(Debug)]
pub struct SecurityGateway {
    shared: Arc<Shared>,
    listener: TcpListener,
    limits: TcpLimits,
    tcp_address: SocketAddr,
    udp_address: SocketAddr,
    upstream_addresses: Vec<SocketAddr>,
}

impl SecurityGateway {
    /// Opens the ports of a gateway.
    ///
    /// # Errors
    /// See [`BindError`].
    #[expect(
        clippy::unused_async,
        reason = "sockets are registered with the runtime, which a caller of an async function certainly has"
    )]
    pub async fn bind(config: GatewayConfig) -> Result<Self, BindError> {
        check_public_addresses(&config.public_addresses)?;
        let (listener, tcp_address, clients, udp_address) =
            bind_client_ports(config.tcp_listen, config.udp_listen)?;
        let upstream = UpstreamSockets::open(config.upstream, config.upstream_address)?;
        let poll = Poll::new().map_err(|source| BindError::Udp {
            address: udp_address,
            source,
        })?;
        let upstream_addresses = upstream
            .shared()
            .into_iter()
            .flatten()
            .filter_map(|socket| socket.local_addr().ok())
            .collect();
        let core = Gateway::new(Settings {
            public_addresses: config.public_addresses,
            public_port: config.public_port.unwrap_or(tcp_address.port()),
            upstream: match config.upstream {
                Upstream::Fixed(_) => UpstreamPorts::Shared,
                Upstream::Ephemeral => UpstreamPorts::PerSession,
            },
            limits: config.limits,
        });
        Ok(Self {
            shared: Shared::new(core, clients, upstream, Arc::new(poll)),
            listener,
            limits: TcpLimits {
                client_hello: config.client_hello,
                agent_connect: config.agent_connect,
                agent_local: config.upstream_address,
                unadmitted: config.unadmitted,
                unadmitted_per_address: config.unadmitted_per_address,
            },
            tcp_address,
            udp_address,
            upstream_addresses,
        })
    }

    /// A handle to authorise clients, and to look at and end sessions, while the gateway runs.
    #[must_use]
    pub fn handle(&self) -> GatewayHandle {
        GatewayHandle::new(Arc::clone(&self.shared))
    }

    /// Where control connections are taken.
    #[must_use]
    pub const fn tcp_address(&self) -> SocketAddr {
        self.tcp_address
    }

    /// Where datagrams of clients are taken.
    #[must_use]
    pub const fn udp_address(&self) -> SocketAddr {
        self.udp_address
    }

    /// Where datagrams to agents leave from, one for each address family; empty with [`Upstream::Ephemeral`].
    #[must_use]
    pub fn upstream_addresses(&self) -> &[SocketAddr] {
        &self.upstream_addresses
    }

    /// Serves until `shutdown`; then takes no more clients, ends every session and closes its connections.
    pub async fn run(self, shutdown: CancellationToken) {
        info!(
            tcp = %self.tcp_address,
            udp = %self.udp_address,
            upstream = ?self.upstream_addresses,
            "Security Gateway ready"
        );
        let shared = self.shared;
        let stop = CancellationToken::new();
        let mut accepting = JoinSet::new();
        accepting.spawn(tcp::serve(
            Arc::clone(&shared),
            self.listener,
            self.limits,
            stop.clone(),
        ));
        let mut keeping_time = JoinSet::new();
        keeping_time.spawn(keep_time(Arc::clone(&shared)));
        let mut worker = Worker::start(&shared);

        tokio::select! {
            () = shutdown.cancelled() => {}
            () = until_ended(&mut worker) => {}
            Some(ended) = keeping_time.join_next() => {
                error!(?ended, "The task that keeps time ended before its time");
            }
            Some(ended) = accepting.join_next() => {
                error!(?ended, "The task that accepts connections ended before its time");
            }
        }
        // No grant is left to be admitted on, and none is given any more, so nothing can start behind this.
        let sessions = shared.with(|core, now| {
            core.set_draining(true);
            let sessions = core.session_count();
            core.end_all(EndReason::Shutdown, now);
            sessions
        });
        stop.cancel();
        let closing = async { while accepting.join_next().await.is_some() {} };
        if timeout(CLOSE_WITHIN, closing).await.is_err() {
            warn!("Control connections did not close in time");
        }
        accepting.shutdown().await;
        drop(worker);
        keeping_time.shutdown().await;
        info!(sessions, "Security Gateway stopped");
    }
}

/// Waits for what must not happen: that datagrams are no longer relayed.
async fn until_ended(worker: &mut io::Result<Worker>) {
    match worker {
        Ok(worker) => {
            worker.ended().await;
            error!("The thread that relays datagrams ended before its time");
        }
        Err(error) => error!(%error, "Cannot start the thread that relays datagrams"),
    }
}

/// Sleeps from one deadline of the core to the next.
async fn keep_time(shared: Arc<Shared>) {
    loop {
        let next = shared.arm();
        let deadline = async {
            match next {
                Some(at) => sleep_until(Instant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.wake.notified() => {}
            () = deadline => shared.with(|core, now| core.handle_timeout(now)),
        }
    }
}

fn check_public_addresses(addresses: &[IpAddr]) -> Result<(), BindError> {
    if addresses.is_empty() {
        return Err(BindError::NoPublicAddress);
    }
    match addresses
        .iter()
        .find(|address| address.is_unspecified() || address.is_multicast())
    {
        Some(address) => Err(BindError::UnusablePublicAddress { address: *address }),
        None => Ok(()),
    }
}

/// Opens the two ports clients use. Where the UDP port is left open it becomes the TCP port's number, and where that is left
/// open too, another pair is tried if the number is taken.
fn bind_client_ports(
    tcp: SocketAddr,
    udp: SocketAddr,
) -> Result<(TcpListener, SocketAddr, UdpSocket, SocketAddr), BindError> {
    let tcp_error = |source| BindError::Tcp {
        address: tcp,
        source,
    };
    let mut attempts = if tcp.port() == 0 && udp.port() == 0 {
        PORT_ATTEMPTS
    } else {
        1
    };
    loop {
        attempts -= 1;
        let listener = socket::listen_tcp(tcp).map_err(tcp_error)?;
        let tcp_address = listener.local_addr().map_err(tcp_error)?;
        let mut wanted = udp;
        if wanted.port() == 0 {
            wanted.set_port(tcp_address.port());
        }
        let bound = socket::bind_udp(wanted)
            .and_then(|socket| socket.local_addr().map(|address| (socket, address)));
        match bound {
            Ok((socket, udp_address)) => return Ok((listener, tcp_address, socket, udp_address)),
            Err(error) if attempts > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => {
                return Err(BindError::Udp {
                    address: wanted,
                    source,
                });
            }
        }
    }
}
