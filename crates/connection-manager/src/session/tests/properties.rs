//! Whatever comes in whatever order, the machine never panics and never breaks its promises.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    Request(u8),
    Broker(u8),
    Agent(u8),
    Gateway(u8),
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0..9u8).prop_map(Event::Request),
        5 => (0..16u8).prop_map(Event::Broker),
        2 => (0..7u8).prop_map(Event::Agent),
        2 => (0..4u8).prop_map(Event::Gateway),
        1 => (0..700u16).prop_map(Event::Wait),
    ]
}

fn request(kind: u8) -> Request {
    match kind {
        0 => hello("PCoIP Client"),
        1 => hello("QueryBrokerClient"),
        2 => password("ada"),
        3 => dialog(),
        4 => list(),
        5 | 6 => allocate(),
        7 => bye(),
        _ => Request::Unknown(Element::new("anything")),
    }
}

fn broker(kind: u8) -> Result<Response, BrokerFailure> {
    Ok(match kind {
        0 | 1 => Response::Hello(HelloResp::default()),
        2 | 3 => judged(AuthResultId::Complete),
        4 => judged(AuthResultId::Incomplete),
        5 => judged(AuthResultId::UnknownUsernameOrPassword),
        6 => listed(),
        7 | 8 => allocated(Some(named())),
        9 => allocated(Some(complete())),
        10 => allocated(None),
        11 => allocation_result(AllocResultId::PendingTryAgain, Some(complete())),
        12 => Response::Bye(ByeResp::default()),
        13 => Response::Unknown(Element::new("anything")),
        14 => return Err(BrokerFailure::Unreachable(cause())),
        _ => return Err(BrokerFailure::Refused { status: 500 }),
    })
}

fn agent(kind: u8) -> Result<LaunchSessionResp, AgentFailure> {
    Ok(match kind {
        0..=2 => launched(AGENT),
        3 => launch_failed(LaunchResultId::UserAuth, None),
        4 => launch_failed(LaunchResultId::Successful, None),
        5 => return Err(AgentFailure::Unreachable(cause())),
        _ => return Err(AgentFailure::Garbage(cause())),
    })
}

fn gateway(kind: u8) -> Result<GrantedAddress, GatewayFailure> {
    match kind {
        0 | 1 => granted(),
        2 => Err(GatewayFailure::Ambiguous),
        _ => Err(GatewayFailure::Full),
    }
}

fn promises_hold(events: &[Event], through_gateway: bool) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(through_gateway);
    // What the test itself has seen happen.
    let mut authenticating = false;
    let mut authenticated = false;
    for event in events {
        let (step, granted) = match event {
            Event::Request(kind) => {
                let request = request(*kind);
                let is_hello = matches!(request, Request::Hello(_));
                let is_authenticate = matches!(request, Request::Authenticate(_));
                let step = bench.request(request);
                if matches!(step, Step::AskBroker(_)) {
                    authenticating = is_authenticate;
                    authenticated &= !is_hello;
                }
                (step, false)
            }
            Event::Broker(kind) => {
                let result = broker(*kind);
                let completes = result
                    .as_ref()
                    .is_ok_and(|response| *response == judged(AuthResultId::Complete));
                let step = match result {
                    Ok(response) => bench.broker(response),
                    Err(failure) => bench.broker_fails(failure),
                };
                authenticated |= authenticating && completes;
                authenticating = false;
                (step, false)
            }
            Event::Agent(kind) => match agent(*kind) {
                Ok(response) => (bench.agent(response), false),
                Err(failure) => (bench.agent_fails(failure), false),
            },
            Event::Gateway(kind) => {
                let result = gateway(*kind);
                let granted = result.is_ok();
                (bench.gateway(result), granted)
            }
            Event::Wait(seconds) => {
                bench.now += Duration::from_secs((*seconds).into());
                bench.session.handle_timeout(bench.now);
                continue;
            }
        };
        match &step {
            Step::Launch(_) | Step::Authorize(_) => prop_assert!(authenticated, "{:?}", step),
            Step::Reply(reply) => {
                if let Response::AllocateResource(resp) = &reply.message
                    && let Some(target) = &resp.target
                {
                    prop_assert!(authenticated);
                    prop_assert_eq!(&resp.result.id, &AllocResultId::Successful);
                    prop_assert!(target.connect_tag.is_some() && target.session_id.is_some());
                    prop_assert_eq!(granted, through_gateway);
                    let expected = if through_gateway { GATEWAY } else { AGENT };
                    prop_assert_eq!(target.ip_address.as_deref(), Some(expected));
                    prop_assert!(!bench.session.holds_credentials());
                }
            }
            Step::AskBroker(_) | Step::Reject(_) => {}
        }
        if bench.session.is_over() {
            prop_assert!(!bench.session.holds_credentials());
            prop_assert_eq!(bench.session.poll_timeout(), None);
            bench.session.take_farewell();
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_a_promise(
        events in proptest::collection::vec(event(), 0..60),
        gateway in any::<bool>(),
    ) {
        promises_hold(&events, gateway)?;
    }

    /// Starts where most random sequences never get to.
    #[test]
    fn nor_after_a_proper_start(
        events in proptest::collection::vec(event(), 0..40),
        gateway in any::<bool>(),
    ) {
        let start = [
            Event::Request(0),
            Event::Broker(0),
            Event::Request(2),
            Event::Broker(2),
            Event::Request(5),
        ];
        promises_hold(&[&start[..], &events].concat(), gateway)?;
    }
}
