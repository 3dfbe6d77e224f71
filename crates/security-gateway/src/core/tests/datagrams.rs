//! Which datagrams are relayed, and where.

use super::*;

#[test]
fn strangers_and_early_datagrams_are_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.hello(CLIENT, Some("a")).expect("admitted");
    assert_eq!(bench.up(OTHER_CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(bench.gateway.counters().dropped.total(), 3);
}

#[test]
fn a_bound_source_is_relayed_both_ways_and_counted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    let to_agent = Forward {
        session,
        to: agent(1).udp(),
    };
    assert_eq!(bench.up(CLIENT, 4000), Ok(vec![to_agent]));
    assert_eq!(bench.up(CLIENT, 4000), Ok(vec![to_agent]));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(2)),
        Err(DropReason::UnknownAgent)
    );
    let view = bench.gateway.sessions(bench.now).remove(0);
    assert_eq!((view.flows.up.packets, view.flows.up.bytes), (2, 80));
    assert_eq!((view.flows.down.packets, view.flows.down.bytes), (1, 40));
    assert_eq!(view.udp_client, Some(socket(CLIENT, 4000)));
    assert_eq!(bench.gateway.counters().forwarded, view.flows);
}

#[test]
fn sizes_no_pcoip_packet_has_are_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    let from = socket(CLIENT, 4000);
    for (size, verdict) in [
        (0, Some(DropReason::TooShort)),
        (11, Some(DropReason::TooShort)),
        (12, None),
        (1472, None),
        (1473, Some(DropReason::TooLong)),
    ] {
        let payload = vec![0; size];
        let up = bench
            .gateway
            .handle_client_datagram(from, &payload, bench.now);
        let dropped = match up {
            Verdict::Drop(reason) => Some(reason),
            Verdict::Forward(_) | Verdict::Offer(_) => None,
        };
        assert_eq!(dropped, verdict, "{size} bytes up");
    }
    let payload = vec![0; 1473];
    let down = bench.gateway.handle_agent_datagram(
        UpstreamSocket::Shared,
        agent(1).udp(),
        &payload,
        bench.now,
    );
    assert_eq!(down, Verdict::Drop(DropReason::TooLong));
}

#[test]
fn a_second_source_of_a_served_client_is_dropped() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(10));
    assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::NoneWaiting));
}

#[test]
fn a_source_no_agent_answers_gives_way_after_a_while() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::NoneWaiting));
    bench.pass(secs(3));
    bench.up(CLIENT, 4001).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
}

#[test]
fn the_agent_that_answers_tells_sessions_behind_one_address_apart() {
    for ports in [UpstreamPorts::Shared, UpstreamPorts::PerSession] {
        let mut bench = Bench::new(ports);
        let first = bench.session(CLIENT, "a", agent(1));
        let second = bench.session(CLIENT, "b", agent(2));
        let upstream = |key| match ports {
            UpstreamPorts::Shared => UpstreamSocket::Shared,
            UpstreamPorts::PerSession => UpstreamSocket::Of(key),
        };
        let offered = bench.up(CLIENT, 4000).expect("offered");
        let mut agents: Vec<_> = offered.iter().map(|forward| forward.to).collect();
        agents.sort();
        assert_eq!(agents, [agent(1).udp(), agent(2).udp()]);
        assert_eq!(bench.up(CLIENT, 4001), Err(DropReason::Contended));
        assert_eq!(
            bench.down(upstream(first), agent(1)),
            Ok(socket(CLIENT, 4000))
        );
        // The other session is the only one left to wait, and needs no test.
        let to_second = Forward {
            session: second,
            to: agent(2).udp(),
        };
        assert_eq!(bench.up(CLIENT, 4001), Ok(vec![to_second]));
        assert_eq!(
            bench.down(upstream(second), agent(2)),
            Ok(socket(CLIENT, 4001))
        );
        bench.pass(secs(10));
        assert_eq!(bench.gateway.trials.len(), 0);
    }
}

#[test]
fn an_answer_test_is_bounded_and_makes_room_for_others() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    for n in 1..=10 {
        bench.session(CLIENT, &format!("desk-{n}"), agent(n));
    }
    for _ in 0..16 {
        assert_eq!(bench.up(CLIENT, 4000).map(|offers| offers.len()), Ok(8));
    }
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::OfferSpent));
    bench.pass(secs(3));
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::Unanswered));
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(10)),
        Err(DropReason::NoClientYet)
    );
    bench.up(CLIENT, 4001).expect("another source has its turn");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(9)),
        Ok(socket(CLIENT, 4001))
    );
    bench.up(CLIENT, 4000).expect("tested once more");
    bench.pass(secs(6));
    assert_eq!(bench.gateway.trials.len(), 0);
}

#[test]
fn a_session_that_lost_its_connection_drops_out_of_the_answer_test() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let sessions = [1, 2, 3].map(|n| bench.session(CLIENT, &format!("desk-{n}"), agent(n)));
    assert_eq!(bench.up(CLIENT, 4000).map(|offers| offers.len()), Ok(3));
    bench.gateway.handle_tcp_closed(sessions[0], bench.now);
    let offered = bench.up(CLIENT, 4000).expect("offered");
    assert_eq!(
        offered
            .iter()
            .map(|offer| offer.session)
            .collect::<Vec<_>>(),
        [sessions[2], sessions[1]]
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(2)),
        Ok(socket(CLIENT, 4000))
    );
}

#[test]
fn an_answer_test_ends_in_time_even_when_the_timer_is_late() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "a", agent(1));
    bench.session(CLIENT, "b", agent(2));
    bench.up(CLIENT, 4000).expect("offered");
    bench.now += secs(3);
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Err(DropReason::NoClientYet)
    );
    bench.up(CLIENT, 4001).expect("another source has its turn");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
    bench.gateway.checked_entries();
}

#[test]
fn sessions_share_an_agent_when_each_has_its_own_port() {
    let mut bench = Bench::new(UpstreamPorts::PerSession);
    let one = bench.session(CLIENT, "a", agent(1));
    let two = bench.session(OTHER_CLIENT, "a", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.up(OTHER_CLIENT, 4000).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Of(one), agent(1)),
        Ok(socket(CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Of(two), agent(1)),
        Ok(socket(OTHER_CLIENT, 4000))
    );
    assert_eq!(
        bench.down(UpstreamSocket::Of(one), agent(2)),
        Err(DropReason::UnknownAgent)
    );
}

#[test]
fn without_a_control_connection_no_new_source_is_bound() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "a", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::NoneWaiting));
}
