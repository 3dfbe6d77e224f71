//! UDP sockets as both ends want them.

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Buffer asked of the system, in bytes: a few frames of a fast display. The system may grant less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Differentiated services code point AF41 in the upper six bits, as the vendor recommends for this traffic.
const TRAFFIC_CLASS: u32 = 34 << 2;

/// A bound socket, its traffic marked.
pub(crate) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    // Larger buffers and the marking are favours: without them the socket works all the same.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    let _ = match address {
        SocketAddr::V4(_) => socket.set_tos_v4(TRAFFIC_CLASS),
        SocketAddr::V6(_) => socket.set_tclass_v6(TRAFFIC_CLASS),
    };
    socket.bind(&address.into())?;
    UdpSocket::from_std(StdUdpSocket::from(socket))
}
