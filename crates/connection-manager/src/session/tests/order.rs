//! Hello, authentication, list, bye: who may say what when, and how long a password is kept.

use std::time::Duration;

use portcullis_protocol::broker::{ProductInfo, Version};

use super::*;

fn unknown() -> Request {
    Request::Unknown(Element::new("set-disclaimer"))
}

/// Every request that is out of order leaves the session as it was.
#[track_caller]
fn assert_out_of_order(bench: &mut Bench, requests: impl IntoIterator<Item = Request>) {
    for request in requests {
        let shown = format!("{request:?}");
        let step = bench.request(request);
        assert_eq!(rejected(step), Reject::OutOfOrder, "{shown}");
        assert!(!bench.session.is_over());
    }
    assert_eq!(rejected(bench.request(unknown())), Reject::UnknownMessage);
}

#[test]
fn a_session_runs_from_hello_to_bye() {
    let mut bench = Bench::new(true);
    bench.hello();
    bench.authenticate(AuthResultId::Complete);
    assert_eq!(bench.session.user(), "CORP\\ada");
    asked(bench.request(list()));
    replied(bench.broker(listed()));
    asked(bench.request(allocate()));
    let _ = bench.broker(allocated(Some(named())));
    let _ = bench.agent(launched(AGENT));
    allocation(bench.gateway(granted()));
    let request = asked(bench.request(bye()));
    assert_eq!(request.cookies.value("JSESSIONID"), Some("at-the-broker"));
    replied(bench.broker(Response::Bye(ByeResp::default())));
    assert!(bench.session.is_over());
    assert_eq!(bench.session.take_farewell(), None);
}

#[test]
fn nothing_but_hello_and_bye_comes_first() {
    let mut bench = Bench::new(true);
    assert_out_of_order(&mut bench, [password("ada"), dialog(), list(), allocate()]);
    bench.hello();
}

#[test]
fn list_and_allocation_need_the_whole_authentication() {
    let mut bench = Bench::new(true);
    bench.hello();
    assert_out_of_order(&mut bench, [list(), allocate()]);
    bench.authenticate(AuthResultId::Incomplete);
    assert_out_of_order(&mut bench, [list(), allocate()]);
    asked(bench.request(dialog()));
    authentication(bench.broker(judged(AuthResultId::Complete)));
    asked(bench.request(list()));
}

#[test]
fn the_user_cannot_be_changed_once_known() {
    let mut bench = Bench::authenticated(true);
    assert_out_of_order(&mut bench, [password("eve"), dialog()]);
    asked(bench.request(list()));
}

#[test]
fn after_the_desktop_only_bye_and_hello_are_left() {
    let mut bench = Bench::authorizing();
    allocation(bench.gateway(granted()));
    assert_out_of_order(&mut bench, [password("ada"), list(), allocate()]);
    asked(bench.request(bye()));
}

#[test]
fn a_second_request_has_to_wait_for_the_first() {
    let mut bench = Bench::authenticated(true);
    asked(bench.request(list()));
    assert_eq!(rejected(bench.request(list())), Reject::OutOfOrder);
    replied(bench.broker(listed()));
    asked(bench.request(list()));
}

#[test]
fn results_nobody_asked_for_change_nothing() {
    let mut bench = Bench::authenticated(true);
    assert_eq!(rejected(bench.broker(listed())), Reject::Internal);
    assert_eq!(rejected(bench.agent(launched(AGENT))), Reject::Internal);
    assert_eq!(rejected(bench.gateway(granted())), Reject::Internal);
    asked(bench.request(list()));
    assert_eq!(rejected(bench.gateway(granted())), Reject::Internal);
    assert_eq!(rejected(bench.agent(launched(AGENT))), Reject::Internal);
    replied(bench.broker(listed()));
    let mut bench = Bench::launching(true);
    assert_eq!(rejected(bench.broker(listed())), Reject::Internal);
    assert!(matches!(bench.agent(launched(AGENT)), Step::Authorize(_)));
}

#[test]
fn a_failed_authentication_can_be_repeated() {
    let mut bench = Bench::new(true);
    bench.hello();
    let resp = bench.authenticate(AuthResultId::UnknownUsernameOrPassword);
    assert_eq!(resp.result.text.as_deref(), Some("as the broker says"));
    assert!(!bench.session.holds_credentials());
    assert_eq!(bench.session.user(), "");
    bench.authenticate(AuthResultId::Complete);
    assert!(bench.session.holds_credentials());
}

#[test]
fn the_answer_echoes_the_version_up_to_ours() {
    for (asked_version, answered) in [((2, 0), (2, 0)), ((2, 1), (2, 1)), ((3, 7), (2, 1))] {
        let mut bench = Bench::new(true);
        let envelope = Envelope {
            version: Version {
                major: asked_version.0,
                minor: asked_version.1,
            },
            ..Envelope::new(hello("PCoIP Client"))
        };
        let request = asked(bench.session.handle_request(envelope, bench.now));
        let answered = Version {
            major: answered.0,
            minor: answered.1,
        };
        assert_eq!(request.request.version, answered);
        let reply = replied(bench.broker(Response::Hello(HelloResp::default())));
        assert_eq!(reply.version, answered);
    }
}

#[test]
fn a_client_with_the_other_root_is_answered_with_it() {
    let mut bench = Bench::new(true);
    let envelope = Envelope {
        root: Root::Broker,
        ..Envelope::new(hello("PCoIP Client"))
    };
    let request = asked(bench.session.handle_request(envelope, bench.now));
    assert_eq!(request.request.root, Root::Client);
    let reply = replied(bench.broker(Response::Hello(HelloResp::default())));
    assert_eq!(reply.root, Root::Broker);
}

#[test]
fn our_pcm_info_goes_both_ways() {
    let ours = PcmInfo::ours().as_product_info().clone();
    let mut bench = Bench::new(true);
    let Request::Hello(sent) = asked(bench.request(hello("PCoIP Client"))).request.message else {
        panic!("the broker is sent a hello");
    };
    assert_eq!(sent.pcm_info, Some(ours.clone()));
    assert_eq!(sent.client_info.hostname.as_deref(), Some("laptop"));
    let Response::Hello(resp) = bench
        .broker(Response::Hello(HelloResp::default()))
        .into_reply()
    else {
        panic!("the client is sent a hello-resp");
    };
    assert_eq!(resp.pcm_info, Some(ours));
}

#[test]
fn pcm_info_can_be_switched_off() {
    let config = ManagerConfig {
        pcm_info: None,
        ..ManagerConfig::default()
    };
    let mut bench = Bench::with(config.session_policy(true));
    let Request::Hello(sent) = asked(bench.request(hello("PCoIP Client"))).request.message else {
        panic!("the broker is sent a hello");
    };
    assert_eq!(sent.pcm_info, None);
    let Response::Hello(resp) = bench
        .broker(Response::Hello(HelloResp::default()))
        .into_reply()
    else {
        panic!("the client is sent a hello-resp");
    };
    assert_eq!(resp.pcm_info, None);
}

#[test]
fn a_manager_behind_itself_is_refused_on_the_way_in_and_on_the_way_back() {
    let ours = Some(PcmInfo::ours().as_product_info().clone());
    let mut bench = Bench::new(true);
    let looped = Request::Hello(Hello {
        pcm_info: ours.clone(),
        ..Hello::default()
    });
    assert_eq!(rejected(bench.request(looped)), Reject::Loop);
    assert!(!bench.session.is_over());

    asked(bench.request(hello("PCoIP Client")));
    let step = bench.broker(Response::Hello(HelloResp {
        pcm_info: ours,
        ..HelloResp::default()
    }));
    assert_eq!(rejected(step), Reject::Loop);
    assert!(bench.session.is_over());
    assert!(bench.session.take_farewell().is_some());
}

#[test]
fn another_manager_in_front_is_no_loop() {
    let mut bench = Bench::new(true);
    let step = bench.request(Request::Hello(Hello {
        pcm_info: Some(ProductInfo {
            product_name: Some("Another Connection Manager".into()),
            ..ProductInfo::default()
        }),
        ..Hello::default()
    }));
    asked(step);
}

#[test]
fn a_probe_is_answered_and_leaves_nothing() {
    let mut bench = Bench::new(true);
    asked(bench.request(hello("QueryBrokerClient")));
    replied(bench.broker(Response::Hello(HelloResp::default())));
    assert!(bench.session.is_over());
    let farewell = bench
        .session
        .take_farewell()
        .expect("the broker set a cookie");
    assert!(matches!(farewell.request.message, Request::Bye(_)));
    assert_eq!(rejected(bench.request(password("ada"))), Reject::NoSession);
}

#[test]
fn a_probe_that_opened_nothing_at_the_broker_needs_no_bye() {
    let mut bench = Bench::new(true);
    asked(bench.request(hello("QueryBrokerClient")));
    let answer = BrokerAnswer {
        cookies: BrokerCookies::new(),
        response: Envelope::new(Response::Hello(HelloResp::default())),
    };
    replied(bench.session.handle_broker(Ok(answer), bench.now));
    assert!(bench.session.is_over());
    assert_eq!(bench.session.take_farewell(), None);
}

#[test]
fn a_second_hello_starts_over_and_says_bye_to_the_old_broker_session() {
    let mut bench = Bench::authenticated(true);
    let request = asked(bench.request(hello("PCoIP Client")));
    assert!(
        request.cookies.is_empty(),
        "the old session's cookies are gone"
    );
    assert!(!bench.session.holds_credentials());
    let farewell = bench
        .session
        .take_farewell()
        .expect("the old broker session is owed a bye");
    assert_eq!(farewell.cookies.value("JSESSIONID"), Some("at-the-broker"));
    assert!(matches!(farewell.request.message, Request::Bye(_)));
    replied(bench.broker(Response::Hello(HelloResp::default())));
    assert_out_of_order(&mut bench, [list(), allocate()]);
    bench.authenticate(AuthResultId::Complete);
}

#[test]
fn without_a_broker_there_is_no_hello() {
    for failure in [
        BrokerFailure::Unreachable(cause()),
        BrokerFailure::TimedOut {
            within: Duration::from_secs(55),
        },
        BrokerFailure::Garbage(cause()),
        BrokerFailure::Refused { status: 500 },
    ] {
        let mut bench = Bench::new(true);
        asked(bench.request(hello("PCoIP Client")));
        assert_eq!(
            rejected(bench.broker_fails(failure)),
            Reject::BrokerUnavailable
        );
        assert!(bench.session.is_over());
        assert_eq!(bench.session.take_farewell(), None);
    }
}

#[test]
fn an_unjudged_authentication_is_denied_with_a_sentence_and_can_be_repeated() {
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
        let mut bench = Bench::new(true);
        bench.hello();
        asked(bench.request(password("ada")));
        assert!(
            bench.session.holds_credentials(),
            "the broker may accept them"
        );
        let resp = authentication(bench.broker_fails(failure));
        assert_eq!(resp.result.id, AuthResultId::AccessDenied);
        assert_eq!(resp.method.as_deref(), Some("password"));
        let text = resp.result.text.unwrap_or_default();
        assert!(text.contains(sentence), "{text}");
        assert!(!bench.session.holds_credentials());
        bench.authenticate(AuthResultId::Complete);
    }
}

#[test]
fn a_made_up_answer_to_a_dialog_has_no_method() {
    let mut bench = Bench::new(true);
    bench.hello();
    asked(bench.request(dialog()));
    let resp = authentication(bench.broker_fails(BrokerFailure::Unreachable(cause())));
    assert_eq!(resp.method, None);
}

#[test]
fn an_answer_to_another_question_is_garbage() {
    let mut bench = Bench::new(true);
    asked(bench.request(hello("PCoIP Client")));
    assert_eq!(rejected(bench.broker(listed())), Reject::BrokerUnavailable);

    let mut bench = Bench::new(true);
    bench.hello();
    asked(bench.request(password("ada")));
    let resp = authentication(bench.broker(listed()));
    assert_eq!(resp.result.id, AuthResultId::AccessDenied);
    assert_out_of_order(&mut bench, [list()]);

    let mut bench = Bench::authenticated(true);
    asked(bench.request(list()));
    let step = bench.broker(judged(AuthResultId::Complete));
    assert_eq!(rejected(step), Reject::BrokerUnavailable);
    asked(bench.request(list()));
}

#[test]
fn without_a_broker_there_is_no_list_but_the_session_stays() {
    let mut bench = Bench::authenticated(true);
    asked(bench.request(list()));
    let step = bench.broker_fails(BrokerFailure::Unreachable(cause()));
    assert_eq!(rejected(step), Reject::BrokerUnavailable);
    assert!(bench.session.holds_credentials());
    asked(bench.request(list()));
    replied(bench.broker(listed()));
}

#[test]
fn bye_is_taken_in_every_state_and_whatever_the_broker_says() {
    let mut bench = Bench::new(true);
    replied(bench.request(bye()));
    assert!(bench.session.is_over());

    for prepare in [
        (|| {
            let mut bench = Bench::new(true);
            bench.hello();
            bench
        }) as fn() -> Bench,
        || Bench::authenticated(true),
        || Bench::launching(true),
        Bench::authorizing,
    ] {
        let mut bench = prepare();
        asked(bench.request(bye()));
        assert!(!bench.session.holds_credentials());
        let step = bench.broker_fails(BrokerFailure::Unreachable(cause()));
        assert!(matches!(step.into_reply(), Response::Bye(_)));
        assert!(bench.session.is_over());
        assert_eq!(bench.session.take_farewell(), None, "bye was tried once");
        assert_eq!(rejected(bench.request(list())), Reject::NoSession);
        assert_eq!(
            rejected(bench.request(hello("PCoIP Client"))),
            Reject::NoSession
        );
    }
}

#[test]
fn a_password_is_kept_only_after_success_and_replaced_by_a_later_one() {
    let mut bench = Bench::new(true);
    bench.hello();
    bench.authenticate(AuthResultId::Incomplete);
    assert!(bench.session.holds_credentials());
    asked(bench.request(password("bob")));
    authentication(bench.broker(judged(AuthResultId::Complete)));
    assert_eq!(bench.session.user(), "CORP\\bob");
    asked(bench.request(allocate()));
    let Step::Launch(order) = bench.broker(allocated(Some(named()))) else {
        panic!("a launch is due");
    };
    assert_eq!(order.request.logon.username, "bob");
}

#[test]
fn a_dialog_keeps_the_password_before_it_even_when_an_entry_has_to_be_repeated() {
    let mut bench = Bench::new(true);
    bench.hello();
    bench.authenticate(AuthResultId::Incomplete);
    asked(bench.request(dialog()));
    authentication(bench.broker(judged(AuthResultId::DialogInvalidUserEntry)));
    assert!(bench.session.holds_credentials());
    asked(bench.request(dialog()));
    authentication(bench.broker(judged(AuthResultId::Complete)));
    assert!(bench.session.holds_credentials());
    assert_eq!(bench.session.user(), "CORP\\ada");
}

#[test]
fn every_other_failure_wipes_the_password() {
    for id in [
        AuthResultId::UnknownUsernameOrPassword,
        AuthResultId::AccessDenied,
        AuthResultId::UserHasNoResource,
        AuthResultId::ExpiredPassword,
        AuthResultId::Other("AUTH_FAILED_SOMEHOW".into()),
    ] {
        let mut bench = Bench::new(true);
        bench.hello();
        bench.authenticate(AuthResultId::Incomplete);
        asked(bench.request(dialog()));
        authentication(bench.broker(judged(id)));
        assert!(!bench.session.holds_credentials());
        assert_eq!(bench.session.user(), "");
    }
}

#[test]
fn an_idle_session_ends_and_wipes_the_password() {
    let mut bench = Bench::authenticated(true);
    let idle = bench.session.poll_timeout().expect("the session lives");
    assert_eq!(idle, bench.now + Duration::from_secs(600));
    bench
        .session
        .handle_timeout(idle - Duration::from_millis(1));
    assert!(!bench.session.is_over());
    bench.session.handle_timeout(idle);
    assert!(bench.session.is_over());
    assert!(!bench.session.holds_credentials());
    assert_eq!(bench.session.poll_timeout(), None);
    assert!(bench.session.take_farewell().is_some());
    assert_eq!(rejected(bench.request(list())), Reject::NoSession);
}

#[test]
fn a_busy_session_without_a_desktop_ends_after_its_life_time() {
    let mut bench = Bench::authenticated(true);
    let opened = bench.now;
    for _ in 0..11 {
        bench.now += Duration::from_secs(5 * 60);
        bench.session.handle_timeout(bench.now);
        asked(bench.request(list()));
        replied(bench.broker(listed()));
    }
    let end = opened + Duration::from_secs(3600);
    assert_eq!(bench.session.poll_timeout(), Some(end));
    bench.session.handle_timeout(end);
    assert!(bench.session.is_over());
}

#[test]
fn a_second_hello_starts_a_new_life_time() {
    let mut bench = Bench::authenticated(true);
    for _ in 0..7 {
        bench.now += Duration::from_secs(8 * 60);
        bench.hello();
    }
    let idle = bench.now + Duration::from_secs(10 * 60);
    assert_eq!(bench.session.poll_timeout(), Some(idle));
}

#[test]
fn a_session_with_its_desktop_only_ends_idle() {
    let mut bench = Bench::authorizing();
    bench.now += Duration::from_secs(3600);
    allocation(bench.gateway(granted()));
    let end = bench.session.poll_timeout().expect("the session lives");
    assert!(end < bench.now, "the last request was an hour ago");
}

trait IntoReply {
    fn into_reply(self) -> Response;
}

impl IntoReply for Step {
    #[track_caller]
    fn into_reply(self) -> Response {
        replied(self).message
    }
}
