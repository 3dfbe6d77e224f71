//! How far a client's address may differ between the Connection Manager and the gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an IPv4 address that name its network under [`AddressPolicy::Network`]: the size pools of carrier NATs are cut in.
const NETWORK_V4: u32 = 24;
/// Bits of an IPv6 address that name its network under [`AddressPolicy::Network`]: one link, on which hosts change addresses as
/// they please.
const NETWORK_V6: u32 = 64;

/// From which address a control connection may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressPolicy {
    /// The one the Connection Manager saw.
    #[default]
    Exact,
    /// Any of the same network: /24 of IPv4, /64 of IPv6. For clients whose carrier spreads connections over a pool.
    Network,
    /// Any, as long as the server name is the grant's: then it alone admits. For sites whose balancer shows the Connection Manager its
    /// own address. A grant without a server name is still for its exact address.
    Any,
}

impl AddressPolicy {
    /// What stands for a client's address in the matching of grants: the same for all addresses that are not told apart.
    pub(crate) fn matched(self, client: IpAddr, has_name: bool) -> IpAddr {
        match (self, client) {
            (Self::Network, IpAddr::V4(v4)) => {
                let mask = u32::MAX << (u32::BITS - NETWORK_V4);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            (Self::Network, IpAddr::V6(v6)) => {
                let mask = u128::MAX << (u128::BITS - NETWORK_V6);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
            (Self::Any, _) if has_name => Ipv4Addr::UNSPECIFIED.into(),
            (Self::Exact | Self::Any, client) => client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_as_the_policy_says() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let same = |policy: AddressPolicy, has_name, a, b| {
            policy.matched(ip(a), has_name) == policy.matched(ip(b), has_name)
        };
        for has_name in [true, false] {
            let (exact, network) = (AddressPolicy::Exact, AddressPolicy::Network);
            assert!(!same(exact, has_name, "198.51.100.7", "198.51.100.8"));
            assert!(same(network, has_name, "198.51.100.0", "198.51.100.255"));
            assert!(!same(network, has_name, "198.51.100.255", "198.51.101.0"));
            assert!(same(network, has_name, "2001:db8::1", "2001:db8:0:0:ff::9"));
            assert!(!same(network, has_name, "2001:db8::1", "2001:db8:0:1::1"));
            let any = same(AddressPolicy::Any, has_name, "198.51.100.7", "2001:db8::1");
            assert_eq!(any, has_name);
        }
    }
}
