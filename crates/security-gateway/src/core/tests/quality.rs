//! What a session tells of the quality of its datagrams.

use portcullis_protocol::esp::Layout;

use super::*;

/// A datagram of 200 bytes under one layout.
pub(super) fn esp(layout: Layout, spi: u32, sequence: u32) -> Vec<u8> {
    let mut packet = match layout {
        Layout::WithTransportHeader => vec![0, 0, 0, 2],
        Layout::Bare => Vec::new(),
    };
    packet.extend(spi.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(200, 0x5a);
    packet
}

impl Bench {
    /// The client sends from a port. False when that is dropped.
    pub(super) fn client_sends(&mut self, port: u16, payload: &[u8]) -> bool {
        let from = socket(CLIENT, port);
        let verdict = self.gateway.handle_client_datagram(from, payload, self.now);
        !verdict.forwards().is_empty()
    }

    /// The agent sends. Returns where that goes.
    pub(super) fn agent_sends(&mut self, payload: &[u8]) -> Vec<SocketAddr> {
        let from = agent(1).udp();
        self.gateway
            .handle_agent_datagram(UpstreamSocket::Shared, from, payload, self.now)
            .forwards()
            .iter()
            .map(|forward| forward.to)
            .collect()
    }
}

#[test]
fn each_direction_has_its_own_counts() {
    for layout in [Layout::WithTransportHeader, Layout::Bare] {
        let mut bench = Bench::new(UpstreamPorts::Shared);
        bench.session(CLIENT, "a", agent(1));
        for sequence in 1..=1_000 {
            if sequence % 20 != 10 {
                bench.client_sends(4000, &esp(layout, 0x0101, sequence));
            }
            bench.agent_sends(&esp(layout, 0x0202, sequence));
            if sequence % 50 == 10 {
                bench.agent_sends(&esp(layout, 0x0202, sequence));
            }
        }
        let view = bench.gateway.sessions(bench.now).remove(0);
        let (up, down) = (view.quality.up.settled(), view.quality.down.settled());
        assert_eq!((up.layout, down.layout), (Some(layout), Some(layout)));
        assert_eq!((up.counts.received, up.counts.lost), (950, 50));
        assert_eq!((down.counts.received, down.counts.lost), (1_000, 0));
        assert_eq!((up.counts.duplicated, down.counts.duplicated), (0, 20));
        assert_eq!(view.flows.down.packets, 1_020);
    }
}

#[test]
fn the_end_settles_what_was_missing_and_the_node_keeps_it() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    for sequence in (1..=20).filter(|sequence| *sequence != 18) {
        bench.client_sends(4000, &esp(Layout::Bare, 0x0101, sequence));
    }
    let live = bench.gateway.sequence_totals();
    assert_eq!((live.up.received, live.up.lost), (19, 0));
    bench
        .gateway
        .end_session(session, EndReason::Administrator, bench.now);
    let Some(Event::SessionEnded { quality, .. }) = bench.gateway.poll_event() else {
        panic!("the end is told");
    };
    assert_eq!(quality.up.counts.lost, 1);
    assert_eq!(bench.gateway.sequence_totals().up, quality.up.counts);
}

#[test]
fn a_client_that_comes_back_with_another_layout_is_read_anew() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    for sequence in 1..=10 {
        bench.client_sends(4000, &esp(Layout::Bare, 0x0101, sequence));
        bench.agent_sends(&esp(Layout::Bare, 0x0202, sequence));
    }
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert!(bench.hello(CLIENT, Some("a")).expect("admitted").reattached);
    for sequence in 1..=10 {
        let layout = Layout::WithTransportHeader;
        bench.client_sends(4001, &esp(layout, 0x0303, sequence));
        bench.agent_sends(&esp(layout, 0x0404, sequence));
    }
    let quality = bench.gateway.sessions(bench.now).remove(0).quality;
    for direction in [quality.up, quality.down] {
        assert_eq!(direction.layout, Some(Layout::WithTransportHeader));
        assert_eq!(direction.counts.received, 20);
        assert_eq!(direction.settled().counts.lost, 0);
    }
}
