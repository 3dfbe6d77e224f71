//! A gateway on loopback with real agents and clients. Every address of 127.0.0.0/8 is one's own, so each party has one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use portcullis_protocol::{LogId, client_hello::ServerName};
use portcullis_security_gateway::{
    AgentEndpoint, GatewayConfig, GatewayHandle, GrantRequest, SecurityGateway, Upstream,
    core::{Counters, Granted},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const GATEWAY: &str = "127.0.0.1";
pub(crate) const CLIENT: &str = "127.0.0.2";
pub(crate) const OTHER_CLIENT: &str = "127.0.0.3";

/// A running gateway.
pub(crate) struct Site {
    pub(crate) gateway: GatewayHandle,
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
    pub(crate) upstream: Vec<SocketAddr>,
    pub(crate) stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// The ports of an agent.
pub(crate) struct Agent {
    pub(crate) tcp: TcpListener,
    pub(crate) udp: UdpSocket,
    pub(crate) endpoint: AgentEndpoint,
}

pub(crate) fn config() -> GatewayConfig {
    GatewayConfig {
        tcp_listen: at(GATEWAY, 0),
        udp_listen: at(GATEWAY, 0),
        public_addresses: vec![ip(GATEWAY)],
        upstream: Upstream::Fixed(0),
        ..GatewayConfig::default()
    }
}

impl Site {
    pub(crate) async fn start(config: GatewayConfig) -> Self {
        let gateway = SecurityGateway::bind(config).await.expect("bound");
        let stop = CancellationToken::new();
        let mut site = Self {
            gateway: gateway.handle(),
            tcp: gateway.tcp_address(),
            udp: gateway.udp_address(),
            upstream: gateway.upstream_addresses().to_vec(),
            stop: stop.clone(),
            tasks: JoinSet::new(),
        };
        site.tasks.spawn(gateway.run(stop));
        site
    }

    /// Stops the gateway and waits until it has.
    pub(crate) async fn stop(mut self) -> GatewayHandle {
        self.stop.cancel();
        within(self.tasks.join_next())
            .await
            .expect("a task")
            .expect("no panic");
        self.gateway
    }

    pub(crate) fn grant(&self, client: &str, server_name: Option<&str>, agent: &Agent) -> Granted {
        self.gateway
            .authorize(request(client, server_name, agent.endpoint))
            .expect("granted")
    }

    pub(crate) fn counters(&self) -> Counters {
        self.gateway.metrics().counters()
    }

    /// Waits until the gateway has counted what is asked for.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("waited in vain for: {what}; {:?}", self.counters());
        }
    }

    /// Connects from a client's address.
    pub(crate) async fn connect(&self, client: &str) -> TcpStream {
        let socket = if self.tcp.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .expect("a socket");
        socket.bind(at(client, 0)).expect("bound");
        within(socket.connect(self.tcp)).await.expect("connected")
    }

    /// Connects and sends a ClientHello; returns the connection and what was sent.
    pub(crate) async fn greet(
        &self,
        client: &str,
        server_name: Option<&str>,
    ) -> (TcpStream, Vec<u8>) {
        let mut stream = self.connect(client).await;
        let hello = client_hello(server_name);
        stream.write_all(&hello).await.expect("sent");
        (stream, hello)
    }

    /// A granted and admitted session: the client's and the agent's end of the control connection, after the ClientHello.
    pub(crate) async fn session(
        &self,
        client: &str,
        server_name: &str,
        agent: &Agent,
    ) -> (TcpStream, TcpStream) {
        self.grant(client, Some(server_name), agent);
        let (client, hello) = self.greet(client, Some(server_name)).await;
        let agent = agent.accept(&hello).await;
        (client, agent)
    }
}

impl Agent {
    pub(crate) async fn start(address: &str) -> Self {
        let tcp = TcpListener::bind(at(address, 0)).await.expect("bound");
        let udp = UdpSocket::bind(at(address, 0)).await.expect("bound");
        let endpoint = AgentEndpoint {
            ip: ip(address),
            tcp_port: tcp.local_addr().expect("address").port(),
            udp_port: udp.local_addr().expect("address").port(),
        };
        Self { tcp, udp, endpoint }
    }

    /// Takes a connection that begins with the given bytes.
    pub(crate) async fn accept(&self, hello: &[u8]) -> TcpStream {
        let (mut stream, _) = within(self.tcp.accept()).await.expect("accepted");
        assert_eq!(read(&mut stream, hello.len()).await, hello);
        stream
    }

    /// Whether no connection waits.
    pub(crate) async fn is_untouched(&self) -> bool {
        timeout(Duration::ZERO, self.tcp.accept()).await.is_err()
    }

    /// Receives one datagram.
    pub(crate) async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        receive(&self.udp).await
    }
}

pub(crate) fn request(
    client: &str,
    server_name: Option<&str>,
    agent: AgentEndpoint,
) -> GrantRequest {
    GrantRequest {
        log_id: LogId::random(),
        client: ip(client),
        server_name: server_name.map(|name| ServerName::new(name).expect("a server name")),
        agent,
        user: "ada-of-the-test".to_owned(),
        desktop: "desk".to_owned(),
    }
}

/// A real ClientHello, as rustls makes it.
pub(crate) fn client_hello(server_name: Option<&str>) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = server_name.is_some();
    let name = server_name
        .unwrap_or("unsent.example")
        .to_owned()
        .try_into()
        .expect("a server name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("TLS");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("written");
    hello
}

pub(crate) async fn udp(address: &str) -> UdpSocket {
    UdpSocket::bind(at(address, 0)).await.expect("bound")
}

pub(crate) async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 4096];
    let (length, from) = within(socket.recv_from(&mut buffer))
        .await
        .expect("received");
    buffer.truncate(length);
    (buffer, from)
}

/// Whether nothing has been received, asked of the system itself.
pub(crate) fn is_silent(socket: &UdpSocket) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    match socket2::SockRef::from(socket).recv(&mut byte) {
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

pub(crate) async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    within(stream.read_exact(&mut bytes)).await.expect("read");
    bytes
}

/// Whether the other end has closed, in order or not, without a byte before.
pub(crate) async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(within(stream.read(&mut byte)).await, Ok(0) | Err(_))
}

/// Whether the other end has reset the connection.
pub(crate) async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let outcome = within(stream.read(&mut byte)).await;
    matches!(outcome, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("in time")
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Bytes that do not repeat soon.
pub(crate) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}
