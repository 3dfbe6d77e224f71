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
    let _ = (payload, layout);
    todo!()
}
