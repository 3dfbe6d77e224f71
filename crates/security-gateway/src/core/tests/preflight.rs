//! What a session tells of datagrams that do not make the whole way.

use super::*;

impl Bench {
    fn verdict(&self) -> UdpVerdict {
        self.gateway.sessions(self.now)[0].udp
    }

    /// How the oldest ended session ended.
    fn ended(&mut self) -> (EndReason, UdpVerdict) {
        let mut ends = std::iter::from_fn(|| self.gateway.poll_event());
        let found = ends.find_map(|event| match event {
            Event::SessionEnded { reason, udp, .. } => Some((reason, udp)),
            Event::GrantExpired { .. } => None,
        });
        found.expect("a session ended")
    }
}

#[test]
fn a_client_whose_udp_is_blocked_is_told_from_one_that_just_came() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.pass(Duration::from_millis(4_999));
    assert_eq!(bench.verdict(), UdpVerdict::TooSoon);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.verdict(), UdpVerdict::ClientSilent);
    // What an agent sends on its own does not show that the client's datagrams come.
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect_err("nowhere to send it");
    assert_eq!(bench.verdict(), UdpVerdict::ClientSilent);
    // The client gives up by itself, so the connection's end is the reason and the verdict says what was wrong.
    bench.pass(secs(27));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(60));
    assert_eq!(
        bench.ended(),
        (EndReason::TcpClosed, UdpVerdict::ClientSilent)
    );
    let verdicts = &bench.gateway.counters().udp_verdicts;
    assert_eq!(verdicts.count(&UdpVerdict::ClientSilent), 1);
    assert_eq!(verdicts.total(), 1);
}

#[test]
fn an_agent_that_does_not_answer_is_named() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.pass(secs(30));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(bench.verdict(), UdpVerdict::TooSoon);
    bench.pass(secs(5));
    assert_eq!(bench.verdict(), UdpVerdict::AgentSilent);
    bench.pass(secs(70));
    assert_eq!(
        bench.ended(),
        (EndReason::AgentNeverAnswered, UdpVerdict::AgentSilent)
    );
}

#[test]
fn an_answer_settles_it_for_good() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(10));
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    assert_eq!(bench.verdict(), UdpVerdict::BothWays);
    bench.pass(secs(75));
    assert_eq!(bench.ended(), (EndReason::Idle, UdpVerdict::BothWays));
}

#[test]
fn keys_that_no_agent_of_several_knows_are_not_the_clients_network() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.session(CLIENT, "b", agent(2));
    bench.up(CLIENT, 4000).expect("offered");
    bench.pass(secs(5));
    for session in bench.gateway.sessions(bench.now) {
        assert_eq!(session.udp, UdpVerdict::AgentSilent);
    }
}

#[test]
fn a_connection_that_did_not_last_says_nothing_of_udp() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.pass(secs(4));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(20));
    bench.hello(CLIENT, Some("a")).expect("admitted");
    // While the agent is being connected to, no client would send yet.
    bench.pass(secs(8));
    assert_eq!(bench.verdict(), UdpVerdict::TooSoon);
    bench.gateway.handle_agent_unreachable(session, bench.now);
    bench.pass(secs(60));
    assert_eq!(
        bench.ended(),
        (EndReason::AgentUnreachable, UdpVerdict::TooSoon)
    );
}
