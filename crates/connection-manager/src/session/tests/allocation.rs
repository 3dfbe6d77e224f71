//! Allocation: what the agent and the gateway are told, and the id and the sentence of every failure.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::config::AgentAddressRule;

#[test]
fn the_agent_is_told_everything() {
    let config = ManagerConfig {
        agent_port: 61443,
        ..ManagerConfig::default()
    };
    let mut policy = config.session_policy(true);
    policy.license_path = "27000@lls".into();
    let mut bench = Bench::with(policy);
    bench.hello();
    bench.authenticate(AuthResultId::Complete);
    let facts = bench.session.client();
    bench.session.client_is(ClientFacts {
        address: ip("198.51.100.8"),
        ..facts
    });
    asked(bench.request(allocate()));
    let Step::Launch(LaunchOrder { address, request }) = bench.broker(allocated(Some(named())))
    else {
        panic!("a launch is due");
    };
    assert_eq!(address.host, AGENT);
    assert_eq!(address.port, 61443);
    assert_eq!(request.session_type, "UNSPECIFIED");
    assert_eq!(request.ip_address, AGENT);
    assert_eq!(request.hostname, "desk-1");
    assert_eq!(request.logon.method, "windows-password");
    assert_eq!(request.logon.username, "ada");
    assert_eq!(request.logon.domain, "CORP");
    assert_eq!(request.logon.password.expose_secret(), "correct horse");
    assert_eq!(request.client_mac, "AA-BB-CC-DD-EE-FF");
    assert_eq!(request.client_ip, "198.51.100.8");
    assert_eq!(request.client_name, "laptop");
    assert_eq!(request.license_path, "27000@lls");
    assert_eq!(
        request.session_log_id,
        "7cd13600-b190-1039-bfc7-1c697a6f50fb"
    );
}

#[test]
fn the_mac_of_hello_stands_in_and_a_host_name_can_be_dialled() {
    let mut bench = Bench::authenticated(true);
    asked(bench.request(Request::AllocateResource(AllocateResource {
        resource_id: "d-1".into(),
        ..AllocateResource::default()
    })));
    let target = Target {
        hostname: Some("desk-1.corp.example".into()),
        ..Target::default()
    };
    let Step::Launch(order) = bench.broker(allocated(Some(target))) else {
        panic!("a launch is due");
    };
    assert_eq!(order.request.client_mac, "00-11-22-33-44-55");
    assert_eq!(order.address.host, "desk-1.corp.example");
    assert_eq!(order.request.ip_address, "");
}

#[test]
fn the_client_is_given_the_gateway_and_the_agents_names() {
    let mut bench = Bench::launching(true);
    let Step::Authorize(order) = bench.agent(launched(AGENT)) else {
        panic!("a grant is due");
    };
    assert_eq!(order.client, ip(CLIENT));
    assert_eq!(order.server_name.as_deref(), Some("DESK-1"));
    assert_eq!(order.agent, ip(AGENT));
    assert_eq!((order.tcp_port, order.udp_port), (4172, 4172));
    assert_eq!(order.user, "CORP\\ada");
    assert_eq!(order.desktop, "desk-1");
    assert!(bench.session.holds_credentials(), "the gateway may refuse");
    let resp = allocation(bench.gateway(Ok(GrantedAddress {
        ip: ip("2001:db8::5"),
        port: 14172,
    })));
    assert_eq!(resp.result.id, AllocResultId::Successful);
    let target = resp.target.expect("success has a target");
    assert_eq!(target.ip_address.as_deref(), Some("2001:db8::5"));
    assert_eq!(target.port, Some(14172));
    assert_eq!(target.hostname.as_deref(), Some("desk-1"));
    assert_eq!(target.sni.as_deref(), Some("DESK-1"));
    assert_eq!(target.session_id, Some(SessionId(7)));
    assert_eq!(target.connect_tag, ConnectTag::new("SCS1agent"));
    assert_eq!(resp.resource_id.as_deref(), Some("d-1"));
    assert_eq!(resp.protocol.as_deref(), Some("PCOIP"));
    assert!(!bench.session.holds_credentials(), "nothing needs them now");
    assert_eq!(bench.session.user(), "");
}

#[test]
fn without_a_gateway_the_client_is_given_the_agent() {
    let mut bench = Bench::launching(false);
    let resp = allocation(bench.agent(launched(AGENT)));
    let target = resp.target.expect("success has a target");
    assert_eq!(target.ip_address.as_deref(), Some(AGENT));
    assert_eq!(target.port, Some(4172));
    assert_eq!(target.connect_tag, ConnectTag::new("SCS1agent"));
    assert!(!bench.session.holds_credentials());
}

#[test]
fn a_complete_target_is_not_launched_again() {
    let mut bench = Bench::authenticated(true);
    asked(bench.request(allocate()));
    let Step::Authorize(order) = bench.broker(allocated(Some(complete()))) else {
        panic!("a grant is due");
    };
    assert_eq!(order.agent, ip(AGENT));
    assert_eq!(order.server_name.as_deref(), Some("DESK-1"));
    let resp = allocation(bench.gateway(granted()));
    let target = resp.target.expect("success has a target");
    assert_eq!(target.ip_address.as_deref(), Some(GATEWAY));
    assert_eq!(target.session_id, Some(SessionId(0x2000_0000_0000_0002)));
    assert_eq!(target.connect_tag, ConnectTag::new("SCS1tag"));
    assert!(!bench.session.holds_credentials());

    let mut bench = Bench::authenticated(false);
    asked(bench.request(allocate()));
    let resp = allocation(bench.broker(allocated(Some(complete()))));
    assert_eq!(resp.target, Some(complete()));
}

#[test]
fn a_complete_target_without_port_or_name_gets_the_usual_port_and_no_name() {
    let mut bench = Bench::authenticated(true);
    asked(bench.request(allocate()));
    let target = Target {
        port: None,
        sni: None,
        ..complete()
    };
    let Step::Authorize(order) = bench.broker(allocated(Some(target))) else {
        panic!("a grant is due");
    };
    assert_eq!(order.tcp_port, 4172);
    assert_eq!(order.server_name, None);
}

#[test]
fn a_target_that_leads_nowhere_is_the_brokers_failure() {
    for target in [
        None,
        Some(Target::default()),
        Some(Target {
            ip_address: Some(" ".into()),
            ..Target::default()
        }),
        Some(Target {
            ip_address: Some("desk-1".into()),
            ..complete()
        }),
        Some(Target {
            port: Some(0),
            ..complete()
        }),
    ] {
        let mut bench = Bench::authenticated(true);
        asked(bench.request(allocate()));
        let resp = allocation(bench.broker(allocated(target)));
        assert_eq!(resp.result.id, AllocResultId::Broker);
        assert_eq!(
            resp.result.text.as_deref(),
            Some(texts::BROKER_NAMED_NO_DESKTOP)
        );
        assert_eq!(resp.target, None);
        asked(bench.request(allocate()));
    }
}

#[test]
fn the_brokers_own_failures_are_relayed_without_a_target() {
    for id in [
        AllocResultId::PendingTryAgain,
        AllocResultId::Broker,
        AllocResultId::BrokerPortUnreachable,
        AllocResultId::Agent,
        AllocResultId::NoLicense,
        AllocResultId::Other("ALLOC_FAILED_MAINTENANCE".into()),
    ] {
        let mut bench = Bench::authenticated(true);
        asked(bench.request(allocate()));
        let resp = allocation(bench.broker(allocation_result(id.clone(), Some(complete()))));
        assert_eq!(resp.result.id, id);
        assert_eq!(resp.result.text.as_deref(), Some("as the broker says"));
        assert_eq!(resp.target, None, "the agent's address must not leak");
        assert!(
            bench.session.holds_credentials(),
            "the client may try again"
        );
        asked(bench.request(allocate()));
    }
}

#[test]
fn a_silent_broker_is_a_broker_failure() {
    for (failure, sentence) in [
        (BrokerFailure::Unreachable(cause()), "cannot be reached"),
        (
            BrokerFailure::TimedOut {
                within: Duration::from_secs(55),
            },
            "cannot be reached",
        ),
        (BrokerFailure::Garbage(cause()), "no usable answer"),
        (BrokerFailure::Refused { status: 500 }, "no usable answer"),
    ] {
        let mut bench = Bench::authenticated(true);
        asked(bench.request(allocate()));
        let resp = allocation(bench.broker_fails(failure));
        assert_eq!(resp.result.id, AllocResultId::Broker);
        let text = resp.result.text.unwrap_or_default();
        assert!(text.contains(sentence), "{text}");
        assert_eq!(resp.resource_id.as_deref(), Some("d-1"));
        assert_eq!(resp.protocol.as_deref(), Some("PCOIP"));
        asked(bench.request(allocate()));
    }
    let mut bench = Bench::authenticated(true);
    asked(bench.request(allocate()));
    let resp = allocation(bench.broker(listed()));
    assert_eq!(resp.result.id, AllocResultId::Broker);
}

#[test]
fn an_agent_without_an_answer_has_its_id_and_sentence() {
    for (failure, id, sentence) in [
        (
            AgentFailure::Unreachable(cause()),
            AllocResultId::BrokerPortUnreachable,
            "The desktop Ada's desk cannot be reached on port 60443. It may be switched off or starting; try again in a minute.",
        ),
        (
            AgentFailure::TimedOut {
                within: Duration::from_secs(30),
            },
            AllocResultId::BrokerPortUnreachable,
            "The desktop Ada's desk did not answer on port 60443 in time. It may be starting or busy; try again in a minute.",
        ),
        (
            AgentFailure::Garbage(cause()),
            AllocResultId::Agent,
            "The desktop Ada's desk gave an answer that cannot be understood. Tell your administrator.",
        ),
    ] {
        let mut bench = Bench::authenticated(true);
        asked(bench.request(list()));
        replied(bench.broker(listed()));
        asked(bench.request(allocate()));
        let _ = bench.broker(allocated(Some(named())));
        let resp = allocation(bench.agent_fails(failure));
        assert_eq!(resp.result.id, id);
        assert_eq!(resp.result.text.as_deref(), Some(sentence));
        assert_eq!(resp.target, None);
        assert!(
            bench.session.holds_credentials(),
            "the client may try again"
        );
        asked(bench.request(allocate()));
    }
}

#[test]
fn an_agents_refusal_has_its_id_and_sentence() {
    use LaunchResultId::{AnotherSessionStarted, Other, Successful, UserAuth};
    for (response, id, sentence) in [
        (
            launch_failed(UserAuth, Some("bad logon")),
            AllocResultId::Agent,
            "did not accept your user name, password or domain",
        ),
        (
            launch_failed(AnotherSessionStarted, None),
            AllocResultId::Agent,
            "Another session is open on this desktop",
        ),
        (
            launch_failed(Other("FAILED_NO_LICENSE".into()), None),
            AllocResultId::NoLicense,
            "No session licence is free",
        ),
        (
            launch_failed(Other("failed_license_server".into()), None),
            AllocResultId::NoLicense,
            "No session licence is free",
        ),
        (
            launch_failed(Other("FAILED_SOMEHOW".into()), Some("The disk is full")),
            AllocResultId::Agent,
            "The disk is full",
        ),
        (
            launch_failed(Other("FAILED_SOMEHOW".into()), Some("  ")),
            AllocResultId::Agent,
            "The desktop desk-1 could not start a session",
        ),
        (
            launch_failed(Successful, None),
            AllocResultId::Agent,
            "cannot be understood",
        ),
    ] {
        let mut bench = Bench::launching(true);
        let resp = allocation(bench.agent(response));
        assert_eq!(resp.result.id, id);
        let text = resp.result.text.unwrap_or_default();
        assert!(text.contains(sentence), "{text}");
        assert_eq!(resp.target, None);
        asked(bench.request(allocate()));
    }
}

#[test]
fn a_launched_session_on_port_zero_is_no_session() {
    let mut bench = Bench::launching(true);
    let mut response = launched(AGENT);
    if let Some(info) = &mut response.session_info {
        info.port = 0;
    }
    assert_eq!(
        allocation(bench.agent(response)).result.id,
        AllocResultId::Agent
    );
}

#[test]
fn without_a_password_nothing_can_be_launched() {
    let mut bench = Bench::new(true);
    bench.hello();
    asked(bench.request(dialog()));
    authentication(bench.broker(judged(AuthResultId::Complete)));
    asked(bench.request(allocate()));
    let resp = allocation(bench.broker(allocated(Some(named()))));
    assert_eq!(resp.result.id, AllocResultId::Agent);
    assert_eq!(resp.result.text.as_deref(), Some(texts::NO_PASSWORD));

    asked(bench.request(allocate()));
    let step = bench.broker(allocated(Some(complete())));
    assert!(
        matches!(step, Step::Authorize(_)),
        "a complete target needs none"
    );
}

#[test]
fn a_refusing_gateway_has_its_id_and_sentence() {
    for (failure, id, sentence) in [
        (
            GatewayFailure::Ambiguous,
            AllocResultId::PendingTryAgain,
            "Try again in a few seconds",
        ),
        (GatewayFailure::Full, AllocResultId::Broker, "is full"),
        (
            GatewayFailure::Draining,
            AllocResultId::Broker,
            "takes no new sessions",
        ),
        (
            GatewayFailure::Unreachable(cause()),
            AllocResultId::Broker,
            "does not respond",
        ),
        (
            GatewayFailure::TimedOut {
                within: Duration::from_secs(5),
            },
            AllocResultId::Broker,
            "does not respond",
        ),
        (
            GatewayFailure::Refused(cause()),
            AllocResultId::Broker,
            "refused the session",
        ),
    ] {
        let mut bench = Bench::authorizing();
        let resp = allocation(bench.gateway(Err(failure)));
        assert_eq!(resp.result.id, id);
        let text = resp.result.text.unwrap_or_default();
        assert!(text.contains(sentence), "{text}");
        assert_eq!(resp.target, None, "the agent's address must not leak");
        assert_eq!(resp.resource_id.as_deref(), Some("d-1"));
    }
}

#[test]
fn a_launched_session_is_offered_to_the_gateway_again_without_a_second_launch() {
    let mut bench = Bench::authorizing();
    allocation(bench.gateway(Err(GatewayFailure::Ambiguous)));
    bench.now += Duration::from_secs(5);
    let Step::Authorize(order) = bench.request(allocate()) else {
        panic!("the session on the agent is still good");
    };
    assert_eq!(order.agent, ip(AGENT));
    let resp = allocation(bench.gateway(granted()));
    assert_eq!(resp.result.id, AllocResultId::Successful);
    let target = resp.target.expect("success has a target");
    assert_eq!(target.connect_tag, ConnectTag::new("SCS1agent"));
}

#[test]
fn a_launched_session_that_is_too_old_or_another_choice_is_launched_anew() {
    let mut bench = Bench::authorizing();
    allocation(bench.gateway(Err(GatewayFailure::Full)));
    bench.now += Duration::from_secs(45);
    asked(bench.request(allocate()));

    let mut bench = Bench::authorizing();
    allocation(bench.gateway(Err(GatewayFailure::Full)));
    asked(bench.request(Request::AllocateResource(AllocateResource {
        resource_id: "d-2".into(),
        ..AllocateResource::default()
    })));
    let step = bench.broker(allocated(Some(named())));
    assert!(
        matches!(step, Step::Launch(_)),
        "the password is still there"
    );
}

#[test]
fn implausible_agent_addresses_are_replaced_by_the_one_dialled() {
    for (named, dialled, expected) in [
        ("10.9.9.9", AGENT, "10.9.9.9"),
        ("127.0.0.1", AGENT, AGENT),
        ("::1", AGENT, AGENT),
        ("0.0.0.0", AGENT, AGENT),
        ("::", "::1", "::1"),
        ("224.0.0.1", AGENT, AGENT),
        ("255.255.255.255", AGENT, AGENT),
        ("desk-1", AGENT, AGENT),
        ("", AGENT, AGENT),
        ("127.0.0.2", "127.0.0.1", "127.0.0.2"),
        ("::ffff:127.0.0.1", AGENT, AGENT),
    ] {
        let mut bench = Bench::launching(true);
        let answer = AgentAnswer {
            response: launched(named),
            dialled: ip(dialled),
        };
        let Step::Authorize(order) = bench.session.handle_agent(Ok(answer), bench.now) else {
            panic!("a grant is due");
        };
        assert_eq!(order.agent, ip(expected), "{named} at {dialled}");
    }
}

#[test]
fn an_agent_can_be_held_to_the_address_dialled() {
    let config = ManagerConfig {
        agent_address: AgentAddressRule::AsDialled,
        ..ManagerConfig::default()
    };
    let mut bench = Bench::with(config.session_policy(true));
    bench.hello();
    bench.authenticate(AuthResultId::Complete);
    asked(bench.request(allocate()));
    let _ = bench.broker(allocated(Some(named())));
    let Step::Authorize(order) = bench.agent(launched("10.9.9.9")) else {
        panic!("a grant is due");
    };
    assert_eq!(order.agent, ip(AGENT));
}
