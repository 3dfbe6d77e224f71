//! Sockets as the relay wants them: large buffers, no fragmentation, dead peers noticed.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::sys::{self, Tell, set_option};

/// Receive and send buffers asked for, in bytes: some 40 ms of a session at the highest rate agents allow (900 Mbit/s). The
/// kernel gives what `net.core.rmem_max` and `wmem_max` allow.
const UDP_BUFFER: usize = 4 * 1024 * 1024;
/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Silence on a control connection after which the kernel probes it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between probes; five unanswered ones end the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEPALIVE_PROBES: u32 = 5;
/// How long sent data may stay unacknowledged: as long as a client waits before it gives a session up.
const TCP_UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Listens for control connections.
pub(super) fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, Type::STREAM, Protocol::TCP)?;
    take_ipv4_too(&socket, address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Opens a UDP socket that never fragments, for both address families when the address is the unspecified IPv6 one.
pub(super) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open_udp(address)?;
    take_ipv4_too(&socket, address)?;
    let tell = if address.ip().is_unspecified() {
        Tell::ClassAndLocal
    } else {
        Tell::Class
    };
    sys::prepare_udp(&socket, address.is_ipv6(), tell);
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// The same for the address's own family only.
pub(super) fn bind_udp_one_family(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open_udp(address)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    sys::prepare_udp(&socket, address.is_ipv6(), Tell::Class);
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// Opens a UDP socket of its own for one agent, on a port the kernel chooses.
pub(super) fn connect_udp(local: IpAddr, agent: SocketAddr) -> io::Result<UdpSocket> {
    let local = SocketAddr::new(local, 0);
    let socket = open_udp(local)?;
    sys::prepare_udp(&socket, local.is_ipv6(), Tell::Class);
    socket.bind(&SockAddr::from(local))?;
    socket.connect(&SockAddr::from(agent))?;
    Ok(socket.into())
}

/// Connects to an agent, from a given address if there is one.
pub(super) async fn connect_tcp(local: Option<IpAddr>, agent: SocketAddr) -> io::Result<TcpStream> {
    let socket = if agent.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(local) = local.filter(|local| local.is_ipv4() == agent.is_ipv4()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    socket.connect(agent).await
}

/// Sets up one end of a control connection: small records go out at once, and a peer that is gone is noticed.
pub(super) fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(TCP_UNACKNOWLEDGED))
}

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Lets the unspecified IPv6 address take IPv4 too, whatever the system's default.
fn take_ipv4_too(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(())
}

fn open_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = open(address, Type::DGRAM, Protocol::UDP)?;
    // A smaller buffer is no reason to refuse service.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    never_fragment(&socket, address.is_ipv6())?;
    Ok(socket)
}

/// Sets "don't fragment" on everything the socket sends, and keeps it from believing path MTUs that anyone could forge: PCoIP
/// packets fit Ethernet, and the two ends agree on a size themselves.
fn never_fragment(socket: &Socket, ipv6: bool) -> io::Result<()> {
    set_option(
        socket,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_PROBE,
    )
    .or_else(|error| if ipv6 { Ok(()) } else { Err(error) })?;
    if ipv6 {
        set_option(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{sys::option, *};

    #[test]
    fn datagrams_are_never_fragmented() {
        let v4 = open_udp("127.0.0.1:0".parse().expect("address")).expect("bound");
        assert_eq!(
            option(&v4, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).ok(),
            Some(libc::IP_PMTUDISC_PROBE)
        );
        let v6 = open_udp("[::1]:0".parse().expect("address")).expect("bound");
        assert_eq!(
            option(&v6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER).ok(),
            Some(libc::IPV6_PMTUDISC_PROBE)
        );
    }
}
