//! Which source takes a session over from another.

use portcullis_protocol::esp::Layout;

use super::{quality::esp, *};

const SPI: u32 = 0x00c1_1e27;
const OLD: u16 = 4000;
const NEW: u16 = 4001;

/// A session whose client has sent numbers 1 to 10 from its old port, and whose agent has answered.
fn established(layout: Layout) -> (Bench, SessionKey) {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    for sequence in 1..=10 {
        assert!(bench.client_sends(OLD, &esp(layout, SPI, sequence)));
    }
    assert_eq!(bench.agent_sends(&PACKET), [socket(CLIENT, OLD)]);
    (bench, session)
}

/// Client and agent go on for a while, with ten datagrams a second each; the client from its new port.
fn go_on(bench: &mut Bench, layout: Layout, sequences: impl IntoIterator<Item = u32>) {
    for sequence in sequences {
        assert!(bench.client_sends(NEW, &esp(layout, SPI, sequence)));
        assert!(bench.agent_sends(&PACKET).contains(&socket(CLIENT, NEW)));
        bench.pass(Duration::from_millis(100));
    }
}

fn udp_client(bench: &Bench) -> Option<SocketAddr> {
    bench.gateway.sessions(bench.now)[0].udp_client
}

#[test]
fn a_client_whose_port_changed_goes_on_without_a_loss() {
    for layout in [Layout::WithTransportHeader, Layout::Bare] {
        let (mut bench, _) = established(layout);
        assert!(bench.client_sends(NEW, &esp(layout, SPI, 11)));
        let both = [socket(CLIENT, OLD), socket(CLIENT, NEW)];
        assert_eq!(bench.agent_sends(&PACKET), both);
        go_on(&mut bench, layout, 12..=31);
        assert_eq!(udp_client(&bench), Some(both[0]));
        assert!(bench.client_sends(NEW, &esp(layout, SPI, 32)));
        assert_eq!(udp_client(&bench), Some(both[1]));
        assert_eq!(bench.agent_sends(&PACKET), [both[1]]);
        let up = bench.gateway.sessions(bench.now)[0].quality.up.settled();
        assert_eq!((up.counts.received, up.counts.lost), (32, 0));
        assert_eq!(bench.gateway.counters().rebound, 1);
        // And once more, to the old port or any other.
        assert!(bench.client_sends(OLD, &esp(layout, SPI, 33)));
        bench.gateway.checked_entries();
    }
}

#[test]
fn a_client_that_still_sends_from_its_old_port_keeps_it() {
    let (mut bench, _) = established(Layout::Bare);
    // Forged far ahead, so that the true client would look old.
    let forged: Vec<_> = (0..60)
        .map(|n| esp(Layout::Bare, SPI, 60_000 + n))
        .collect();
    for (forged, sequence) in forged.iter().zip(11..) {
        assert!(bench.client_sends(NEW, forged));
        assert!(bench.agent_sends(&PACKET).contains(&socket(CLIENT, OLD)));
        assert!(bench.client_sends(OLD, &esp(Layout::Bare, SPI, sequence)));
        assert_eq!(bench.agent_sends(&PACKET), [socket(CLIENT, OLD)]);
        bench.pass(Duration::from_millis(100));
    }
    assert_eq!(udp_client(&bench), Some(socket(CLIENT, OLD)));
    let up = bench.gateway.sessions(bench.now)[0].quality.up.settled();
    assert_eq!((up.counts.received, up.counts.lost), (70, 0));
    assert_eq!(bench.gateway.counters().rebound, 0);
}

#[test]
fn stragglers_from_the_old_port_do_not_call_a_change_off() {
    let layout = Layout::WithTransportHeader;
    let (mut bench, _) = established(layout);
    assert!(bench.client_sends(OLD, &esp(layout, SPI, 12)));
    assert!(bench.client_sends(NEW, &esp(layout, SPI, 13)));
    assert!(bench.client_sends(OLD, &esp(layout, SPI, 11)));
    go_on(&mut bench, layout, 14..=34);
    assert_eq!(udp_client(&bench), Some(socket(CLIENT, NEW)));
    let up = bench.gateway.sessions(bench.now)[0].quality.up.settled();
    assert_eq!((up.counts.received, up.counts.lost), (34, 0));
    assert_eq!(up.counts.reordered, 1);
}

#[test]
fn what_does_not_go_on_where_the_client_was_is_dropped() {
    let layout = Layout::Bare;
    let (mut bench, session) = established(layout);
    for (spi, sequence) in [
        (SPI + 1, 11),
        (SPI, 10),
        (SPI, 3),
        (SPI, 0),
        (SPI, 10 + 65_537),
    ] {
        let datagram = esp(layout, spi, sequence);
        assert!(!bench.client_sends(NEW, &datagram), "{spi:x} {sequence}");
    }
    let other_layout = esp(Layout::WithTransportHeader, SPI, 11);
    assert!(!bench.client_sends(NEW, &other_layout));
    let next = esp(layout, SPI, 11);
    let elsewhere =
        bench
            .gateway
            .handle_client_datagram(socket(OTHER_CLIENT, OLD), &next, bench.now);
    assert_eq!(elsewhere, Verdict::Drop(DropReason::UnknownSource));
    assert_eq!(bench.agent_sends(&PACKET), [socket(CLIENT, OLD)]);
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert!(!bench.client_sends(NEW, &next));
    // The farthest that is believed.
    bench.hello(CLIENT, Some("a")).expect("admitted");
    let (mut bench, _) = established(layout);
    assert!(bench.client_sends(NEW, &esp(layout, SPI, 10 + 65_536)));
}

#[test]
fn without_the_agents_answers_no_change_stands() {
    let layout = Layout::Bare;
    let (mut bench, _) = established(layout);
    for sequence in 11..=90 {
        assert!(bench.client_sends(NEW, &esp(layout, SPI, sequence)));
        bench.pass(Duration::from_millis(100));
    }
    assert_eq!(udp_client(&bench), Some(socket(CLIENT, OLD)));
    bench.pass(secs(6));
    assert_eq!(bench.agent_sends(&PACKET), [socket(CLIENT, OLD)]);
    // It is tried again as soon as the client goes on, and a third source has to wait.
    assert!(bench.client_sends(NEW, &esp(layout, SPI, 91)));
    assert!(!bench.client_sends(4002, &esp(layout, SPI, 92)));
    go_on(&mut bench, layout, 92..=112);
    assert_eq!(udp_client(&bench), Some(socket(CLIENT, NEW)));
}

#[test]
fn of_two_sessions_behind_one_address_the_right_one_is_rebound() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let mut keys = Vec::new();
    for n in 1..=2_u8 {
        let key = bench.session(CLIENT, &format!("desk-{n}"), agent(n));
        for sequence in 1..=10 {
            let from = 4000 + u16::from(n);
            let datagram = esp(Layout::Bare, SPI + u32::from(n), sequence);
            assert!(bench.client_sends(from, &datagram));
        }
        bench
            .down(UpstreamSocket::Shared, agent(n))
            .expect("forwarded");
        keys.push(key);
    }
    let datagram = esp(Layout::Bare, SPI + 2, 11);
    let verdict = bench
        .gateway
        .handle_client_datagram(socket(CLIENT, 4009), &datagram, bench.now);
    let to_second = Forward {
        session: keys[1],
        to: agent(2).udp(),
    };
    assert_eq!(verdict, Verdict::Forward(to_second));
    for key in keys {
        bench
            .gateway
            .end_session(key, EndReason::Administrator, bench.now);
    }
    bench.pass(secs(600));
    assert_eq!(bench.gateway.checked_entries(), 0);
}
