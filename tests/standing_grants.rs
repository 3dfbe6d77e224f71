//! A gateway without a Connection Manager: what a client sends comes out at the agent byte for byte, and back.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};

use crate::support::{Test, portcullis, process::Process};

/// The tests of this file.
pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "standing_grants::bytes_come_out_as_they_went_in",
        bytes_come_out_as_they_went_in,
    ),
    (
        "standing_grants::strangers_and_other_names_are_refused",
        strangers_and_other_names_are_refused,
    ),
];

/// How long anything may take. Generous: machines are busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sessions of one client address side by side.
const SESSIONS: u8 = 3;

fn bytes_come_out_as_they_went_in() -> Result<()> {
    let site = Site::start()?;
    let mut open = Vec::new();
    for session in 0..SESSIONS {
        let hello = client_hello("DESK-1.example.com")?;
        let mut client = connect(Ipv4Addr::LOCALHOST, site.gateway)?;
        client.write_all(&hello)?;
        let (mut agent, _) = site.agent_tcp.accept()?;
        agent.set_read_timeout(Some(PATIENCE))?;
        let mut seen = vec![0; hello.len()];
        agent.read_exact(&mut seen)?;
        ensure!(seen == hello, "the agent saw another ClientHello");
        agent.write_all(&[session; 64])?;
        let mut answer = [0; 64];
        client.read_exact(&mut answer)?;
        ensure!(answer == [session; 64], "the client saw other bytes");

        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        datagrams.set_read_timeout(Some(PATIENCE))?;
        datagrams.connect(site.gateway)?;
        let peer = exchange(&site, &datagrams, &[session; 40], &[session; 1472])?;
        open.push((client, agent, datagrams, peer));
    }
    for (index, (_, _, datagrams, peer)) in open.iter().enumerate() {
        let byte = u8::try_from(index)?;
        let again = exchange(&site, datagrams, &[0x80 | byte; 1200], &[byte; 12])?;
        ensure!(
            again == *peer,
            "session {index} moved from {peer} to {again}"
        );
    }
    let finished = site.process.stop()?;
    ensure!(finished.status.success(), "{}", finished.log);
    Ok(())
}

fn strangers_and_other_names_are_refused() -> Result<()> {
    let site = Site::start()?;
    for (from, name) in [
        (Ipv4Addr::new(127, 0, 0, 2), "desk-1.example.com"),
        (Ipv4Addr::LOCALHOST, "desk-2.example.com"),
    ] {
        let mut client = connect(from, site.gateway)?;
        client.write_all(&client_hello(name)?)?;
        let closed = match client.read(&mut [0; 16]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        ensure!(closed, "{name} from {from} was admitted");
    }
    site.agent_tcp.set_nonblocking(true)?;
    ensure!(
        site.agent_tcp.accept().is_err(),
        "the agent was connected to"
    );
    site.process.stop().map(drop)
}

/// A gateway of its own, and an agent that is no more than its sockets.
struct Site {
    process: Process,
    gateway: SocketAddr,
    agent_tcp: TcpListener,
    agent_udp: UdpSocket,
    _folder: tempfile::TempDir,
}

impl Site {
    fn start() -> Result<Self> {
        let agent_tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let agent_udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        agent_udp.set_read_timeout(Some(PATIENCE))?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("portcullis.toml");
        std::fs::write(
            &file,
            format!(
                "[security_gateway]\nlisten = \"127.0.0.1:0\"\npublic_addresses = [\"127.0.0.1\"]\nupstream = \"ephemeral\"\n\
                 [[security_gateway.standing_grant]]\nclient = \"127.0.0.1\"\nserver_name = \"desk-1.example.com\"\n\
                 agent = \"127.0.0.1\"\ntcp_port = {}\nudp_port = {}\ndesktop = \"desk\"\n",
                agent_tcp.local_addr()?.port(),
                agent_udp.local_addr()?.port(),
            ),
        )?;
        let mut process = Process::start(portcullis(&[
            "serve",
            "--json",
            "--config",
            &file.to_string_lossy(),
        ]))?;
        let ready = process.next_json()?;
        let gateway = ready["security_gateway"]
            .as_str()
            .with_context(|| format!("no gateway in {ready}"))?
            .parse()?;
        Ok(Self {
            process,
            gateway,
            agent_tcp,
            agent_udp,
            _folder: folder,
        })
    }
}

/// Sends a datagram up and its answer down; where the agent saw it come from.
fn exchange(site: &Site, client: &UdpSocket, up: &[u8], down: &[u8]) -> Result<SocketAddr> {
    let mut buffer = [0; 2048];
    client.send(up)?;
    let (length, peer) = site.agent_udp.recv_from(&mut buffer)?;
    ensure!(buffer.get(..length) == Some(up), "other bytes came up");
    site.agent_udp.send_to(down, peer)?;
    let length = client.recv(&mut buffer)?;
    ensure!(buffer.get(..length) == Some(down), "other bytes came down");
    Ok(peer)
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// What a TLS client says first.
fn client_hello(name: &str) -> Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), name.to_owned().try_into()?)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}
