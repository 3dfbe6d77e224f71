//! A view of UDP-encapsulated ESP packets: SPI and sequence number, with and without the PCoIP transport header.

/// Smallest UDP payload relayed, in bytes.
pub const MIN_BYTES: usize = 12;
/// Largest UDP payload relayed, in bytes: an Ethernet frame's worth.
pub const MAX_BYTES: usize = 1472;
/// Length of the PCoIP transport header that may stand before the ESP header.
pub const TRANSPORT_HEADER_BYTES: usize = 4;

/// Whether the four clear octets of the PCoIP transport header stand before the ESP header. Negotiated inside TLS, so a
/// gateway cannot know and must keep both readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Transport header first.
    WithTransportHeader,
    /// ESP from the first octet.
    Bare,
}

/// An ESP header: which security association, and which packet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Security parameters index, chosen by the receiver.
    pub spi: u32,
    /// Sequence number, rising by one a packet and direction.
    pub sequence: u32,
}

/// Reads the ESP header under one layout; `None` when the payload is too short.
#[must_use]
pub fn header(payload: &[u8], layout: Layout) -> Option<Header> {
    let esp = match layout {
        Layout::WithTransportHeader => payload.get(TRANSPORT_HEADER_BYTES..)?,
        Layout::Bare => payload,
    };
    let (spi, after) = esp.split_first_chunk()?;
    let (sequence, _) = after.split_first_chunk()?;
    Some(Header {
        spi: u32::from_be_bytes(*spi),
        sequence: u32::from_be_bytes(*sequence),
    })
}

/// Whether a UDP payload of `len` bytes can be PCoIP at all ([`MIN_BYTES`] to [`MAX_BYTES`]).
#[must_use]
pub const fn is_relayable(len: usize) -> bool {
    MIN_BYTES <= len && len <= MAX_BYTES
}

/// Fuzz entry: a header is read exactly when there is room for one, and from where it says.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    for (layout, start) in [
        (Layout::Bare, 0),
        (Layout::WithTransportHeader, TRANSPORT_HEADER_BYTES),
    ] {
        let header = header(data, layout);
        assert_eq!(header.is_some(), data.len() >= start + 8);
        if let Some(header) = header {
            let bytes = [header.spi.to_be_bytes(), header.sequence.to_be_bytes()].concat();
            assert_eq!(data.get(start..start + 8), Some(bytes.as_slice()));
        }
    }
    assert_eq!(
        is_relayable(data.len()),
        (MIN_BYTES..=MAX_BYTES).contains(&data.len())
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 16] = [
        0x01, 0x02, 0x03, 0x04, 0xa1, 0xa2, 0xa3, 0xa4, 0x00, 0x00, 0x01, 0x00, 0xff, 0xff, 0xff,
        0xff,
    ];

    #[test]
    fn reads_both_layouts() {
        assert_eq!(
            header(&PACKET, Layout::WithTransportHeader),
            Some(Header {
                spi: 0xa1a2_a3a4,
                sequence: 256,
            })
        );
        assert_eq!(
            header(&PACKET, Layout::Bare),
            Some(Header {
                spi: 0x0102_0304,
                sequence: 0xa1a2_a3a4,
            })
        );
    }

    #[test]
    fn every_shorter_payload_has_no_header() {
        for len in 0..8 {
            assert_eq!(header(&PACKET[..len], Layout::Bare), None, "{len} bytes");
        }
        assert!(header(&PACKET[..8], Layout::Bare).is_some());
        for len in 0..12 {
            assert_eq!(
                header(&PACKET[..len], Layout::WithTransportHeader),
                None,
                "{len} bytes"
            );
        }
        assert!(header(&PACKET[..12], Layout::WithTransportHeader).is_some());
    }

    #[test]
    fn relayable_sizes_have_both_ends() {
        let sizes = [0, 11, 12, 13, 1471, 1472, 1473, usize::MAX];
        let relayable: Vec<_> = sizes.into_iter().filter(|len| is_relayable(*len)).collect();
        assert_eq!(relayable, [12, 13, 1471, 1472]);
    }
}
