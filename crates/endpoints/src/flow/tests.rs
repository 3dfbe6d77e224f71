//! Client and agent talking over a made-up network in virtual time.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    load::{DisplayLoad, Downstream, Load, PacketLoad},
    signalling::{Cipher, keys::SessionKeys},
};

const CLIENT_SPI: Spi = Spi::from_random(0xc11e_0001);
const AGENT_SPI: Spi = Spi::from_random(0xa9e0_0001);
const INVITE_EVERY: Duration = Duration::from_millis(250);

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

struct Pair {
    client: ClientFlow,
    agent: AgentFlow,
    client_address: SocketAddr,
    now: Instant,
    one_way: Duration,
    /// Decides for each packet, by number, whether it is lost.
    lose: fn(u64) -> bool,
    packets: u64,
    largest: usize,
    /// On the way: arrival time, whether towards the agent, bytes.
    wire: Vec<(Instant, bool, Vec<u8>)>,
}

impl Pair {
    fn new(load: Load, transport_header: bool) -> Self {
        let now = Instant::now();
        let terms = Terms::new(transport_header, DEFAULT_MTU, Ipv4Addr::LOCALHOST.into());
        let keys = SessionKeys::danger_fixed(Cipher::Aes128Gcm, 3);
        Self {
            client: ClientFlow::new(terms, &keys, CLIENT_SPI, AGENT_SPI, load, INVITE_EVERY, now),
            agent: AgentFlow::new(terms, &keys, CLIENT_SPI, AGENT_SPI, load, now),
            client_address: address(50_002),
            now,
            one_way: Duration::from_millis(5),
            lose: |_| false,
            packets: 0,
            largest: 0,
            wire: Vec::new(),
        }
    }

    fn send(&mut self, to_agent: bool, packet: Vec<u8>) {
        self.packets += 1;
        self.largest = self.largest.max(packet.len());
        if !(self.lose)(self.packets) {
            self.wire.push((self.now + self.one_way, to_agent, packet));
        }
    }

    /// Delivers everything that has arrived, then sends everything that is due.
    fn step(&mut self) {
        let (arrived, wire) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, ..)| *at <= self.now);
        self.wire = wire;
        for (_, to_agent, mut packet) in arrived {
            if to_agent {
                self.agent
                    .handle_datagram(&mut packet, self.client_address, self.now);
            } else {
                self.client.handle_datagram(&mut packet, self.now);
            }
        }
        let mut out = Vec::new();
        while self.client.poll_transmit(self.now, &mut out) {
            self.send(true, out.clone());
        }
        while let Some(to) = self.agent.poll_transmit(self.now, &mut out) {
            if to == self.client_address {
                self.send(false, out.clone());
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.step();
            let next = [self.client.poll_timeout(), self.agent.poll_timeout()]
                .into_iter()
                .flatten()
                .chain(self.wire.iter().map(|(at, ..)| *at))
                .min();
            match next {
                Some(next) if next <= end => self.now = next.max(self.now),
                Some(_) | None => break,
            }
        }
        self.now = end;
    }

    fn drain(&mut self) {
        self.client.stop();
        self.agent.stop();
        self.run(Duration::from_secs(1));
    }
}

#[test]
fn a_second_of_display_carries_the_rate_that_was_asked_for() {
    let mut pair = Pair::new(Load::default(), true);
    pair.run(Duration::from_secs(10));
    pair.drain();
    let received = pair.client.received();
    assert_eq!(received.packets, pair.agent.sent());
    assert_eq!(pair.agent.received().packets, pair.client.sent());
    let kbps = received.bytes * 8 / 1000 / 10;
    assert!((9_900..11_000).contains(&kbps), "{kbps} kbit/s");
    let frames = pair.client.frames();
    assert!((299..=301).contains(&frames), "{frames} frames");
    let input = pair.client.sent();
    assert!((690..=710).contains(&input), "{input} packets up");
    assert!(pair.largest <= 1172, "{} bytes", pair.largest);
    assert_eq!(pair.client.invites(), 1);
}

#[test]
fn the_round_trip_is_measured_on_the_clients_own_clock() {
    let mut pair = Pair::new(Load::SILENT, true);
    pair.one_way = Duration::from_millis(20);
    pair.run(Duration::from_secs(2));
    let trips = pair.client.round_trips();
    assert!(trips.len() >= 15);
    let median = trips.value_at_quantile(0.5);
    assert!((39_500..41_000).contains(&median), "{median} us");
}

#[test]
fn invites_repeat_until_one_is_answered() {
    let mut pair = Pair::new(Load::SILENT, false);
    pair.lose = |packet| packet <= 3;
    pair.run(Duration::from_millis(900));
    assert_eq!(pair.client.invites(), 4);
    assert!(!pair.client.round_trips().is_empty());
}

#[test]
fn the_agent_says_nothing_before_an_invite() {
    let mut pair = Pair::new(Load::default(), true);
    pair.lose = |_| true;
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.agent.sent(), 0);
    assert_eq!(pair.agent.poll_timeout(), None);
    assert_eq!(pair.client.invites(), 13);
}

#[test]
fn a_silent_flow_is_kept_alive_every_second() {
    let mut pair = Pair::new(Load::SILENT, true);
    pair.run(Duration::from_millis(100));
    // The client's pings stop being answered once they are lost; the agent then has nothing to say but keepalives.
    pair.lose = |_| true;
    pair.run(Duration::from_secs(1));
    let before = pair.agent.sent();
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.agent.sent() - before, 10);
}

#[test]
fn loss_is_the_difference_of_what_was_sent_and_received() {
    let mut pair = Pair::new(Load::default(), true);
    pair.run(Duration::from_secs(1));
    pair.lose = |packet| packet % 10 == 0;
    pair.run(Duration::from_secs(5));
    pair.lose = |_| false;
    pair.drain();
    let sent = pair.agent.sent() + pair.client.sent();
    let received = pair.client.received().packets + pair.agent.received().packets;
    let lost = sent - received;
    let expected = pair.packets * 5 / 6 / 10;
    assert!(lost.abs_diff(expected) < expected / 5, "{lost} of {sent}");
    assert!(pair.client.highest_sequence() <= pair.agent.sent());
}

#[test]
fn the_agent_follows_a_client_whose_address_changes() {
    let mut pair = Pair::new(Load::default(), true);
    pair.run(Duration::from_secs(1));
    pair.client_address = address(50_003);
    pair.run(Duration::from_secs(1));
    let before = pair.client.received().packets;
    pair.run(Duration::from_secs(1));
    assert!(pair.client.received().packets > before + 1000);
}

#[test]
fn a_replayed_packet_moves_nothing() {
    let mut pair = Pair::new(Load::SILENT, true);
    let mut invite = Vec::new();
    assert!(pair.client.poll_transmit(pair.now, &mut invite));
    let home = pair.client_address;
    assert!(
        pair.agent
            .handle_datagram(&mut invite.clone(), home, pair.now)
    );
    assert!(
        !pair
            .agent
            .handle_datagram(&mut invite, address(1), pair.now)
    );
    let mut out = Vec::new();
    assert_eq!(pair.agent.poll_transmit(pair.now, &mut out), Some(home));
    assert_eq!(pair.agent.received().duplicated, 1);
}

#[test]
fn strangers_packets_are_counted_and_change_nothing() {
    let mut pair = Pair::new(Load::SILENT, true);
    for mut packet in [vec![], vec![0; 12], vec![0xff; 200]] {
        assert!(
            !pair
                .agent
                .handle_datagram(&mut packet, address(1), pair.now)
        );
        assert!(!pair.client.handle_datagram(&mut packet, pair.now));
    }
    assert_eq!(pair.agent.received().rejected, 3);
    assert_eq!(pair.agent.poll_timeout(), None);
}

#[test]
fn packets_over_ipv6_leave_room_for_the_longer_header() {
    let terms = Terms::new(true, 1200, std::net::Ipv6Addr::LOCALHOST.into());
    assert_eq!(terms.udp_bytes, 1152);
    let terms = Terms::new(true, 1200, Ipv4Addr::LOCALHOST.into());
    assert_eq!(terms.udp_bytes, 1172);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Without loss nothing is lost, whatever the load, and no packet is larger than agreed.
    #[test]
    fn no_load_loses_packets_by_itself(
        kbps in 0_u32..40_000,
        fps in 1_u16..=240,
        pps in 0_u32..3000,
        bytes in 0_u16..2000,
        header in any::<bool>(),
        display in any::<bool>(),
    ) {
        let packets = PacketLoad { pps, bytes };
        let down = if display {
            Downstream::Display(DisplayLoad { kbps, fps })
        } else {
            Downstream::Packets(packets)
        };
        let mut pair = Pair::new(Load { down, up: packets }, header);
        pair.run(Duration::from_secs(1));
        pair.drain();
        prop_assert_eq!(pair.client.received().packets, pair.agent.sent());
        prop_assert_eq!(pair.agent.received().packets, pair.client.sent());
        prop_assert_eq!(pair.client.received().rejected, 0);
        prop_assert!(pair.largest <= 1172);
    }
}
