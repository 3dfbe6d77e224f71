//! The sockets towards agents: one shared port, or one a session.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    BindError, Upstream,
    shared::Shared,
    socket,
    udp::{self, Side},
};
use crate::core::{AgentEndpoint, Forward, SessionKey, UpstreamSocket};

/// Sessions whose upstream socket waits to be served.
const QUEUE: usize = 64;

/// A session's upstream socket, to be received from until the session is over.
#[derive(Debug)]
pub(super) struct Opened {
    session: SessionKey,
    socket: Arc<UdpSocket>,
    session_over: CancellationToken,
}

/// Where datagrams to agents leave.
#[derive(Debug)]
pub(crate) enum UpstreamSockets {
    /// From one port, for each address family there is.
    Shared {
        v4: Option<Arc<UdpSocket>>,
        v6: Option<Arc<UdpSocket>>,
    },
    /// Each session from its own.
    PerSession {
        local: Option<IpAddr>,
        sockets: RwLock<HashMap<SessionKey, Arc<UdpSocket>>>,
        opened: mpsc::Sender<Opened>,
    },
}

impl UpstreamSockets {
    /// Opens what can be opened before there are sessions. The receiver, if any, is for [`serve`].
    pub(super) fn open(
        upstream: Upstream,
        address: Option<IpAddr>,
    ) -> Result<(Self, Option<mpsc::Receiver<Opened>>), BindError> {
        let port = match upstream {
            Upstream::Ephemeral => {
                let (opened, waiting) = mpsc::channel(QUEUE);
                let sockets = Self::PerSession {
                    local: address,
                    sockets: RwLock::default(),
                    opened,
                };
                return Ok((sockets, Some(waiting)));
            }
            Upstream::Fixed(port) => port,
        };
        let bind = |ip: IpAddr| {
            let address = SocketAddr::new(ip, port);
            socket::bind_udp_one_family(address)
                .map(Arc::new)
                .map_err(|source| BindError::Upstream { address, source })
        };
        let (v4, v6) = match address {
            Some(ip) if ip.is_ipv4() => (Some(bind(ip)?), None),
            Some(ip) => (None, Some(bind(ip)?)),
            None => {
                let v4 = bind(Ipv4Addr::UNSPECIFIED.into())?;
                let v6 = match bind(Ipv6Addr::UNSPECIFIED.into()) {
                    Ok(v6) => Some(v6),
                    Err(BindError::Upstream { source, .. }) if lacks_ipv6(&source) => None,
                    Err(error) => return Err(error),
                };
                (Some(v4), v6)
            }
        };
        Ok((Self::Shared { v4, v6 }, None))
    }

    /// The shared sockets.
    pub(super) fn shared(&self) -> Vec<Arc<UdpSocket>> {
        match self {
            Self::Shared { v4, v6 } => v4.iter().chain(v6).cloned().collect(),
            Self::PerSession { .. } => Vec::new(),
        }
    }

    /// Sends a datagram to the agent of a session.
    pub(super) fn send(&self, payload: &[u8], forward: &Forward) -> io::Result<()> {
        match self {
            Self::Shared { v4, v6 } => {
                let socket = if forward.to.is_ipv4() { v4 } else { v6 };
                match socket {
                    Some(socket) => socket::send(socket, payload, Some(forward.to)),
                    None => Err(io::Error::from_raw_os_error(libc::ENETUNREACH)),
                }
            }
            Self::PerSession { sockets, .. } => {
                let sockets = sockets.read().unwrap_or_else(PoisonError::into_inner);
                match sockets.get(&forward.session) {
                    Some(socket) => socket::send(socket, payload, None),
                    // The session ended a moment ago, or its socket could not be opened.
                    None => Err(io::Error::from_raw_os_error(libc::ENETUNREACH)),
                }
            }
        }
    }

    /// Closes what a session had to itself.
    pub(super) fn close(&self, session: SessionKey) {
        if let Self::PerSession { sockets, .. } = self {
            sockets
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&session);
        }
    }
}

/// Opens a session's own upstream socket, if sessions have their own and this one has none yet.
pub(super) async fn open_for(
    shared: &Shared,
    session: SessionKey,
    agent: AgentEndpoint,
    session_over: &CancellationToken,
) -> io::Result<()> {
    let UpstreamSockets::PerSession {
        local,
        sockets,
        opened,
    } = &shared.upstream
    else {
        return Ok(());
    };
    let known = |sockets: &RwLock<HashMap<_, _>>| {
        let sockets = sockets.read().unwrap_or_else(PoisonError::into_inner);
        sockets.contains_key(&session)
    };
    if known(sockets) {
        return Ok(());
    }
    let unspecified = if agent.ip.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let local = local
        .filter(|local| local.is_ipv4() == agent.ip.is_ipv4())
        .unwrap_or(unspecified);
    let socket = Arc::new(socket::connect_udp(local, agent.udp())?);
    let added = shared.if_alive(session, || {
        sockets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session, Arc::clone(&socket));
    });
    if added.is_some() {
        let waiting = Opened {
            session,
            socket,
            session_over: session_over.clone(),
        };
        // Fails only when the gateway stops.
        let _ = opened.send(waiting).await;
    }
    Ok(())
}

/// Receives from the sockets that sessions open, each until its session is over.
pub(super) async fn serve(shared: Arc<Shared>, mut opened: mpsc::Receiver<Opened>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            next = opened.recv() => {
                let Some(Opened { session, socket, session_over }) = next else { break };
                let shared = Arc::clone(&shared);
                tasks.spawn(async move {
                    let side = Side::Agents(UpstreamSocket::Of(session));
                    session_over
                        .run_until_cancelled(udp::receive(shared, socket, side))
                        .await
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}
