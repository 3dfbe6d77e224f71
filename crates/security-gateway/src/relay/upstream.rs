//! The sockets towards agents: one shared port, or one a session.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::{BindError, Upstream, shared::Shared, socket};
use crate::core::{AgentEndpoint, SessionKey};

/// Where datagrams to agents leave.
#[derive(Debug)]
pub(crate) enum UpstreamSockets {
    /// From one port, for each address family there is.
    Shared {
        v4: Option<UdpSocket>,
        v6: Option<UdpSocket>,
    },
    /// Each session from its own.
    PerSession {
        local: Option<IpAddr>,
        sockets: RwLock<HashMap<SessionKey, Arc<UdpSocket>>>,
    },
}

/// The sockets towards agents, for as long as it takes to send a batch.
pub(super) enum Senders<'a> {
    Shared {
        v4: Option<&'a UdpSocket>,
        v6: Option<&'a UdpSocket>,
    },
    PerSession(RwLockReadGuard<'a, HashMap<SessionKey, Arc<UdpSocket>>>),
}

impl Senders<'_> {
    /// The socket for a session whose agent has an address of this family, if there is one.
    pub(super) fn socket(&self, session: SessionKey, ipv4: bool) -> Option<&UdpSocket> {
        match self {
            Self::Shared { v4, v6 } => *(if ipv4 { v4 } else { v6 }),
            Self::PerSession(sockets) => sockets.get(&session).map(Arc::as_ref),
        }
    }
}

impl UpstreamSockets {
    /// Opens what can be opened before there are sessions.
    pub(super) fn open(upstream: Upstream, address: Option<IpAddr>) -> Result<Self, BindError> {
        let port = match upstream {
            Upstream::Ephemeral => {
                return Ok(Self::PerSession {
                    local: address,
                    sockets: RwLock::default(),
                });
            }
            Upstream::Fixed(port) => port,
        };
        let bind = |ip: IpAddr| {
            let address = SocketAddr::new(ip, port);
            socket::bind_udp_one_family(address)
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
        Ok(Self::Shared { v4, v6 })
    }

    /// The shared socket for IPv4, then the one for IPv6.
    pub(super) fn shared(&self) -> [Option<&UdpSocket>; 2] {
        match self {
            Self::Shared { v4, v6 } => [v4.as_ref(), v6.as_ref()],
            Self::PerSession { .. } => [None, None],
        }
    }

    /// A session's own socket. Nobody's when sessions share one.
    pub(super) fn of(&self, session: SessionKey) -> Option<Arc<UdpSocket>> {
        match self {
            Self::Shared { .. } => None,
            Self::PerSession { sockets, .. } => {
                let sockets = sockets.read().unwrap_or_else(PoisonError::into_inner);
                sockets.get(&session).cloned()
            }
        }
    }

    /// The sockets to send from. Sessions' own sockets cannot be opened or closed meanwhile, so the core's lock must not be taken.
    pub(super) fn senders(&self) -> Senders<'_> {
        match self {
            Self::Shared { v4, v6 } => Senders::Shared {
                v4: v4.as_ref(),
                v6: v6.as_ref(),
            },
            Self::PerSession { sockets, .. } => {
                Senders::PerSession(sockets.read().unwrap_or_else(PoisonError::into_inner))
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
pub(super) fn open_for(
    shared: &Shared,
    session: SessionKey,
    agent: AgentEndpoint,
) -> io::Result<()> {
    let UpstreamSockets::PerSession { local, sockets } = &shared.upstream else {
        return Ok(());
    };
    if shared.upstream.of(session).is_some() {
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
    shared.poll.add(&socket, session.get())?;
    // Under the lock, so that the end of the session finds it.
    shared.if_alive(session, || {
        sockets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session, socket);
    });
    Ok(())
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}
