//! Control connections: accepted, read as far as the ClientHello, matched with a grant, and passed through to the agent.
//!
//! A connection that is not admitted is reset (RST), not closed in order: nothing of it stays behind on the gateway, however
//! many strangers knock.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portcullis_protocol::client_hello::{
    self, ClientHello, Progress, ReadClientHelloError, ServerName,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    notes::EarlyClose,
    pass::pass,
    shared::{Admitted, Shared},
    socket, upstream,
};
use crate::core::SessionKey;

/// Room for a ClientHello at first, in bytes; most fit.
const FIRST_READ: usize = 2048;
/// Rest after a failed accept: the usual cause is that file descriptors have run out, and only time brings some back.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The limits of control connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpLimits {
    pub(super) client_hello: Duration,
    pub(super) agent_connect: Duration,
    pub(super) agent_local: Option<IpAddr>,
    pub(super) unadmitted: usize,
    pub(super) unadmitted_per_address: usize,
}

/// Accepts until `stop`, then waits for the connections there are; end their sessions to end them.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    limits: TcpLimits,
    stop: CancellationToken,
) {
    let lobby = Arc::new(Lobby::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                    match Lobby::enter(&lobby, client.ip(), &limits) {
                        Ok(place) => {
                            let shared = Arc::clone(&shared);
                            let stop = stop.clone();
                            connections.spawn(async move {
                                handle(&shared, stream, client, place, &limits, &stop).await;
                            });
                        }
                        Err(reason) => {
                            shared.close_early(client, &reason);
                            reset(stream);
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "Cannot accept control connections");
                    sleep(ACCEPT_ERROR_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Takes one connection from its first byte to its end.
async fn handle(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    client: SocketAddr,
    place: Place,
    limits: &TcpLimits,
    stop: &CancellationToken,
) {
    let greeting = timeout(limits.client_hello, read_client_hello(&mut stream));
    let (hello, received) = match stop.run_until_cancelled(greeting).await {
        None => return reset(stream),
        Some(Ok(Ok(greeting))) => greeting,
        Some(Ok(Err(reason))) => {
            shared.close_early(client, &reason);
            return reset(stream);
        }
        Some(Err(_)) => {
            shared.close_early(client, &EarlyClose::TimedOut);
            return reset(stream);
        }
    };
    drop(place);
    let server_name = hello.server_name.as_ref();
    match shared.admit(client, server_name) {
        Ok(admitted) => {
            let pass = PassThrough::new(shared, client, admitted);
            pass.run(stream, received, server_name, limits).await;
        }
        Err(refusal) => {
            shared.log_refusal(client, server_name, &refusal);
            reset(stream);
        }
    }
}

/// Reads until the ClientHello is complete. The bytes go on to the agent as they came.
async fn read_client_hello(stream: &mut TcpStream) -> Result<(ClientHello, Vec<u8>), EarlyClose> {
    let mut received = Vec::with_capacity(FIRST_READ);
    loop {
        match stream.read_buf(&mut received).await {
            Ok(0) | Err(_) => return Err(EarlyClose::Gone),
            Ok(_) => {}
        }
        match client_hello::read(&received) {
            Ok(Progress::Complete(hello)) => return Ok((hello, received)),
            Ok(Progress::Incomplete) if received.len() <= client_hello::MAX_BYTES => {}
            Ok(Progress::Incomplete) => {
                return Err(EarlyClose::NotTls(ReadClientHelloError::TooLong));
            }
            Err(error) => return Err(EarlyClose::NotTls(error)),
        }
    }
}

/// Closes a connection with a reset.
fn reset(stream: TcpStream) {
    // If the option cannot be set, the connection closes in order instead.
    let _ = stream.set_zero_linger();
    drop(stream);
}

/// One admitted connection.
struct PassThrough<'a> {
    shared: &'a Arc<Shared>,
    client: SocketAddr,
    admitted: Admitted,
    /// Whether the core knows that this connection is over. It must be told once, and before the client can see it.
    reported: AtomicBool,
}

impl<'a> PassThrough<'a> {
    fn new(shared: &'a Arc<Shared>, client: SocketAddr, admitted: Admitted) -> Self {
        Self {
            shared,
            client,
            admitted,
            reported: AtomicBool::new(false),
        }
    }

    fn session(&self) -> SessionKey {
        self.admitted.admission.session
    }

    async fn run(
        self,
        mut stream: TcpStream,
        received: Vec<u8>,
        server_name: Option<&ServerName>,
        limits: &TcpLimits,
    ) {
        let admission = self.admitted.admission;
        info!(
            session = %admission.log_id,
            key = %admission.session,
            client = %self.client,
            server_name = server_name.map(ServerName::as_str),
            agent = %admission.agent.tcp(),
            "{}", if admission.reattached { "Session taken up again" } else { "Session started" }
        );
        let connection_over = &self.admitted.connection_over;
        let Some(outcome) = connection_over
            .run_until_cancelled(self.connect(&stream, limits))
            .await
        else {
            return;
        };
        let mut agent = match outcome {
            Ok(agent) => agent,
            Err(error) => {
                info!(
                    session = %admission.log_id,
                    agent = %admission.agent.tcp(),
                    %error,
                    "Agent took no connection"
                );
                self.reported.store(true, Ordering::Relaxed);
                self.shared
                    .with(|core, now| core.handle_agent_unreachable(admission.session, now));
                return;
            }
        };
        self.shared
            .with(|core, now| core.handle_agent_connected(admission.session, now));
        let relayed = connection_over
            .run_until_cancelled(self.relay(&mut stream, &mut agent, received))
            .await;
        self.report_closed();
        if let Some(Err(error)) = relayed {
            debug!(session = %admission.log_id, %error, "Control connection broke");
        }
    }

    async fn connect(&self, client: &TcpStream, limits: &TcpLimits) -> io::Result<TcpStream> {
        let agent = self.admitted.admission.agent;
        socket::prepare_tcp(client)?;
        upstream::open_for(self.shared, self.session(), agent)?;
        let connect = socket::connect_tcp(limits.agent_local, agent.tcp());
        let stream = timeout(limits.agent_connect, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        socket::prepare_tcp(&stream)?;
        Ok(stream)
    }

    /// Passes bytes both ways until both ends have closed. The session counts as without a connection from the first closing on,
    /// so that the client may come back even if the agent is slow to notice.
    async fn relay(
        &self,
        client: &mut TcpStream,
        agent: &mut TcpStream,
        received: Vec<u8>,
    ) -> io::Result<()> {
        let (from_client, mut to_client) = client.split();
        let (from_agent, mut to_agent) = agent.split();
        let up = async {
            to_agent.write_all(&received).await?;
            drop(received);
            pass(from_client.as_ref(), to_agent.as_ref()).await?;
            self.report_closed();
            to_agent.shutdown().await
        };
        let down = async {
            pass(from_agent.as_ref(), to_client.as_ref()).await?;
            self.report_closed();
            to_client.shutdown().await
        };
        tokio::try_join!(up, down).map(|_| ())
    }

    fn report_closed(&self) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            let session = self.session();
            self.shared
                .with(|core, now| core.handle_tcp_closed(session, now));
        }
    }
}

impl Drop for PassThrough<'_> {
    fn drop(&mut self) {
        self.report_closed();
    }
}

/// Counts the connections that wait for admission.
#[derive(Debug, Default)]
struct Lobby {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place in the lobby, given up on drop.
#[derive(Debug)]
struct Place {
    lobby: Arc<Lobby>,
    address: IpAddr,
}

impl Lobby {
    fn enter(lobby: &Arc<Self>, address: IpAddr, limits: &TcpLimits) -> Result<Place, EarlyClose> {
        let mut waiting = lobby.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.total >= limits.unadmitted {
            return Err(EarlyClose::TooMany);
        }
        let here = waiting.by_address.get(&address).copied().unwrap_or(0);
        if here >= limits.unadmitted_per_address {
            return Err(EarlyClose::TooManyFromAddress);
        }
        waiting.by_address.insert(address, here + 1);
        waiting.total += 1;
        Ok(Place {
            lobby: Arc::clone(lobby),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self
            .lobby
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.total = waiting.total.saturating_sub(1);
        if let Some(here) = waiting.by_address.get_mut(&self.address) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                waiting.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lobby_is_bounded_in_all_and_per_address() {
        let limits = TcpLimits {
            client_hello: Duration::ZERO,
            agent_connect: Duration::ZERO,
            agent_local: None,
            unadmitted: 3,
            unadmitted_per_address: 2,
        };
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let lobby = Arc::new(Lobby::default());
        let first = Lobby::enter(&lobby, address(1), &limits).expect("a place");
        let _second = Lobby::enter(&lobby, address(1), &limits).expect("a place");
        assert_eq!(
            Lobby::enter(&lobby, address(1), &limits).map(drop),
            Err(EarlyClose::TooManyFromAddress)
        );
        let third = Lobby::enter(&lobby, address(2), &limits).expect("a place");
        assert_eq!(
            Lobby::enter(&lobby, address(3), &limits).map(drop),
            Err(EarlyClose::TooMany)
        );
        drop(first);
        let fourth = Lobby::enter(&lobby, address(1), &limits).expect("a place");
        drop((third, fourth));
        let waiting = lobby.waiting.lock().expect("not poisoned");
        assert_eq!((waiting.total, waiting.by_address.len()), (1, 1));
    }
}
