//! Random histories.

use super::*;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Event {
    Hello {
        session: usize,
    },
    Probe {
        session: usize,
    },
    Logon {
        session: usize,
        user: usize,
        right: bool,
    },
    List {
        session: usize,
    },
    Allocate {
        session: usize,
        desktop: usize,
    },
    Bye {
        session: usize,
    },
    Unknown {
        session: usize,
    },
    Wait {
        seconds: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let session = 0..5_usize;
    prop_oneof![
        2 => session.clone().prop_map(|session| Event::Hello { session }),
        1 => session.clone().prop_map(|session| Event::Probe { session }),
        4 => (session.clone(), 0..4_usize, any::<bool>())
            .prop_map(|(session, user, right)| Event::Logon { session, user, right }),
        3 => session.clone().prop_map(|session| Event::List { session }),
        3 => (session.clone(), 0..4_usize)
            .prop_map(|(session, desktop)| Event::Allocate { session, desktop }),
        1 => session.clone().prop_map(|session| Event::Bye { session }),
        1 => session.prop_map(|session| Event::Unknown { session }),
        1 => (0..400_u64).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

proptest! {
    /// Whatever comes in whatever order: desktops are named only to who logged on last in that session, with the right
    /// password, and only those assigned to that user.
    #[test]
    fn nobody_sees_desktops_without_logging_on(events in prop::collection::vec(event(), 0..80)) {
        let mut bench = Bench::with_sessions(3);
        let users = [("alice", vec!["d-2", "d-1"]), ("bob", vec!["d-3"]), ("carol", vec![]), ("nobody", vec![])];
        let desktops = ["d-1", "d-2", "d-3", "d-4"];
        let mut slots: [Option<SessionToken>; 5] = [None; 5];
        // What each slot's user may see; `None` while nobody can be logged on there.
        let mut may_see: [Option<Vec<&str>>; 5] = [const { None }; 5];
        for event in events {
            match event {
                Event::Hello { session } => {
                    may_see[session] = None;
                    if let Ok(answer) = bench.ask(slots[session], hello()) {
                        slots[session] = answer.session;
                    }
                }
                Event::Probe { session } => {
                    let answer = bench.ask(slots[session], probe()).expect("always answered");
                    prop_assert_eq!(answer.session, None);
                }
                Event::Logon { session, user, right } => {
                    may_see[session] = None;
                    let (name, assigned) = &users[user];
                    let password = if right { PASSWORD } else { "wrong" };
                    if let Ok(answer) = bench.ask(slots[session], logon(name, password, "")) {
                        let Response::Authenticate(answer) = answer.response.message else {
                            return Err(TestCaseError::fail("another answer"));
                        };
                        let complete = answer.result.id == AuthResultId::Complete;
                        prop_assert_eq!(complete, right && *name != "nobody");
                        if complete {
                            may_see[session] = Some(assigned.clone());
                        }
                    }
                }
                Event::List { session } => {
                    if let Ok(answer) = bench.ask(slots[session], list()) {
                        let Response::GetResourceList(answer) = answer.response.message else {
                            return Err(TestCaseError::fail("another answer"));
                        };
                        let seen: Vec<&str> = answer.resources.iter().map(|desktop| desktop.id.as_str()).collect();
                        prop_assert_eq!(Some(&seen), may_see[session].as_ref());
                    }
                }
                Event::Allocate { session, desktop } => {
                    if let Ok(answer) = bench.ask(slots[session], allocate(desktops[desktop])) {
                        let Response::AllocateResource(answer) = answer.response.message else {
                            return Err(TestCaseError::fail("another answer"));
                        };
                        let may = may_see[session].as_ref().map(|seen| seen.contains(&desktops[desktop]));
                        prop_assert_eq!(Some(answer.target.is_some()), may);
                    }
                }
                Event::Bye { session } => {
                    may_see[session] = None;
                    bench.ask(slots[session], Request::Bye(Bye::default())).expect("always answered");
                }
                Event::Unknown { session } => {
                    let request = Request::Unknown(Element::new("get-everything"));
                    prop_assert!(bench.ask(slots[session], request).is_err());
                }
                Event::Wait { seconds } => bench.now += Duration::from_secs(seconds),
            }
            prop_assert!(bench.machine.session_count(bench.now) <= 3);
        }
    }
}
