//! Socket addresses in the kernel's form.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an address of any family.
pub(super) type Storage = libc::sockaddr_storage;

/// Room without an address in it.
pub(super) fn empty() -> Storage {
    // SAFETY: a `sockaddr_storage` is plain numbers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Writes an address, and returns its length.
pub(super) fn encode(address: SocketAddr, storage: &mut Storage) -> libc::socklen_t {
    const V4: libc::socklen_t = 16;
    const V6: libc::socklen_t = 28;
    const _: () = assert!(size_of::<libc::sockaddr_in>() == V4 as usize);
    const _: () = assert!(size_of::<libc::sockaddr_in6>() == V6 as usize);
    let place: *mut Storage = storage;
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a `sockaddr_storage` has the size and alignment for any socket address, and is borrowed for writing.
            unsafe { place.cast::<libc::sockaddr_in>().write(raw) };
            V4
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(raw) };
            V6
        }
    }
}

/// Reads an address; `None` when it is of no internet family.
pub(super) fn decode(storage: &Storage) -> Option<SocketAddr> {
    let place: *const Storage = storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a `sockaddr_storage` has the size and alignment for any socket address; it is initialised and plain numbers.
            let raw = unsafe { place.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's numbers of families fit its own field for them"
)]
const fn family(number: libc::c_int) -> libc::sa_family_t {
    number as libc::sa_family_t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for address in [
            "192.0.2.7:4172",
            "[2001:db8::7%3]:4172",
            "[::ffff:192.0.2.7]:1",
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            let mut storage = empty();
            encode(address, &mut storage);
            assert_eq!(decode(&storage), Some(address));
        }
        assert_eq!(decode(&empty()), None);
    }
}
