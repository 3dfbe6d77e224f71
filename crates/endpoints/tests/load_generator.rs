//! The load generator against a relay of a few lines, which can be made to lose, repeat and swap.

#![expect(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use portcullis_endpoints::load_generator::{
    AgentSide, Figures, LoadGenerator, Pace, RunError, Traffic,
};

const SESSIONS: u16 = 3;
const TIME: Duration = Duration::from_millis(300);

#[test]
fn everything_arrives_through_a_good_relay() {
    for burst in [1, 16] {
        let figures = run(Fault::None, Pace::Window(64), burst);
        assert!(figures.offered > 0);
        assert_eq!(figures.received, figures.offered);
        assert_eq!(
            (figures.lost, figures.reordered, figures.foreign),
            (0, 0, 0)
        );
        assert_eq!(figures.latency.len(), figures.received);
        assert!(figures.received_per_second() > 0.0);
        assert!(figures.latency_us(0.5) > 0.0);
    }
}

#[test]
fn a_set_rate_is_offered_and_one_in_twenty_goes_up() {
    let figures = run(Fault::None, Pace::PerSecond(2_000), 1);
    // 600 down and 30 up; a busy machine may fall behind.
    assert!((1..=640).contains(&figures.offered), "{}", figures.offered);
    assert_eq!(figures.lost, 0);
}

#[test]
fn losses_are_counted_and_do_not_stop_the_run() {
    for pace in [Pace::Window(8), Pace::PerSecond(4_000)] {
        let figures = run(Fault::LosesEveryFourth, pace, 1);
        assert!(figures.received > 0);
        assert!(figures.lost > 0);
        assert_eq!(figures.lost, figures.offered - figures.received);
        assert!(figures.loss_percent() > 1.0, "{}", figures.loss_percent());
    }
}

#[test]
fn what_comes_of_another_session_is_foreign() {
    let figures = run(Fault::CrossesSessions, Pace::PerSecond(2_000), 1);
    // What goes up is carried where it belongs.
    assert!(figures.received * 10 < figures.offered);
    assert!(figures.foreign * 10 > figures.offered * 8);
}

#[test]
fn sizes_that_cannot_be_sent_are_refused() {
    let (relay, mut generator) = open(Fault::None);
    for (bytes, burst) in [(19, 1), (1200, 0), (1200, 65), (1472, 64)] {
        let refused = generator.run(Traffic {
            pace: Pace::Window(1),
            bytes,
            burst,
            time: TIME,
        });
        assert!(matches!(refused, Err(RunError::Size)), "{bytes} {burst}");
    }
    relay.stop();
}

fn run(fault: Fault, pace: Pace, burst: usize) -> Figures {
    let (relay, mut generator) = open(fault);
    let figures = generator
        .run(Traffic {
            pace,
            bytes: 1200,
            burst,
            time: TIME,
        })
        .unwrap();
    relay.stop();
    figures
}

fn open(fault: Fault) -> (SmallRelay, LoadGenerator) {
    let agents = AgentSide::open(SESSIONS, 0).unwrap();
    let relay = SmallRelay::start(fault, agents.ports().unwrap());
    let generator = LoadGenerator::open(agents, relay.address, false).unwrap();
    relay.opened.store(true, Ordering::Relaxed);
    (relay, generator)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    LosesEveryFourth,
    CrossesSessions,
}

/// Carries each client's datagrams to the agent of its session.
struct SmallRelay {
    address: SocketAddr,
    /// Faults start once sessions are open.
    opened: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl SmallRelay {
    fn start(fault: Fault, ports: Vec<u16>) -> Self {
        let clients = socket();
        let address = clients.local_addr().unwrap();
        let opened = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let flags = (Arc::clone(&opened), Arc::clone(&stop));
        let thread = thread::spawn(move || relay(&clients, &ports, fault, &flags.0, &flags.1));
        Self {
            address,
            opened,
            stop,
            thread,
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn relay(clients: &UdpSocket, ports: &[u16], fault: Fault, opened: &AtomicBool, stop: &AtomicBool) {
    let upstream: Vec<UdpSocket> = ports.iter().map(|_| socket()).collect();
    let mut sources: Vec<Option<SocketAddr>> = vec![None; ports.len()];
    let mut buffer = [0; 2048];
    let mut carried = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        while let Some((length, source)) = receive(clients, &mut buffer) {
            idle = false;
            let session = (0..SESSIONS)
                .position(|session| LoadGenerator::client_address(session) == source.ip())
                .unwrap();
            sources[session] = Some(source);
            let to = (Ipv4Addr::LOCALHOST, ports[session]);
            upstream[session].send_to(&buffer[..length], to).unwrap();
        }
        for (session, socket) in upstream.iter().enumerate() {
            while let Some((length, _)) = receive(socket, &mut buffer) {
                idle = false;
                carried += 1;
                let faulty = opened.load(Ordering::Relaxed);
                if faulty && fault == Fault::LosesEveryFourth && carried.is_multiple_of(4) {
                    continue;
                }
                let other = usize::from(faulty && fault == Fault::CrossesSessions);
                let to = sources[(session + other) % sources.len()].unwrap();
                clients.send_to(&buffer[..length], to).unwrap();
            }
        }
        if idle {
            thread::yield_now();
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}
