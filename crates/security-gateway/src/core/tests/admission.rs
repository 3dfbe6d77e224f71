//! Grants, and who is admitted on them.

use super::*;

#[test]
fn a_grant_tells_where_the_client_goes() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let granted = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_eq!(granted.address, ip("203.0.113.1"));
    assert_eq!(granted.port, 4172);
    assert_eq!(granted.expires_in, secs(60));
}

#[test]
fn a_grant_for_an_address_family_without_public_address_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let refused = bench.grant(request("2001:db8::7", Some("desk-1"), agent(1)));
    assert_eq!(refused, Err(GrantRefusal::AddressFamily));
    assert_eq!(bench.gateway.checked_entries(), 0);
}

#[test]
fn a_mapped_ipv4_address_is_the_ipv4_client() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(
            &format!("::ffff:{CLIENT}"),
            Some("desk-1"),
            agent(1),
        ))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    let mapped = socket(&format!("::ffff:{CLIENT}"), 4000);
    let verdict = bench
        .gateway
        .handle_client_datagram(mapped, &PACKET, bench.now);
    let forward = Forward {
        session: admission.session,
        to: agent(1).udp(),
    };
    assert_eq!(verdict, Verdict::Forward(forward));
}

#[test]
fn server_names_match_in_any_case() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("SAL-W7P64"), agent(1)))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("sal-w7p64")).expect("admitted");
    assert_eq!(admission.agent, agent(1));
    assert!(!admission.reattached);
}

#[test]
fn a_grant_without_a_name_admits_no_name_or_our_own_address_only() {
    for (sent, admitted) in [
        (None, true),
        (Some("203.0.113.1"), true),
        (Some("203.0.113.2"), false),
        (Some("desk-1"), false),
    ] {
        let mut bench = Bench::new(UpstreamPorts::Shared);
        bench
            .grant(request(CLIENT, None, agent(1)))
            .expect("granted");
        assert_eq!(bench.hello(CLIENT, sent).is_ok(), admitted, "{sent:?}");
    }
}

#[test]
fn refusals_name_their_reason() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::NoGrant)
    );
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_eq!(
        bench.hello(CLIENT, Some("desk-2")),
        Err(AdmissionRefusal::WrongServerName {
            granted: Some(name("desk-1"))
        })
    );
    assert_eq!(
        bench.hello(CLIENT, None),
        Err(AdmissionRefusal::WrongServerName {
            granted: Some(name("desk-1"))
        })
    );
    assert_eq!(
        bench.hello(OTHER_CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::WrongClientAddress {
            granted: ip(CLIENT),
            came: ip(OTHER_CLIENT),
        })
    );
    assert_eq!(bench.gateway.session_count(), 0);
    let counters = bench.gateway.counters();
    assert_eq!(counters.admissions_refused.total(), 4);
    assert_eq!(
        counters
            .admissions_refused
            .count(&AdmissionRefusal::NoGrant),
        1
    );
}

#[test]
fn a_grant_expires_whether_or_not_the_timer_ran() {
    for timer_runs in [true, false] {
        let mut bench = Bench::new(UpstreamPorts::Shared);
        bench
            .grant(request(CLIENT, Some("desk-1"), agent(1)))
            .expect("granted");
        if timer_runs {
            bench.pass(secs(60));
        } else {
            bench.now += secs(60);
        }
        assert_eq!(
            bench.hello(CLIENT, Some("desk-1")),
            Err(AdmissionRefusal::Expired)
        );
        assert!(matches!(
            bench.gateway.poll_event(),
            Some(Event::GrantExpired { .. })
        ));
        assert_eq!(bench.gateway.counters().grants_expired, 1);
        bench.pass(secs(300));
        assert_eq!(bench.gateway.checked_entries(), 0);
    }
}

#[test]
fn a_client_that_comes_just_in_time_is_admitted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    bench.pass(secs(60) - Duration::from_millis(1));
    bench.hello(CLIENT, Some("desk-1")).expect("admitted");
}

#[test]
fn a_second_connection_beside_a_live_one_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench.session(CLIENT, "desk-1", agent(1));
    assert_eq!(
        bench.hello(CLIENT, Some("desk-1")),
        Err(AdmissionRefusal::AlreadyUsed)
    );
    assert_eq!(bench.gateway.session_count(), 1);
}

#[test]
fn a_client_may_come_back_within_the_grant_window() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(50));
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!((again.session, again.reattached), (session, true));
    assert_eq!(bench.gateway.counters().reattached, 1);
}

#[test]
fn a_session_that_stood_lives_no_longer_than_the_grace() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(14));
    assert_eq!(bench.gateway.session_count(), 1);
    bench.pass(secs(1));
    assert_eq!(bench.gateway.session_count(), 0);
    assert!(bench.hello(CLIENT, Some("desk-1")).is_err());
}

#[test]
fn a_client_may_come_back_within_the_grace() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk-1", agent(1));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench.pass(secs(70));
    bench.up(CLIENT, 4000).expect("forwarded");
    bench
        .down(UpstreamSocket::Shared, agent(1))
        .expect("forwarded");
    bench.pass(secs(30));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench.pass(secs(14));
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!((again.session, again.reattached), (session, true));
    // It may bring a new UDP socket.
    bench.up(CLIENT, 4001).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Shared, agent(1)),
        Ok(socket(CLIENT, 4001))
    );
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::NoneWaiting));
}

#[test]
fn an_unreachable_agent_may_be_tried_again() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    let session = bench
        .hello(CLIENT, Some("desk-1"))
        .expect("admitted")
        .session;
    bench.gateway.handle_agent_unreachable(session, bench.now);
    let again = bench.hello(CLIENT, Some("desk-1")).expect("admitted");
    assert_eq!(again.session, session);
    bench.gateway.handle_agent_unreachable(session, bench.now);
    assert_eq!(bench.gateway.counters().agents_unreachable, 2);
    bench.pass(secs(60));
    assert_eq!(bench.ends(), [(session, EndReason::AgentUnreachable)]);
}

#[test]
fn the_same_grant_again_replaces_the_pending_one() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let first = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    bench.pass(secs(50));
    let second = bench
        .grant(request(CLIENT, Some("desk-1"), agent(1)))
        .expect("granted");
    assert_ne!(first.grant, second.grant);
    assert_eq!(bench.gateway.pending_count(), 1);
    bench.pass(secs(50));
    bench.hello(CLIENT, Some("desk-1")).expect("admitted");
}

#[test]
fn two_pending_grants_that_look_alike_are_never_guessed() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("desk"), agent(1)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("DESK"), agent(2))),
        Err(GrantRefusal::Ambiguous)
    );
    // Our own address as a name is no name.
    bench
        .grant(request(CLIENT, None, agent(1)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("203.0.113.1"), agent(2))),
        Err(GrantRefusal::Ambiguous)
    );
    // Once the first has come there is nothing to confuse.
    bench.hello(CLIENT, Some("desk")).expect("admitted");
    bench
        .grant(request(CLIENT, Some("desk"), agent(2)))
        .expect("granted");
    let second = bench.hello(CLIENT, Some("desk")).expect("admitted");
    assert_eq!(second.agent, agent(2));
}

#[test]
fn another_users_return_is_waited_for() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    let other = GrantRequest {
        user: "somebody else".to_owned(),
        ..request(CLIENT, Some("desk"), agent(2))
    };
    assert_eq!(bench.grant(other.clone()), Err(GrantRefusal::Ambiguous));
    bench.pass(secs(60));
    bench.grant(other).expect("granted");
}

#[test]
fn a_return_that_a_later_grant_makes_doubtful_is_refused() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    let other = GrantRequest {
        user: "somebody else".to_owned(),
        ..request(CLIENT, Some("desk"), agent(2))
    };
    bench.grant(other).expect("granted");
    bench.gateway.handle_tcp_closed(session, bench.now);
    assert_eq!(
        bench.hello(CLIENT, Some("desk")),
        Err(AdmissionRefusal::Ambiguous)
    );
}

#[test]
fn a_user_who_asks_for_another_desktop_gives_up_the_return() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    let session = bench.session(CLIENT, "desk", agent(1));
    bench.gateway.handle_tcp_closed(session, bench.now);
    bench
        .grant(request(CLIENT, Some("desk"), agent(2)))
        .expect("granted");
    let admission = bench.hello(CLIENT, Some("desk")).expect("admitted");
    assert_eq!(admission.agent, agent(2));
    bench.pass(secs(15));
    assert_eq!(bench.ends(), [(session, EndReason::TcpClosed)]);
}

#[test]
fn limits_of_number_are_kept() {
    let limits = Limits {
        max_sessions: 3,
        max_pending_grants: 2,
        ..Limits::default()
    };
    let mut bench = Bench::with(UpstreamPorts::Shared, limits);
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    bench
        .grant(request(CLIENT, Some("b"), agent(2)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("c"), agent(3))),
        Err(GrantRefusal::Full)
    );
    bench
        .grant(request(CLIENT, Some("b"), agent(2)))
        .expect("a replacement takes no further room");
    bench.hello(CLIENT, Some("a")).expect("admitted");
    bench.hello(CLIENT, Some("b")).expect("admitted");
    bench
        .grant(request(CLIENT, Some("c"), agent(3)))
        .expect("granted");
    assert_eq!(
        bench.grant(request(CLIENT, Some("d"), agent(4))),
        Err(GrantRefusal::Full)
    );
    bench
        .hello(CLIENT, Some("c"))
        .expect("a grant keeps a place");
}

#[test]
fn a_draining_gateway_honours_what_it_granted() {
    let mut bench = Bench::new(UpstreamPorts::Shared);
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    bench.gateway.set_draining(true);
    assert_eq!(
        bench.grant(request(CLIENT, Some("b"), agent(2))),
        Err(GrantRefusal::Draining)
    );
    bench.hello(CLIENT, Some("a")).expect("admitted");
}
