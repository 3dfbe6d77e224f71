//! The reference agent: prepares sessions on TCP 60443, serves them on TCP and UDP 4172.

pub mod config;
mod connection;
mod control;
mod datagrams;
mod desk;
mod lease;
mod shared;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_https::{Fingerprint, Identity, Server, ServerLimits, identity::IssueError};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::broadcast,
};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

pub use config::{
    AgentAddresses, AgentConfig, AgentEvent, AgentStats, EndReason, Faults, LaunchFault,
    LaunchRefusal, LicensePolicy, Traffic,
};
use shared::Shared;

use crate::socket;

/// How long a stopping agent waits for good-byes and for licences to be given back.
const STOP: Duration = Duration::from_secs(15);
/// Tries to find a port that is free for TCP and UDP alike.
const PORT_TRIES: usize = 32;

/// The reference agent.
#[derive(Debug)]
pub struct Agent;

/// A running agent. Dropping it stops it too, but waits for nothing; [`AgentHandle::stop`] waits.
#[derive(Debug)]
pub struct AgentHandle {
    shared: Arc<Shared>,
    addresses: AgentAddresses,
}

/// Why an agent did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartAgentError {
    /// No listening on the control address.
    #[error("cannot listen on TCP {address} for Connection Managers")]
    Control {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No listening on the data address.
    #[error("cannot listen on TCP and UDP {address} for clients")]
    Data {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate for the agent")]
    Identity(#[source] IssueError),
}

impl Agent {
    /// Starts an agent on the current tokio runtime. When this returns, it is ready.
    ///
    /// # Errors
    /// See [`StartAgentError`].
    pub async fn start(config: AgentConfig) -> Result<AgentHandle, StartAgentError> {
        let identity = match &config.identity {
            Some(identity) => identity.clone(),
            None => self_signed(&config).map_err(StartAgentError::Identity)?,
        };
        let control = TcpListener::bind(config.control_listen).await;
        let (control, control_address) = control
            .and_then(|listener| {
                let address = listener.local_addr()?;
                Ok((listener, address))
            })
            .map_err(|source| StartAgentError::Control {
                address: config.control_listen,
                source,
            })?;
        let (signalling, udp, data_address) =
            bind_data(config.data_listen)
                .await
                .map_err(|source| StartAgentError::Data {
                    address: config.data_listen,
                    source,
                })?;
        let certificate = identity
            .chain()
            .first()
            .map_or(Fingerprint([0; 32]), Fingerprint::of);
        let refuse_signalling = config.faults.refuse_signalling;
        let shared = Arc::new(Shared::new(config, certificate, data_address, udp));

        let server = Server::new(
            control,
            Some(identity.server_config(&[b"http/1.1"])),
            ServerLimits::default(),
        );
        let router = control::router(Arc::clone(&shared));
        shared
            .tasks
            .spawn(server.serve(router, shared.shutdown.clone()));
        if !refuse_signalling {
            let tls = TlsAcceptor::from(identity.server_config(&[]));
            shared
                .tasks
                .spawn(connection::accept(Arc::clone(&shared), signalling, tls));
        }
        shared.tasks.spawn(datagrams::receive(Arc::clone(&shared)));
        shared.tasks.spawn(reap(Arc::clone(&shared)));
        info!(control = %control_address, data = %data_address, "Reference agent ready");
        Ok(AgentHandle {
            shared,
            addresses: AgentAddresses {
                control: control_address,
                data: data_address,
            },
        })
    }
}

impl AgentHandle {
    /// Where the agent listens, ports filled in.
    #[must_use]
    pub fn addresses(&self) -> AgentAddresses {
        self.addresses
    }

    /// SHA-256 of the certificate the agent shows on both its TLS servers.
    #[must_use]
    pub fn certificate(&self) -> Fingerprint {
        self.shared.certificate
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> AgentStats {
        self.shared.stats()
    }

    /// Everything that happens from now on. A listener that lags far behind misses the oldest events.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.shared.subscribe()
    }

    /// Ends every session with a good-bye, gives every licence back, closes every socket.
    pub async fn stop(self) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        let stopped = tokio::time::timeout(STOP, self.shared.tasks.wait()).await;
        if stopped.is_err() {
            warn!(
                running = self.shared.tasks.len(),
                "Reference agent stopped before its tasks did"
            );
        }
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        self.shared.shutdown.cancel();
    }
}

fn self_signed(config: &AgentConfig) -> Result<Identity, IssueError> {
    let advertised = config.advertised.unwrap_or(config.data_listen.ip());
    let mut names = vec![config.hostname.clone()];
    if !advertised.is_unspecified() {
        names.push(advertised.to_string());
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    Identity::self_signed(&names)
}

async fn bind_data(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket, SocketAddr)> {
    let tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    let mut failure = None;
    for _ in 0..tries {
        let tcp = TcpListener::bind(address).await?;
        let bound = tcp.local_addr()?;
        match socket::udp(bound) {
            Ok(udp) => return Ok((tcp, udp, bound)),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// Ends sessions whose time is up, and all of them when the agent shuts down.
async fn reap(shared: Arc<Shared>) {
    loop {
        let next = shared.poll_seat_timeout();
        let due = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.shutdown.cancelled() => break,
            () = shared.seats_changed.notified() => {}
            () = due => shared.handle_seat_timeout(Instant::now()),
        }
    }
    shared.request_end_all(EndReason::ShuttingDown);
}
