//! The thread with real sockets; sessions are admitted without a control connection.

use std::net::{Ipv4Addr, SocketAddr};

use portcullis_protocol::LogId;

use super::*;
use crate::{
    core::{AgentEndpoint, GrantRequest},
    relay::{GatewayConfig, SecurityGateway, Upstream, upstream},
};

const PATIENCE: Duration = Duration::from_secs(20);
const MODES: [Upstream; 2] = [Upstream::Fixed(0), Upstream::Ephemeral];

struct Site {
    shared: Arc<Shared>,
    clients_port: u16,
    _worker: Worker,
}

struct Pair {
    client: UdpSocket,
    agent: UdpSocket,
    /// Where the client sends to.
    gateway: SocketAddr,
    /// Where the agent answers to.
    upstream: SocketAddr,
}

fn socket(last: u8, third: u8) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, third, last), 0)).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket
}

impl Site {
    async fn start(upstream: Upstream, listen: Ipv4Addr) -> Self {
        let gateway = SecurityGateway::bind(GatewayConfig {
            tcp_listen: (listen, 0).into(),
            udp_listen: (listen, 0).into(),
            public_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            upstream,
            ..GatewayConfig::default()
        })
        .await
        .expect("bound");
        let shared = Arc::clone(&gateway.shared);
        Self {
            _worker: Worker::start(&shared).expect("started"),
            clients_port: gateway.udp_address().port(),
            shared,
        }
    }

    /// A session whose client has sent its first datagram, to this address of the gateway.
    fn pair(&self, number: u8, gateway: Ipv4Addr) -> Pair {
        let (client, agent) = (socket(number, 6), socket(number, 7));
        let at = agent.local_addr().expect("address");
        let endpoint = AgentEndpoint {
            ip: at.ip(),
            tcp_port: 4172,
            udp_port: at.port(),
        };
        let here = client.local_addr().expect("address");
        let request = GrantRequest {
            log_id: LogId::random(),
            client: here.ip(),
            server_name: None,
            agent: endpoint,
            user: "ada".to_owned(),
            desktop: "desk".to_owned(),
        };
        self.shared
            .with(|core, now| core.authorize(request, now))
            .expect("granted");
        let admitted = self.shared.admit(here, None).expect("admitted");
        let session = admitted.admission.session;
        upstream::open_for(&self.shared, session, endpoint).expect("opened");
        let gateway = SocketAddr::from((gateway, self.clients_port));
        client.send_to(&noise(100, 1), gateway).expect("sent");
        let (got, upstream) = receive(&agent);
        assert!(got == noise(100, 1));
        Pair {
            client,
            agent,
            gateway,
            upstream,
        }
    }
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 4096];
    let (length, from) = socket.recv_from(&mut buffer).expect("received");
    buffer.truncate(length);
    (buffer, from)
}

/// Waits for the next message and returns it with its bytes, as the kernel hands it to the relay.
fn receive_with_details(socket: &UdpSocket) -> (Message, Vec<u8>) {
    socket.peek_from(&mut [0; 1]).expect("received");
    let mut receiver = Receiver::new();
    receiver.receive(socket).expect("received");
    let message = receiver.messages().next().expect("a message");
    let bytes = payload(
        receiver.buffer(),
        Piece {
            start: message.start,
            length: message.length,
        },
    );
    (message, bytes.to_vec())
}

/// Sends bytes as datagrams of one size, the last shorter, in one piece.
fn send_together(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], segment: u16, tos: u8) {
    let run = Run {
        to: Some(to),
        ipv4: true,
        local: None,
        tos,
        segment,
        segments: bytes.len().div_ceil(segment.into()),
        pieces: 1,
    };
    let all = Piece {
        start: 0,
        length: bytes.len(),
    };
    assert_eq!(
        Sender::new()
            .send(socket, bytes, &[run], &[all])
            .expect("sent"),
        1
    );
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
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

#[tokio::test]
async fn what_comes_in_one_piece_arrives_as_it_was_datagram_by_datagram() {
    for mode in MODES {
        let site = Site::start(mode, Ipv4Addr::LOCALHOST).await;
        let pair = site.pair(1, Ipv4Addr::LOCALHOST);
        for (segment, length) in [
            (12, 700),
            (100, 1_050),
            (1_200, 16 * 1_200),
            (1_472, 44 * 1_472),
            (900, 910),
            (333, 999),
        ] {
            let seed = u32::from(segment);
            let (up, down) = (noise(length, seed), noise(length, seed + 1));
            // A last one too short to be a PCoIP packet is dropped.
            let whole = |bytes: &[u8]| -> Vec<Vec<u8>> {
                bytes
                    .chunks(segment.into())
                    .filter(|part| part.len() >= 12)
                    .map(<[u8]>::to_vec)
                    .collect()
            };
            send_together(&pair.client, pair.gateway, &up, segment, 0);
            for expected in whole(&up) {
                let (got, from) = receive(&pair.agent);
                assert!(
                    got == expected,
                    "changed on the way to the agent, at {segment}"
                );
                assert_eq!(from, pair.upstream);
            }
            send_together(&pair.agent, pair.upstream, &down, segment, 0);
            for expected in whole(&down) {
                let (got, from) = receive(&pair.client);
                assert!(
                    got == expected,
                    "changed on the way to the client, at {segment}"
                );
                assert_eq!(from, pair.gateway);
            }
        }
    }
}

#[tokio::test]
async fn what_comes_in_one_piece_leaves_in_one_piece() {
    let site = Site::start(Upstream::Fixed(0), Ipv4Addr::LOCALHOST).await;
    let pair = site.pair(1, Ipv4Addr::LOCALHOST);
    if !sys::can_segment(&pair.client) {
        return;
    }
    sys::prepare_udp(&pair.client, false, sys::Tell::Class);
    let sent = noise(16 * 1_200 - 100, 3);
    send_together(&pair.agent, pair.upstream, &sent, 1_200, 0);
    let (message, got) = receive_with_details(&pair.client);
    assert!(got == sent);
    assert_eq!((message.length, message.segment), (sent.len(), 1_200));
    let flow = site.shared.with(|core, _| core.counters().forwarded.down);
    assert_eq!((flow.packets, flow.bytes), (16, sent.len() as u64));
}

#[tokio::test]
async fn bursts_of_many_sessions_arrive_whole_and_in_order() {
    const SESSIONS: u8 = 30;
    const SIZES: [usize; 5] = [1_200, 1_200, 400, 36, 1_472];
    for mode in MODES {
        let site = Site::start(mode, Ipv4Addr::LOCALHOST).await;
        let pairs: Vec<_> = (1..=SESSIONS)
            .map(|number| site.pair(number, Ipv4Addr::LOCALHOST))
            .collect();
        for round in 0..20 {
            let datagram = |number: usize, index: usize| {
                let seed = round * 10_000 + number * 100 + index;
                noise(SIZES[index], u32::try_from(seed).expect("small"))
            };
            for index in 0..SIZES.len() {
                for (number, pair) in pairs.iter().enumerate() {
                    let bytes = datagram(number, index);
                    pair.client.send_to(&bytes, pair.gateway).expect("sent");
                }
            }
            for (number, pair) in pairs.iter().enumerate() {
                for index in 0..SIZES.len() {
                    let expected = datagram(number, index);
                    assert!(receive(&pair.agent).0 == expected);
                    pair.agent.send_to(&expected, pair.upstream).expect("sent");
                }
            }
            for (number, pair) in pairs.iter().enumerate() {
                for index in 0..SIZES.len() {
                    assert_eq!(
                        receive(&pair.client),
                        (datagram(number, index), pair.gateway)
                    );
                }
            }
        }
        let dropped = site.shared.with(|core, _| core.counters().dropped.total());
        assert_eq!(dropped, 0);
    }
}

#[tokio::test]
async fn the_traffic_class_passes_both_ways() {
    for mode in MODES {
        let site = Site::start(mode, Ipv4Addr::LOCALHOST).await;
        let pair = site.pair(1, Ipv4Addr::LOCALHOST);
        for socket in [&pair.client, &pair.agent] {
            sys::prepare_udp(socket, false, sys::Tell::Class);
        }
        for tos in [0xb8, 0, 0x68] {
            send_together(&pair.client, pair.gateway, &noise(100, 1), 100, tos);
            assert_eq!(receive_with_details(&pair.agent).0.tos, tos);
            send_together(&pair.agent, pair.upstream, &noise(3_000, 2), 1_000, tos);
            assert_eq!(receive_with_details(&pair.client).0.tos, tos);
        }
    }
}

#[tokio::test]
async fn answers_leave_from_the_address_the_client_sent_to() {
    let site = Site::start(Upstream::Fixed(0), Ipv4Addr::UNSPECIFIED).await;
    let pairs = [
        site.pair(1, Ipv4Addr::new(127, 0, 0, 9)),
        site.pair(2, Ipv4Addr::new(127, 0, 0, 10)),
    ];
    for pair in &pairs {
        pair.agent
            .send_to(&noise(50, 1), pair.upstream)
            .expect("sent");
        assert_eq!(receive(&pair.client), (noise(50, 1), pair.gateway));
    }
    // The client turns to another address of the gateway.
    let other = SocketAddr::from(([127, 0, 0, 11], site.clients_port));
    pairs[0].client.send_to(&noise(50, 2), other).expect("sent");
    receive(&pairs[0].agent);
    pairs[0]
        .agent
        .send_to(&noise(50, 3), pairs[0].upstream)
        .expect("sent");
    assert_eq!(receive(&pairs[0].client), (noise(50, 3), other));
}

#[test]
fn what_is_refused_together_is_sent_one_by_one() {
    let (from, to) = (socket(1, 8), socket(2, 8));
    // The kernel refuses to cut what it may not checksum.
    sys::set_option(&from, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("set");
    let session = SessionKey::from_raw(1);
    let way = Way {
        session,
        to: to.local_addr().expect("address"),
        local: None,
        tos: 0,
    };
    let bytes = noise(5_000, 1);
    let mut runs = Runs::new(8, false, true);
    for (start, length) in [
        (0, 1_000),
        (1_000, 1_000),
        (2_100, 1_000),
        (3_200, 500),
        (4_000, 1_000),
    ] {
        runs.add(way, Piece { start, length });
    }
    assert_eq!(runs.runs().len(), 2);
    let mut outlet = Outlet {
        sender: Sender::new(),
        segmentation: true,
    };
    let refused = outlet
        .sender
        .send(&from, &bytes, runs.runs(), runs.pieces());
    assert!(refused.is_err(), "nothing to recover from");
    let troubles = Troubles::default();
    outlet.send(&bytes, &mut runs, &troubles, |_, _| Some(&from));
    for expected in [
        0..1_000,
        1_000..2_000,
        2_100..3_100,
        3_200..3_700,
        4_000..5_000,
    ] {
        assert!(receive(&to).0 == bytes[expected]);
    }
    assert!(troubles.counts().all(|(_, count)| count == 0));
}

#[test]
fn what_cannot_be_sent_is_counted_and_does_not_hold_up_the_rest() {
    let (from, to) = (socket(1, 9), socket(2, 9));
    let bytes = noise(3_000, 1);
    let mut runs = Runs::new(8, false, true);
    let reachable = to.local_addr().expect("address");
    // Port 0 is refused by the kernel.
    for (index, port) in [reachable.port(), 0, reachable.port()]
        .into_iter()
        .enumerate()
    {
        let way = Way {
            session: SessionKey::from_raw(1),
            to: SocketAddr::new(reachable.ip(), port),
            local: None,
            tos: 0,
        };
        runs.add(
            way,
            Piece {
                start: index * 1_000,
                length: 1_000,
            },
        );
    }
    let mut outlet = Outlet {
        sender: Sender::new(),
        segmentation: true,
    };
    let troubles = Troubles::default();
    outlet.send(&bytes, &mut runs, &troubles, |_, _| Some(&from));
    assert!(receive(&to).0 == bytes[..1_000]);
    assert!(receive(&to).0 == bytes[2_000..]);
    let failed: u64 = troubles.counts().map(|(_, count)| count).sum();
    assert_eq!(failed, 1);
}
