use portcullis_protocol::esp::Layout;
use proptest::prelude::*;

use super::*;
use crate::signalling::{Cipher, keys::SessionKeys};

const SPI: Spi = Spi::from_random(0xdead_beef);

fn ends(cipher: Cipher, layout: Layout) -> (Sealer, Opener) {
    let keys = SessionKeys::danger_fixed(cipher, 42);
    (
        Sealer::new(&keys.to_agent, SPI, layout),
        Opener::new(&keys.to_agent, SPI, layout),
    )
}

fn sealed(sealer: &mut Sealer, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sealer.seal(payload, &mut out).unwrap();
    out
}

#[test]
fn the_clear_part_is_laid_out_as_documented() {
    let (mut sealer, _) = ends(Cipher::Aes128Gcm, Layout::WithTransportHeader);
    sealed(&mut sealer, b"first");
    let packet = sealed(&mut sealer, b"sixteen bytes in");
    assert_eq!(packet[..4], TRANSPORT_HEADER);
    assert_eq!(packet[4..8], [0xde, 0xad, 0xbe, 0xef]);
    assert_eq!(packet[8..12], [0, 0, 0, 2]);
    assert_eq!(packet[12..20], [0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(packet.len(), 4 + 8 + 8 + 20 + 16);

    let (mut sealer, _) = ends(Cipher::Aes128Gcm, Layout::Bare);
    let packet = sealed(&mut sealer, b"");
    assert_eq!(packet[..8], [0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1]);
    assert_eq!(packet.len(), 8 + 8 + 4 + 16);
}

#[test]
fn a_packet_opens_once() {
    let (mut sealer, mut opener) = ends(Cipher::Aes256Gcm, Layout::WithTransportHeader);
    let packet = sealed(&mut sealer, b"hello");
    let mut first = packet.clone();
    let opened = opener.open(&mut first).unwrap();
    assert_eq!(
        opened,
        Opened {
            sequence: 1,
            late: false,
            payload: b"hello"
        }
    );
    assert_eq!(opener.open(&mut packet.clone()), Err(OpenError::Duplicate));
}

#[test]
fn late_packets_are_told_apart_and_very_late_ones_dropped() {
    let (mut sealer, mut opener) = ends(Cipher::Aes128Gcm, Layout::Bare);
    let mut packets: Vec<_> = (0..1100).map(|_| sealed(&mut sealer, b"x")).collect();
    assert!(!opener.open(&mut packets[1099]).unwrap().late);
    assert!(opener.open(&mut packets[1098]).unwrap().late);
    assert!(opener.open(&mut packets[76]).unwrap().late);
    assert_eq!(opener.open(&mut packets[75]), Err(OpenError::TooOld));
}

#[test]
fn a_packet_for_another_receiver_is_not_ours() {
    let (mut sealer, _) = ends(Cipher::Aes128Gcm, Layout::Bare);
    let keys = SessionKeys::danger_fixed(Cipher::Aes128Gcm, 42);
    let other = Spi::new(SPI.get() - 1).unwrap();
    let mut opener = Opener::new(&keys.to_agent, other, Layout::Bare);
    let mut packet = sealed(&mut sealer, b"x");
    assert_eq!(opener.open(&mut packet), Err(OpenError::UnknownSpi));
}

#[test]
fn the_two_directions_do_not_share_a_key() {
    let keys = SessionKeys::danger_fixed(Cipher::Aes128Gcm, 42);
    let (mut sealer, _) = ends(Cipher::Aes128Gcm, Layout::Bare);
    let mut opener = Opener::new(&keys.to_client, SPI, Layout::Bare);
    let mut packet = sealed(&mut sealer, b"x");
    assert_eq!(opener.open(&mut packet), Err(OpenError::NotAuthentic));
}

#[test]
fn a_forgery_does_not_move_the_window() {
    let (mut sealer, mut opener) = ends(Cipher::Aes128Gcm, Layout::Bare);
    let mut honest = sealed(&mut sealer, b"honest");
    let mut forged = honest.clone();
    forged[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(opener.open(&mut forged), Err(OpenError::NotAuthentic));
    assert_eq!(opener.highest(), 0);
    assert_eq!(opener.open(&mut honest).unwrap().sequence, 1);
}

#[test]
fn the_last_sequence_number_is_used_once_and_then_no_more() {
    let (mut sealer, mut opener) = ends(Cipher::Aes128Gcm, Layout::Bare);
    sealer.skip_to(u32::MAX - 1);
    let mut last = sealed(&mut sealer, b"last");
    assert_eq!(opener.open(&mut last).unwrap().sequence, u32::MAX);
    let mut out = Vec::new();
    assert_eq!(sealer.seal(b"more", &mut out), Err(SealError::Exhausted));
    assert_eq!(sealer.sent(), u32::MAX);
}

#[test]
fn reserved_spis_are_refused() {
    assert_eq!(Spi::new(0), None);
    assert_eq!(Spi::new(255), None);
    assert_eq!(Spi::new(256).map(Spi::get), Some(256));
    assert_eq!(Spi::from_random(0).get(), 0x8000_0000);
    assert_eq!(Spi::from_random(300).get(), 300);
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Bare), Just(Layout::WithTransportHeader)]
}

fn ciphers() -> impl Strategy<Value = Cipher> {
    prop_oneof![Just(Cipher::Aes128Gcm), Just(Cipher::Aes256Gcm)]
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        layout in layouts(),
        cipher in ciphers(),
        payload in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (mut sealer, mut opener) = ends(cipher, layout);
        let mut packet = sealed(&mut sealer, &payload);
        prop_assert_eq!(opener.open(&mut packet).unwrap().payload, &payload[..]);
    }

    /// A change of any bit after the transport header is noticed; the transport header itself is not authenticated.
    #[test]
    fn any_changed_bit_is_noticed(
        layout in layouts(),
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        position in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let (mut sealer, mut opener) = ends(Cipher::Aes128Gcm, layout);
        let mut packet = sealed(&mut sealer, &payload);
        let position = position.index(packet.len());
        packet[position] ^= 1 << bit;
        let opened = opener.open(&mut packet).map(|opened| opened.payload.to_vec());
        if position < transport_header_bytes(layout) {
            prop_assert_eq!(opened, Ok(payload));
        } else {
            prop_assert!(opened.is_err());
        }
    }

    #[test]
    fn cut_or_lengthened_packets_are_dropped(
        layout in layouts(),
        cut in 1_usize..60,
        more in 1_usize..20,
    ) {
        let (mut sealer, mut opener) = ends(Cipher::Aes128Gcm, layout);
        let packet = sealed(&mut sealer, b"0123456789");
        let kept = packet.len().saturating_sub(cut);
        prop_assert!(opener.open(&mut packet[..kept].to_vec()).is_err());
        let mut longer = packet;
        longer.extend(std::iter::repeat_n(0, more));
        prop_assert!(opener.open(&mut longer).is_err());
    }

    #[test]
    fn the_room_for_payload_is_all_the_room_there_is(layout in layouts(), udp in 0_usize..1500) {
        let room = payload_room(udp, layout);
        let (mut sealer, _) = ends(Cipher::Aes128Gcm, layout);
        if room > 0 {
            prop_assert!(sealed(&mut sealer, &vec![0; room]).len() <= udp);
        }
        prop_assert!(sealed(&mut sealer, &vec![0; room + 1]).len() > udp);
    }

    #[test]
    fn no_datagram_makes_the_opener_panic(data in proptest::collection::vec(any::<u8>(), 0..120)) {
        fuzz_esp(&data);
    }
}
