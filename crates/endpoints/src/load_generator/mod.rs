//! A load generator: many sessions' datagrams through one relay, both ends in one thread, so that one clock measures.
//!
//! Each session is an agent's UDP socket, a client's UDP socket at an address of its own in 127.0.0.0/8, and, where the relay wants one, a
//! control connection that starts with a ClientHello made by hand. What is relayed need not be understood by the relay, and the
//! relay need not be ours. A burst of equal packets leaves in one system call (UDP GSO) and is taken in one where the relay sends it as
//! one (UDP GRO).

mod hello;
mod open;
mod packet;
mod run;

use std::{
    net::{TcpStream, UdpSocket},
    time::Instant,
};

pub use open::{AgentSide, MAX_SESSIONS, OpenError};
pub use packet::STAMP_BYTES;
pub use run::{Figures, Pace, RunError, Traffic};

/// Sessions that are open through a relay. Dropped, all of its sockets close.
#[derive(Debug)]
pub struct LoadGenerator {
    sessions: Vec<Session>,
    /// What stamps count from.
    start: Instant,
    /// The session whose turn is next.
    turn: usize,
}

#[derive(Debug)]
struct Session {
    client: End,
    agent: End,
    /// Both ends of the control connection, which only has to stand.
    _control: Option<(TcpStream, TcpStream)>,
    /// Packets that went down and were not yet answered for with one up.
    down_since_up: u32,
}

/// One end of a session's datagrams.
#[derive(Debug)]
struct End {
    socket: UdpSocket,
    /// The sequence number of the last datagram that left here.
    sent: u32,
    /// The highest sequence number that came here.
    highest: u32,
}

impl End {
    const fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            sent: 0,
            highest: 0,
        }
    }
}
