//! What the kernel tells of a datagram beside its payload and source, and what it is told: control messages (cmsg(3)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for control messages, in bytes: two addresses, two traffic classes and a segment size need 144.
const ROOM: usize = 192;
/// Size of the kernel's length field, to which control messages are aligned.
const WORD: usize = size_of::<usize>();
/// Length, level and kind.
const HEADER: usize = WORD + 8;

/// Control messages of one datagram.
#[derive(Clone)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
}

/// What is known of a datagram, or wanted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    /// Size of each of the datagrams but the last, when several are in one piece.
    pub(super) segment: Option<u16>,
    /// Traffic class: DSCP and ECN.
    pub(super) tos: u8,
    /// The local address.
    pub(super) local: Option<IpAddr>,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM] };

    /// Where the kernel reads or writes, and how much it may write.
    pub(super) const fn room(&mut self) -> (*mut libc::c_void, usize) {
        (self.bytes.as_mut_ptr().cast(), ROOM)
    }

    /// Reads what came with a datagram in the first `used` bytes.
    pub(super) fn read(&self, used: usize) -> Details {
        let mut details = Details::default();
        let mut rest = self.bytes.get(..used).unwrap_or(&self.bytes);
        while let Some((level, kind, data, behind)) = split(rest) {
            rest = behind;
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    details.segment = number(data).and_then(|size| u16::try_from(size).ok());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    details.tos = data.first().copied().unwrap_or(0);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = number(data).and_then(|class| u8::try_from(class).ok());
                    details.tos = class.unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // Interface, local address, destination; the second is one to answer from even after a broadcast.
                    let octets = data.get(4..8).and_then(|part| part.try_into().ok());
                    details.local = octets.map(|octets: [u8; 4]| Ipv4Addr::from(octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let octets = data.get(..16).and_then(|part| part.try_into().ok());
                    details.local =
                        octets.map(|octets: [u8; 16]| Ipv6Addr::from(octets).to_canonical());
                }
                _ => {}
            }
        }
        // From a group's address nothing can be sent.
        details.local = details
            .local
            .filter(|local| !local.is_multicast() && !local.is_unspecified());
        details
    }

    /// Writes what is wanted for a datagram to an address of the family named, and returns how many bytes that took.
    pub(super) fn write(&mut self, details: &Details, ipv4: bool) -> usize {
        let mut used = 0;
        if let Some(segment) = details.segment {
            self.push(
                &mut used,
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &segment.to_ne_bytes(),
            );
        }
        if details.tos != 0 {
            let class = i32::from(details.tos).to_ne_bytes();
            let (level, kind) = if ipv4 {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            self.push(&mut used, level, kind, &class);
        }
        match details.local {
            Some(IpAddr::V4(local)) if ipv4 => {
                let mut info = [0; 12];
                if let Some(place) = info.get_mut(4..8) {
                    place.copy_from_slice(&local.octets());
                }
                self.push(&mut used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(local)) if !ipv4 => {
                let mut info = [0; 20];
                if let Some(place) = info.get_mut(..16) {
                    place.copy_from_slice(&local.octets());
                }
                self.push(&mut used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            Some(_) | None => {}
        }
        used
    }

    fn push(&mut self, used: &mut usize, level: i32, kind: i32, data: &[u8]) {
        let length = HEADER + data.len();
        let space = length.next_multiple_of(WORD);
        let Some(place) = self.bytes.get_mut(*used..*used + space) else {
            return;
        };
        place.fill(0);
        let header = length
            .to_ne_bytes()
            .into_iter()
            .chain(level.to_ne_bytes())
            .chain(kind.to_ne_bytes());
        for (byte, value) in place.iter_mut().zip(header.chain(data.iter().copied())) {
            *byte = value;
        }
        *used += space;
    }
}

/// Takes the first control message off: its level, kind and data, and what is behind it.
fn split(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<WORD>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<4>()?;
    let length = usize::from_ne_bytes(*length);
    let data = bytes.get(HEADER..length)?;
    let behind = bytes
        .get(length.next_multiple_of(WORD)..)
        .unwrap_or_default();
    Some((
        i32::from_ne_bytes(*level),
        i32::from_ne_bytes(*kind),
        data,
        behind,
    ))
}

fn number(data: &[u8]) -> Option<i32> {
    data.first_chunk().copied().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_layout_is_the_platforms() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        assert_eq!(size_of::<libc::in_pktinfo>(), 12);
        assert_eq!(size_of::<libc::in6_pktinfo>(), 20);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (local, ipv4) in [("192.0.2.1", true), ("2001:db8::1", false)] {
            let details = Details {
                segment: None,
                tos: 0xb8,
                local: Some(local.parse().expect("an address")),
            };
            let mut control = Control::EMPTY;
            let used = control.write(&details, ipv4);
            assert_eq!(control.read(used), details);
        }
        let mut control = Control::EMPTY;
        assert_eq!(control.write(&Details::default(), true), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_are_read_out_of_bounds(bytes in proptest::array::uniform32(any::<u8>()), used in 0_usize..400) {
            let mut control = Control::EMPTY;
            for (place, byte) in control.bytes.iter_mut().zip(bytes) {
                *place = byte;
            }
            control.read(used);
        }
    }
}
