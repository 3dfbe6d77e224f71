//! Which addresses a control connection, and the datagrams with it, may come from under each policy.

use super::*;

/// Another address of the /24 of [`CLIENT`].
const NEIGHBOUR: &str = OTHER_CLIENT;
const FAR_AWAY: &str = "192.0.2.200";

fn bench(client_address: AddressPolicy) -> Bench {
    Bench::with(
        UpstreamPorts::PerSession,
        Limits {
            client_address,
            ..Limits::default()
        },
    )
}

#[test]
fn each_policy_admits_its_addresses() {
    for (policy, client, admitted) in [
        (AddressPolicy::Exact, CLIENT, true),
        (AddressPolicy::Exact, NEIGHBOUR, false),
        (AddressPolicy::Network, CLIENT, true),
        (AddressPolicy::Network, NEIGHBOUR, true),
        (AddressPolicy::Network, FAR_AWAY, false),
        (AddressPolicy::Any, FAR_AWAY, true),
    ] {
        let mut bench = bench(policy);
        bench
            .grant(request(CLIENT, Some("a"), agent(1)))
            .expect("granted");
        let outcome = bench.hello(client, Some("a"));
        if admitted {
            outcome.expect("admitted");
            assert_eq!(
                bench.hello(client, Some("a")),
                Err(AdmissionRefusal::AlreadyUsed),
                "{policy:?} {client}"
            );
        } else {
            let refusal = outcome.expect_err("refused");
            let text = refusal.to_string();
            assert!(text.contains(CLIENT) && text.contains(client), "{text}");
            assert_eq!(
                refusal,
                AdmissionRefusal::WrongClientAddress {
                    granted: ip(CLIENT),
                    came: ip(client),
                }
            );
        }
    }
}

#[test]
fn without_a_name_any_address_is_only_the_exact_one() {
    let mut bench = bench(AddressPolicy::Any);
    bench
        .grant(request(CLIENT, None, agent(1)))
        .expect("granted");
    assert_eq!(
        bench.hello(FAR_AWAY, None),
        Err(AdmissionRefusal::WrongClientAddress {
            granted: ip(CLIENT),
            came: ip(FAR_AWAY),
        })
    );
    bench.hello(CLIENT, None).expect("admitted");
}

#[test]
fn datagrams_come_from_where_the_control_connection_came() {
    let mut bench = bench(AddressPolicy::Network);
    bench
        .grant(request(CLIENT, Some("a"), agent(1)))
        .expect("granted");
    let session = bench.hello(NEIGHBOUR, Some("a")).expect("admitted").session;
    assert_eq!(bench.up(CLIENT, 4000), Err(DropReason::UnknownSource));
    bench.up(NEIGHBOUR, 4000).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Of(session), agent(1)),
        Ok(socket(NEIGHBOUR, 4000))
    );
    // The client comes back through another address of the pool, and its datagrams with it.
    bench.gateway.handle_tcp_closed(session, bench.now);
    let again = bench.hello(CLIENT, Some("a")).expect("admitted");
    assert_eq!((again.session, again.reattached), (session, true));
    bench.gateway.checked_entries();
    assert_eq!(bench.up(NEIGHBOUR, 4000), Err(DropReason::UnknownSource));
    bench.up(CLIENT, 4000).expect("forwarded");
    assert_eq!(
        bench.down(UpstreamSocket::Of(session), agent(1)),
        Ok(socket(CLIENT, 4000))
    );
    bench.pass(secs(600));
    assert_eq!(bench.gateway.checked_entries(), 0);
}

#[test]
fn grants_that_a_policy_cannot_tell_apart_are_not_given() {
    for (policy, second, given) in [
        (AddressPolicy::Exact, NEIGHBOUR, true),
        (AddressPolicy::Network, NEIGHBOUR, false),
        (AddressPolicy::Network, FAR_AWAY, true),
        (AddressPolicy::Any, FAR_AWAY, false),
    ] {
        let mut bench = bench(policy);
        bench
            .grant(request(CLIENT, Some("a"), agent(1)))
            .expect("granted");
        let outcome = bench.grant(request(second, Some("a"), agent(2)));
        let expected = if given {
            Ok(())
        } else {
            Err(GrantRefusal::Ambiguous)
        };
        assert_eq!(outcome.map(drop), expected, "{policy:?} {second}");
        bench
            .grant(request(second, Some("b"), agent(2)))
            .expect("another name tells them apart");
    }
}
