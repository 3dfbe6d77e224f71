//! The pool in virtual time.

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(60);

fn pool(counts: &[(&str, u32)]) -> Pool {
    Pool::new(PoolConfig {
        features: counts
            .iter()
            .map(|&(name, count)| FeatureConfig {
                name: name.to_owned(),
                count,
            })
            .collect(),
        lease_ttl: TTL,
    })
    .expect("a valid pool")
}

fn claim(feature: &str, holder: &str, session: &str) -> Claim {
    Claim::new(feature.into(), holder.into(), session.into()).expect("a valid claim")
}

fn id(number: u8) -> LeaseId {
    LeaseId::from_random([number; LeaseId::BYTES])
}

#[test]
fn a_lease_is_taken_and_given_back() {
    let now = Instant::now();
    let mut pool = pool(&[("Agent-Session", 1)]);
    let grant = pool
        .acquire(claim("Agent-Session", "host", "s1"), id(1), now)
        .expect("one is free");
    assert_eq!((grant.id, grant.ttl, grant.fresh), (id(1), TTL, true));
    assert_eq!(pool.usage()[0].used, 1);
    assert_eq!(
        pool.acquire(claim("Agent-Session", "host", "s2"), id(2), now),
        Err(AcquireRefusal::NoneAvailable { count: 1 })
    );
    let returned = pool.give_back(id(1), now).expect("it is held");
    assert_eq!(returned.session(), "s1");
    assert_eq!(pool.usage()[0].used, 0);
    assert_eq!(pool.give_back(id(1), now), Err(UnknownLease));
    assert!(
        pool.acquire(claim("Agent-Session", "host", "s2"), id(2), now)
            .is_ok()
    );
}

#[test]
fn a_retry_gets_the_same_lease_renewed() {
    let start = Instant::now();
    let mut pool = pool(&[("Agent-Session", 2)]);
    pool.acquire(claim("Agent-Session", "host", "s1"), id(1), start)
        .expect("free");
    let later = start + TTL / 2;
    let again = pool
        .acquire(claim("Agent-Session", "host", "s1"), id(2), later)
        .expect("a repetition");
    assert_eq!((again.id, again.fresh), (id(1), false));
    assert_eq!(pool.usage()[0].used, 1);
    assert_eq!(pool.poll_timeout(), Some(later + TTL));
    assert_eq!(pool.totals().acquired, 1);
    assert_eq!(pool.give_back(id(2), later), Err(UnknownLease));
}

#[test]
fn a_retry_on_a_full_pool_is_no_refusal() {
    let now = Instant::now();
    let mut pool = pool(&[("Agent-Session", 1)]);
    let wanted = claim("Agent-Session", "host", "s1");
    pool.acquire(wanted.clone(), id(1), now).expect("free");
    assert!(pool.acquire(wanted, id(2), now).is_ok());
}

#[test]
fn the_same_session_may_hold_two_features() {
    let now = Instant::now();
    let mut pool = pool(&[("Agent-Session", 1), ("Agent-Graphics", 1)]);
    pool.acquire(claim("Agent-Session", "host", "s1"), id(1), now)
        .expect("free");
    let second = pool
        .acquire(claim("Agent-Graphics", "host", "s1"), id(2), now)
        .expect("free");
    assert_eq!((second.id, second.fresh), (id(2), true));
    let used: Vec<u32> = pool.usage().iter().map(|feature| feature.used).collect();
    assert_eq!(used, [1, 1]);
}

#[test]
fn a_lease_expires_exactly_when_its_time_is_up() {
    let start = Instant::now();
    let mut pool = pool(&[("Agent-Session", 1)]);
    let wanted = claim("Agent-Session", "host", "s1");
    pool.acquire(wanted.clone(), id(1), start).expect("free");
    let last = start + TTL - Duration::from_nanos(1);
    assert_eq!(pool.expire(last), []);
    assert_eq!(pool.renew(id(1), last), Ok(TTL));
    assert_eq!(pool.expire(start + TTL), []);
    assert_eq!(pool.expire(last + TTL), [wanted]);
    assert_eq!(pool.renew(id(1), last + TTL), Err(UnknownLease));
    assert_eq!(pool.totals().expired, 1);
    assert_eq!(pool.poll_timeout(), None);
}

#[test]
fn an_expired_lease_frees_its_place_without_expire_being_called() {
    let start = Instant::now();
    let mut pool = pool(&[("Agent-Session", 1)]);
    pool.acquire(claim("Agent-Session", "host", "s1"), id(1), start)
        .expect("free");
    assert!(
        pool.acquire(claim("Agent-Session", "host", "s2"), id(2), start + TTL)
            .is_ok()
    );
    assert_eq!(
        pool.renew(id(1), start + TTL),
        Err(UnknownLease),
        "an expired lease does not come back"
    );
}

#[test]
fn a_clock_that_steps_back_shortens_no_lease() {
    let start = Instant::now() + TTL;
    let mut pool = pool(&[("Agent-Session", 1)]);
    pool.acquire(claim("Agent-Session", "host", "s1"), id(1), start)
        .expect("free");
    assert_eq!(pool.renew(id(1), start - TTL / 2), Ok(TTL));
    assert_eq!(pool.poll_timeout(), Some(start + TTL));
}

#[test]
fn what_the_pool_does_not_know_is_refused() {
    let now = Instant::now();
    let mut pool = pool(&[("Agent-Session", 2)]);
    assert_eq!(
        pool.acquire(claim("agent-session", "host", "s1"), id(1), now),
        Err(AcquireRefusal::UnknownFeature)
    );
    pool.acquire(claim("Agent-Session", "host", "s1"), id(1), now)
        .expect("free");
    assert_eq!(
        pool.acquire(claim("Agent-Session", "host", "s2"), id(1), now),
        Err(AcquireRefusal::IdTaken)
    );
    assert_eq!(pool.usage()[0].used, 1);
    assert_eq!(pool.clients("other"), None);
}

#[test]
fn clients_are_listed_in_order_of_their_leases() {
    let now = Instant::now();
    let mut pool = pool(&[("Agent-Session", 9), ("Agent-Graphics", 1)]);
    for number in [7, 3, 5] {
        let wanted = claim("Agent-Session", &format!("host{number}"), "s");
        pool.acquire(wanted, id(number), now).expect("free");
    }
    pool.renew(id(7), now + TTL / 2).expect("held");
    let holders: Vec<String> = pool
        .clients("Agent-Session")
        .expect("known")
        .iter()
        .map(|claim| claim.holder().to_owned())
        .collect();
    assert_eq!(holders, ["host7", "host3", "host5"]);
    assert_eq!(pool.clients("Agent-Graphics"), Some(Vec::new()));
}

#[test]
fn unusable_configurations_are_named() {
    let feature = |name: &str| FeatureConfig {
        name: name.to_owned(),
        count: 1,
    };
    let refused = |features, lease_ttl| {
        Pool::new(PoolConfig {
            features,
            lease_ttl,
        })
        .expect_err("unusable")
    };
    assert_eq!(refused(vec![], TTL), InvalidPool::NoFeature);
    assert_eq!(
        refused(vec![feature("a"), feature("a")], TTL),
        InvalidPool::DuplicateFeature { name: "a".into() }
    );
    assert!(matches!(
        refused(vec![feature("")], TTL),
        InvalidPool::FeatureName {
            problem: TextProblem::Empty,
            ..
        }
    ));
    for ttl in [Duration::ZERO, MAX_LEASE_TTL + Duration::from_nanos(1)] {
        assert_eq!(
            refused(vec![feature("a")], ttl),
            InvalidPool::LeaseTtl { ttl }
        );
    }
}

#[test]
fn unusable_claims_name_their_field() {
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    let cases = [
        (["", "h", "s"], "feature", TextProblem::Empty),
        (["f", &long, "s"], "holder", TextProblem::TooLong),
        (["f", "h", "s\n"], "session", TextProblem::Control),
    ];
    for ([feature, holder, session], field, problem) in cases {
        assert_eq!(
            Claim::new(feature.into(), holder.into(), session.into()),
            Err(InvalidClaim { field, problem })
        );
    }
}

/// One step of a random history. Small ranges, so that histories collide.
#[derive(Clone, Debug)]
enum Event {
    Acquire { feature: usize, session: u8 },
    Renew { nth: usize },
    GiveBack { nth: usize },
    Wait { seconds: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_usize, 0..8_u8).prop_map(|(feature, session)| Event::Acquire { feature, session }),
        2 => (0..64_usize).prop_map(|nth| Event::Renew { nth }),
        2 => (0..64_usize).prop_map(|nth| Event::GiveBack { nth }),
        2 => (0..40_u64).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// What the pool must do, said as plainly as possible: a list of live leases.
#[derive(Default)]
struct Model {
    live: Vec<(LeaseId, Claim, Instant)>,
}

impl Model {
    fn used(&self, feature: &str) -> usize {
        self.live
            .iter()
            .filter(|(_, claim, _)| claim.feature() == feature)
            .count()
    }
}

const FEATURES: [(&str, u32); 2] = [("Agent-Session", 3), ("Agent-Graphics", 1)];

proptest! {
    #[test]
    fn the_pool_counts_like_a_list(events in prop::collection::vec(event(), 0..200)) {
        let mut now = Instant::now();
        let mut pool = pool(&FEATURES);
        let mut model = Model::default();
        let mut ever: Vec<LeaseId> = Vec::new();
        for (step, event) in events.into_iter().enumerate() {
            model.live.retain(|&(_, _, deadline)| deadline > now);
            match event {
                Event::Acquire { feature, session } => {
                    let name = FEATURES.get(feature).map_or("Unknown", |&(name, _)| name);
                    let wanted = claim(name, "host", &session.to_string());
                    let mut bytes = [0; LeaseId::BYTES];
                    bytes[..8].copy_from_slice(&(step as u64).to_be_bytes());
                    let fresh = LeaseId::from_random(bytes);
                    let answer = pool.acquire(wanted.clone(), fresh, now);
                    let used = model.used(name);
                    if let Some(held) = model.live.iter_mut().find(|(_, claim, _)| *claim == wanted) {
                        held.2 = now + TTL;
                        let grant = answer.expect("a repetition");
                        prop_assert_eq!((grant.id, grant.fresh), (held.0, false));
                    } else if let Some(&(_, count)) = FEATURES.get(feature) {
                        if used < count as usize {
                            let grant = answer.expect("one is free");
                            prop_assert_eq!((grant.id, grant.fresh), (fresh, true));
                            model.live.push((fresh, wanted, now + TTL));
                            ever.push(fresh);
                        } else {
                            prop_assert_eq!(answer, Err(AcquireRefusal::NoneAvailable { count }));
                        }
                    } else {
                        prop_assert_eq!(answer, Err(AcquireRefusal::UnknownFeature));
                    }
                }
                Event::Renew { nth } => {
                    let id = ever.get(nth).copied().unwrap_or(id(0xff));
                    let held = model.live.iter_mut().find(|(live, _, _)| *live == id);
                    prop_assert_eq!(pool.renew(id, now).is_ok(), held.is_some());
                    if let Some(held) = held {
                        held.2 = now + TTL;
                    }
                }
                Event::GiveBack { nth } => {
                    let id = ever.get(nth).copied().unwrap_or(id(0xff));
                    let before = model.live.len();
                    model.live.retain(|(live, _, _)| *live != id);
                    prop_assert_eq!(pool.give_back(id, now).is_ok(), model.live.len() < before);
                }
                Event::Wait { seconds } => {
                    now += Duration::from_secs(seconds);
                    let before = model.live.len();
                    model.live.retain(|&(_, _, deadline)| deadline > now);
                    prop_assert_eq!(pool.expire(now).len(), before - model.live.len());
                }
            }
            for feature in pool.usage() {
                prop_assert!(feature.used <= feature.count);
                prop_assert_eq!(feature.used as usize, model.used(&feature.name));
                let clients = pool.clients(&feature.name).expect("known");
                prop_assert_eq!(clients.len(), feature.used as usize);
            }
            prop_assert_eq!(pool.poll_timeout(), model.live.iter().map(|&(_, _, deadline)| deadline).min());
            let totals = pool.totals();
            prop_assert_eq!(totals.acquired, totals.returned + totals.expired + model.live.len() as u64);
        }
        // Following the timeouts alone empties any pool.
        let mut rounds = 0;
        while let Some(next) = pool.poll_timeout() {
            prop_assert!(!pool.expire(next).is_empty());
            rounds += 1;
            prop_assert!(rounds <= 4, "never more rounds than licences");
        }
        prop_assert!(pool.usage().iter().all(|feature| feature.used == 0));
    }
}
