//! What each message is answered, and when it may come.

use super::*;

#[test]
fn the_greeting_says_who_answers_and_how_to_log_on() {
    let mut bench = Bench::new();
    let answer = bench.ask(None, hello()).expect("an answer");
    assert!(answer.session.is_some());
    let Response::Hello(hello) = answer.response.message else {
        panic!("not a greeting");
    };
    let [broker] = hello.brokers.as_slice() else {
        panic!("one broker answers");
    };
    assert_eq!(broker.product_name.as_deref(), Some("Portcullis Broker"));
    assert_eq!(
        broker.product_version.as_deref(),
        Some(env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(broker.ip_address.as_deref(), Some("192.0.2.9"));
    assert_eq!(broker.hostname.as_deref(), Some("broker.studio.example"));
    assert_eq!(broker.locale.as_deref(), Some("en_US"));
    assert!(broker.platform.is_some());
    let next = hello.next_authentication.expect("how to log on");
    assert_eq!(next.methods, ["AUTHENTICATE_VIA_PASSWORD"]);
    assert_eq!(next.domains, ["STUDIO"]);
}

#[test]
fn a_probe_is_answered_in_full_and_begins_nothing() {
    let mut bench = Bench::new();
    let greeting = bench.ask(None, hello()).expect("an answer");
    let probed = bench.ask(None, probe()).expect("an answer");
    assert_eq!(probed.session, None);
    assert_eq!(probed.response, greeting.response);
    assert_eq!(bench.machine.session_count(bench.now), 1);
}

#[test]
fn a_probe_leaves_the_session_it_comes_in_alone() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    bench.ask(Some(session), probe()).expect("an answer");
    assert!(bench.list(session).is_ok());
}

#[test]
fn a_user_lists_and_gets_what_is_assigned() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    assert_eq!(bench.list(session).expect("a list"), ["ape", "Zebra"]);
    let answer = bench
        .ask(Some(session), allocate("d-1"))
        .expect("an answer");
    let answer = allocation(answer);
    assert_eq!(answer.result.id, AllocResultId::Successful);
    assert_eq!(answer.resource_id.as_deref(), Some("d-1"));
    let target = answer.target.expect("a target");
    assert_eq!(target.ip_address.as_deref(), Some("192.0.2.1"));
    assert_eq!(target.hostname.as_deref(), Some("zebra.studio.example"));
    assert_eq!(
        target.port, None,
        "the agent's management port is no session port"
    );
    assert_eq!((target.session_id, target.sni), (None, None));
    assert!(target.connect_tag.is_none(), "the broker launches nothing");
    let answer = bench
        .ask(Some(session), allocate("d-2"))
        .expect("an answer");
    let target = allocation(answer).target.expect("a target");
    assert_eq!(target.ip_address.as_deref(), Some("ape.studio.example"));
}

#[test]
fn resources_carry_what_clients_expect() {
    let mut bench = Bench::new();
    let session = bench.greet_as("STUDIO\\bob");
    let answer = bench.ask(Some(session), list()).expect("an answer");
    let Response::GetResourceList(answer) = answer.response.message else {
        panic!("not a list");
    };
    let desktop = &answer.resources[0];
    assert_eq!(
        (desktop.name.as_str(), desktop.id.as_str()),
        ("Bear", "d-3")
    );
    assert_eq!(desktop.resource_type.as_deref(), Some("DESKTOP"));
    assert_eq!(desktop.session_type.as_deref(), Some("VDI"));
    assert_eq!(desktop.state.as_deref(), Some("UNKNOWN"));
    assert_eq!(desktop.protocols[0].name, "PCOIP");
    assert_eq!(desktop.protocols[0].is_default.as_deref(), Some("true"));
}

#[test]
fn a_user_without_desktops_is_told_so() {
    let mut bench = Bench::new();
    let session = bench.greet_as("carol");
    assert_eq!(bench.list(session).expect("an answer"), [""; 0]);
}

#[test]
fn what_nobody_here_offers_is_not_listed() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    for (protocols, types, listed) in [
        (vec!["RDP"], vec!["DESKTOP"], 0),
        (vec!["PCOIP"], vec!["APPLICATION"], 0),
        (vec!["RDP", "pcoip"], vec!["desktop"], 2),
        (vec![], vec![], 2),
    ] {
        let request = Request::GetResourceList(GetResourceList {
            protocols: protocols.iter().map(ToString::to_string).collect(),
            resource_types: types.iter().map(ToString::to_string).collect(),
            rest: Rest::default(),
        });
        let answer = listing(bench.ask(Some(session), request).expect("an answer"));
        assert_eq!(answer.resources.len(), listed, "{protocols:?} {types:?}");
    }
    let request = Request::AllocateResource(AllocateResource {
        resource_id: "d-1".into(),
        protocol: Some("RDP".into()),
        ..AllocateResource::default()
    });
    let answer = allocation(bench.ask(Some(session), request).expect("an answer"));
    assert_eq!(answer.result.id, AllocResultId::Broker);
    assert!(answer.target.is_none());
}

#[test]
fn desktops_of_others_and_of_nobody_get_one_answer() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    let mut answers = Vec::new();
    for id in ["d-3", "d-9"] {
        let mut answer = allocation(bench.ask(Some(session), allocate(id)).expect("an answer"));
        assert_eq!(answer.result.id, AllocResultId::Broker);
        assert_eq!(answer.resource_id.take().as_deref(), Some(id));
        assert!(answer.target.is_none());
        assert!(
            answer
                .result
                .text
                .as_deref()
                .is_some_and(|text| text.ends_with('.'))
        );
        answers.push(answer);
    }
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn messages_out_of_order_are_refused_and_harm_nothing() {
    let mut bench = Bench::new();
    let stranger = SessionToken::from_random([0xee; SessionToken::BYTES]);
    for session in [None, Some(stranger)] {
        for request in [logon("alice", PASSWORD, ""), list(), allocate("d-1")] {
            let refused = bench.ask(session, request).expect_err("no session");
            assert!(
                matches!(refused, HandleError::NoSession { .. }),
                "{refused:?}"
            );
        }
    }
    let session = bench.greet();
    for request in [list(), allocate("d-1")] {
        let refused = bench
            .ask(Some(session), request)
            .expect_err("nobody is logged on");
        assert!(
            matches!(refused, HandleError::OutOfOrder { .. }),
            "{refused:?}"
        );
    }
    assert_eq!(
        bench.log_on(session, "alice", PASSWORD),
        AuthResultId::Complete
    );
    let unknown = Request::Unknown(Element::new(format!("set-{}", "x".repeat(100))));
    let refused = bench.ask(Some(session), unknown).expect_err("unknown");
    assert!(matches!(
        refused,
        HandleError::UnknownMessage { message } if message.len() == SHOWN_NAME
    ));
    assert_eq!(bench.list(session).expect("a list").len(), 2);
}

#[test]
fn goodbye_ends_the_session_in_any_state() {
    let mut bench = Bench::new();
    let greeted = bench.greet();
    let logged_on = bench.greet_as("alice");
    for session in [Some(greeted), Some(logged_on), Some(greeted), None] {
        let answer = bench
            .ask(session, Request::Bye(Bye::default()))
            .expect("an answer");
        assert!(matches!(answer.response.message, Response::Bye(_)));
    }
    assert_eq!(bench.machine.session_count(bench.now), 0);
    assert!(matches!(
        bench.list(logged_on),
        Err(HandleError::NoSession { .. })
    ));
}

#[test]
fn a_second_greeting_begins_anew() {
    let mut bench = Bench::new();
    let old = bench.greet_as("alice");
    let answer = bench.ask(Some(old), hello()).expect("an answer");
    let new = answer.session.expect("a session");
    assert_ne!(old, new);
    assert!(matches!(
        bench.list(old),
        Err(HandleError::NoSession { .. })
    ));
    assert!(matches!(
        bench.list(new),
        Err(HandleError::OutOfOrder { .. })
    ));
}

#[test]
fn a_failed_attempt_may_be_repeated_ten_times() {
    let mut bench = Bench::new();
    let session = bench.greet();
    for _ in 1..MAX_MISSES {
        let id = bench.log_on(session, "alice", "wrong");
        assert_eq!(id, AuthResultId::UnknownUsernameOrPassword);
    }
    assert_eq!(
        bench.log_on(session, "alice", PASSWORD),
        AuthResultId::Complete
    );
    let id = bench.log_on(session, "alice", "wrong");
    assert_eq!(id, AuthResultId::UnknownUsernameOrPassword);
    let refused = bench
        .ask(Some(session), logon("alice", PASSWORD, ""))
        .expect_err("the session is over");
    assert!(matches!(refused, HandleError::NoSession { .. }));
}

#[test]
fn a_new_attempt_logs_the_old_user_off() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    assert_eq!(
        bench.log_on(session, "bob", "wrong"),
        AuthResultId::UnknownUsernameOrPassword
    );
    assert!(matches!(
        bench.list(session),
        Err(HandleError::OutOfOrder { .. })
    ));
    assert_eq!(
        bench.log_on(session, "bob", PASSWORD),
        AuthResultId::Complete
    );
    assert_eq!(bench.list(session).expect("a list"), ["Bear"]);
}

#[test]
fn sessions_expire_when_idle_and_live_while_used() {
    let mut bench = Bench::new();
    let session = bench.greet_as("alice");
    for _ in 0..5 {
        bench.now += DEFAULT_IDLE - Duration::from_secs(1);
        assert!(bench.list(session).is_ok());
    }
    bench.now += DEFAULT_IDLE;
    assert_eq!(bench.machine.session_count(bench.now), 0);
    assert!(matches!(
        bench.list(session),
        Err(HandleError::NoSession { .. })
    ));
}

#[test]
fn sessions_are_bounded_and_users_are_not_thrown_out() {
    let mut bench = Bench::with_sessions(3);
    let first = bench.greet_as("alice");
    for _ in 0..20 {
        bench.greet();
    }
    assert_eq!(bench.machine.session_count(bench.now), 3);
    assert!(bench.list(first).is_ok());
    bench.greet_as("alice");
    bench.greet_as("alice");
    let refused = bench.ask(None, hello()).expect_err("full");
    assert!(matches!(refused, HandleError::TooManySessions));
    assert!(bench.ask(None, probe()).is_ok());
}

#[test]
fn the_reply_has_the_root_and_version_of_the_request() {
    let mut bench = Bench::new();
    for (root, version, expected) in [
        (
            Root::Broker,
            Version { major: 2, minor: 1 },
            Version::CURRENT,
        ),
        (
            Root::Client,
            Version { major: 2, minor: 0 },
            Version { major: 2, minor: 0 },
        ),
        (
            Root::Client,
            Version { major: 3, minor: 0 },
            Version::CURRENT,
        ),
    ] {
        let mut session = None;
        for message in [hello(), logon("alice", PASSWORD, "")] {
            let request = Envelope {
                root,
                version,
                rest: Rest::default(),
                message,
            };
            let answer = match bench.step(session, request).expect("a step") {
                Step::Answer(answer) => answer,
                Step::VerifyPassword(verification) => bench
                    .machine
                    .verified(verification.pending, Verdict::Right, bench.now)
                    .expect("an answer"),
            };
            assert_eq!(
                (answer.response.root, answer.response.version),
                (root, expected)
            );
            session = answer.session;
        }
    }
}
