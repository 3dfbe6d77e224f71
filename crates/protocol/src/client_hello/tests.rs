//! Real ClientHellos from rustls, and hand-made ones for what rustls does not send.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

use super::*;

const HOST: &str = "desktops.example.com";

/// The first flight of a rustls client.
fn rustls_hello(
    name: &str,
    change: impl FnOnce(&mut ClientConfig),
    versions: &[&'static SupportedProtocolVersion],
) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    change(&mut config);
    let mut connection =
        ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn plain_rustls_hello() -> Vec<u8> {
    rustls_hello(HOST, |_| {}, &[&version::TLS13, &version::TLS12])
}

fn vector16(content: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(content);
    bytes
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(data)].concat()
}

fn host_name(name: &[u8]) -> Vec<u8> {
    [vec![HOST_NAME], vector16(name)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME_EXTENSION, &vector16(&host_name(name)))
}

/// A ClientHello's handshake message around the given bytes after the compression methods.
fn message(after_compression: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(after_compression);
    let mut message = vec![CLIENT_HELLO];
    message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend(body);
    message
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [vec![HANDSHAKE, 3, 1], vector16(fragment)].concat()
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    record(&message(&vector16(extensions)))
}

fn complete(name: Option<&str>) -> Result<Progress, ReadClientHelloError> {
    Ok(Progress::Complete(ClientHello {
        server_name: name.map(|name| ServerName::new(name).unwrap()),
    }))
}

/// Every prefix is incomplete and the whole is complete, whatever follows it.
fn assert_reads(bytes: &[u8], name: Option<&str>) {
    for end in 0..bytes.len() {
        assert_eq!(
            read(&bytes[..end]),
            Ok(Progress::Incomplete),
            "{end} of {}",
            bytes.len()
        );
    }
    assert_eq!(read(bytes), complete(name));
    assert_eq!(
        read(&[bytes, b"\x17\x03\x03whatever"].concat()),
        complete(name)
    );
}

#[test]
fn rustls_clients_of_both_versions() {
    for versions in [
        [&version::TLS13, &version::TLS12].as_slice(),
        &[&version::TLS13],
        &[&version::TLS12],
    ] {
        assert_reads(&rustls_hello(HOST, |_| {}, versions), Some(HOST));
        assert_reads(
            &rustls_hello(
                HOST,
                |config| config.alpn_protocols = vec![b"http/1.1".to_vec()],
                versions,
            ),
            Some(HOST),
        );
    }
}

#[test]
fn rustls_clients_without_a_name() {
    let versions = [&version::TLS13, &version::TLS12];
    assert_reads(
        &rustls_hello(HOST, |config| config.enable_sni = false, &versions),
        None,
    );
    assert_reads(&rustls_hello("192.0.2.1", |_| {}, &versions), None);
}

#[test]
fn rustls_clients_that_fragment_the_message() {
    for size in [32, 33, 100, 128] {
        let bytes = rustls_hello(
            HOST,
            |config| config.max_fragment_size = Some(size),
            &[&version::TLS13],
        );
        assert!(bytes.len() > size, "one record after all");
        assert_reads(&bytes, Some(HOST));
    }
}

#[test]
fn a_real_message_in_every_fragmentation_of_two_records_and_in_single_bytes() {
    let real = plain_rustls_hello();
    let message = &real[RECORD_HEADER_BYTES..];
    for split in 1..message.len() {
        let (one, two) = message.split_at(split);
        assert_eq!(
            read(&[record(one), record(two)].concat()),
            complete(Some(HOST)),
            "{split}"
        );
    }
    let single: Vec<u8> = message.iter().flat_map(|byte| record(&[*byte])).collect();
    assert_reads(&single, Some(HOST));
}

#[test]
fn names_that_tls_libraries_refuse() {
    for (sent, read_as) in [
        ("10.117.0.68", "10.117.0.68"),
        ("2001:db8::17", "2001:db8::17"),
        ("2001:DB8::17", "2001:db8::17"),
        ("DRAW-W7P64-15", "draw-w7p64-15"),
        ("pcoip-default-sg-sni", "pcoip-default-sg-sni"),
        ("under_score", "under_score"),
        ("dotted.example.com.", "dotted.example.com"),
    ] {
        assert_reads(&hello_with(&sni(sent.as_bytes())), Some(read_as));
    }
    let longest = "a".repeat(MAX_NAME_BYTES);
    assert_reads(&hello_with(&sni(longest.as_bytes())), Some(&longest));
}

#[test]
fn no_extensions_or_none_for_names_means_no_name() {
    assert_reads(&record(&message(&[])), None);
    assert_reads(&hello_with(&[]), None);
    assert_reads(&hello_with(&extension(0x0a0a, b"grease")), None);
    // A list of names of other types only.
    assert_reads(
        &hello_with(&extension(0, &vector16(&[9, 0, 1, b'x']))),
        None,
    );
}

#[test]
fn the_name_is_found_among_other_extensions() {
    let extensions = [
        extension(0x0a0a, &[]),
        extension(10, &[0, 2, 0, 23]),
        sni(b"DRAW-1"),
        extension(0xff01, &[0]),
    ];
    assert_reads(&hello_with(&extensions.concat()), Some("draw-1"));
    let names = [vec![9, 0, 1, b'x'], host_name(b"draw-1")].concat();
    assert_reads(
        &hello_with(&extension(0, &vector16(&names))),
        Some("draw-1"),
    );
}

#[test]
fn unusable_names_are_errors_and_not_absent_names() {
    let too_long = "a".repeat(MAX_NAME_BYTES + 1);
    for name in [
        b"".as_slice(),
        b".",
        b"a b",
        b"tab\t",
        b"nul\0",
        b"del\x7f",
        "dräw".as_bytes(),
        b"\xff\xfe",
        too_long.as_bytes(),
    ] {
        assert_eq!(
            read(&hello_with(&sni(name))),
            Err(ReadClientHelloError::UnusableServerName),
            "{name:?}"
        );
    }
    assert_eq!(
        read(&hello_with(&extension(0, &vector16(&[])))),
        Err(ReadClientHelloError::UnusableServerName)
    );
}

#[test]
fn malformed_extensions_are_errors() {
    let name = host_name(b"draw-1");
    for extensions in [
        extension(0, &[]),
        extension(0, &[0]),
        extension(0, &[vector16(&name), vec![0]].concat()),
        extension(0, &vector16(&[0])),
        extension(0, &vector16(&[0, 0, 9, b'x'])),
        extension(0, &vector16(&[name.clone(), name.clone()].concat())),
        [sni(b"draw-1"), sni(b"draw-1")].concat(),
        [sni(b"draw-1"), vec![0]].concat(),
        [sni(b"draw-1"), vec![0, 10, 0, 5, 0]].concat(),
    ] {
        assert_eq!(
            read(&hello_with(&extensions)),
            Err(ReadClientHelloError::Malformed),
            "{extensions:?}"
        );
    }
    let trailing = [vector16(&sni(b"draw-1")), vec![0]].concat();
    assert_eq!(
        read(&record(&message(&trailing))),
        Err(ReadClientHelloError::Malformed)
    );
    assert_eq!(
        read(&record(&message(&[0]))),
        Err(ReadClientHelloError::Malformed)
    );
}

#[test]
fn a_body_cut_short_inside_is_malformed() {
    let whole = message(&vector16(&sni(b"draw-1")));
    let body = &whole[HANDSHAKE_HEADER_BYTES..];
    let fixed = 2 + 32 + 1 + 4 + 2;
    for length in 0..body.len() {
        let mut cut = vec![CLIENT_HELLO];
        cut.extend(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        cut.extend(&body[..length]);
        // Old clients end after the compression methods.
        let expected = if length == fixed {
            complete(None)
        } else {
            Err(ReadClientHelloError::Malformed)
        };
        assert_eq!(read(&record(&cut)), expected, "{length}");
    }
}

#[test]
fn other_protocols_are_refused_from_the_first_byte() {
    for bytes in [
        b"GET / HTTP/1.1\r\n".as_slice(),
        b"SSH-2.0-x",
        b"\x80\x2e\x01\x03\x01",
        b"\0",
        b"\xff",
    ] {
        for end in 1..=bytes.len() {
            assert_eq!(read(&bytes[..end]), Err(ReadClientHelloError::NotTls));
        }
    }
    assert_eq!(read(&[HANDSHAKE, 2]), Err(ReadClientHelloError::NotTls));
    assert_eq!(read(&[HANDSHAKE, 3, 5]), Err(ReadClientHelloError::NotTls));
}

#[test]
fn record_versions_up_to_tls_1_3_are_taken() {
    let mut bytes = hello_with(&sni(b"draw-1"));
    for minor in 0..=4 {
        bytes[2] = minor;
        assert_eq!(read(&bytes), complete(Some("draw-1")));
    }
}

#[test]
fn other_records_and_messages_are_not_a_client_hello() {
    for kind in [20, 21, 23, 24] {
        assert_eq!(read(&[kind]), Err(ReadClientHelloError::NotClientHello));
        let one = record(&message(&[])[..10]);
        assert_eq!(
            read(&[one, vec![kind]].concat()),
            Err(ReadClientHelloError::NotClientHello)
        );
    }
    for kind in [0, 2, 11, 255] {
        assert_eq!(
            read(&record(&[kind])),
            Err(ReadClientHelloError::NotClientHello)
        );
    }
    let one = record(&message(&[])[..10]);
    assert_eq!(
        read(&[one.clone(), vec![99]].concat()),
        Err(ReadClientHelloError::Malformed)
    );
    assert_eq!(
        read(&[one, vec![HANDSHAKE, 9]].concat()),
        Err(ReadClientHelloError::Malformed)
    );
}

#[test]
fn record_lengths_have_bounds() {
    assert_eq!(
        read(&[HANDSHAKE, 3, 1, 0, 0]),
        Err(ReadClientHelloError::Malformed)
    );
    assert_eq!(
        read(&[HANDSHAKE, 3, 1, 0x40, 0x01]),
        Err(ReadClientHelloError::Malformed)
    );
    assert_eq!(
        read(&[HANDSHAKE, 3, 1, 0x40, 0x00]),
        Ok(Progress::Incomplete)
    );
}

#[test]
fn the_largest_message_and_one_byte_more() {
    let padded = |total: usize| {
        let empty = hello_with(&extension(21, &[])).len();
        hello_with(&extension(21, &vec![0; total - empty]))
    };
    let largest = padded(MAX_BYTES);
    assert_eq!(largest.len(), MAX_BYTES);
    assert_eq!(read(&largest[..MAX_BYTES - 1]), Ok(Progress::Incomplete));
    assert_eq!(read(&largest), complete(None));
    let larger = padded(MAX_BYTES + 1);
    for end in RECORD_HEADER_BYTES + HANDSHAKE_HEADER_BYTES..=larger.len() {
        assert_eq!(read(&larger[..end]), Err(ReadClientHelloError::TooLong));
    }
}

#[test]
fn headers_of_many_records_count_towards_the_size() {
    let message = message(&vector16(&extension(21, &[0; 4000])));
    let bytes: Vec<u8> = message.iter().flat_map(|byte| record(&[*byte])).collect();
    assert!(bytes.len() > MAX_BYTES && message.len() < MAX_BYTES);
    assert_eq!(read(&bytes[..MAX_BYTES - 1]), Ok(Progress::Incomplete));
    assert_eq!(
        read(&bytes[..MAX_BYTES]),
        Err(ReadClientHelloError::TooLong)
    );
    assert_eq!(read(&bytes), Err(ReadClientHelloError::TooLong));
}

#[test]
fn what_follows_the_message_in_its_record_does_not_count() {
    let mut fragment = message(&vector16(&sni(b"draw-1")));
    let needed = RECORD_HEADER_BYTES + fragment.len();
    fragment.resize(MAX_RECORD_BYTES, 0);
    let bytes = record(&fragment);
    assert!(bytes.len() > MAX_BYTES);
    assert_eq!(read(&bytes[..needed - 1]), Ok(Progress::Incomplete));
    for end in [needed, needed + 1, MAX_BYTES, bytes.len()] {
        assert_eq!(read(&bytes[..end]), complete(Some("draw-1")), "{end}");
    }
}

#[test]
fn server_names_compare_in_lower_case() {
    assert_eq!(ServerName::new("DRAW-1."), ServerName::new("draw-1"));
    assert_ne!(ServerName::new("draw-1.."), ServerName::new("draw-1"));
    assert_eq!(ServerName::new("DRAW-1").unwrap().as_str(), "draw-1");
    assert_eq!(ServerName::new("DRAW-1").unwrap().to_string(), "draw-1");
    for name in ["", ".", " ", "a b", "é"] {
        assert_eq!(ServerName::new(name), None, "{name:?}");
    }
}

proptest! {
    /// Never panics, and more bytes never change a verdict.
    #[test]
    fn verdicts_are_final(mut bytes in prop::collection::vec(any::<u8>(), 0..600), start in 0_usize..4) {
        let tls = [HANDSHAKE, 3, 1, 0, 200, CLIENT_HELLO, 0, 0, 150];
        let known = [0, 3, 5, 9][start];
        for (byte, known) in bytes.iter_mut().zip(&tls[..known]) {
            *byte = *known;
        }
        let whole = read(&bytes);
        let mut decided = None;
        for end in 0..=bytes.len() {
            let verdict = read(&bytes[..end]);
            if let Some(decided) = &decided {
                prop_assert_eq!(&verdict, decided);
            } else if verdict != Ok(Progress::Incomplete) {
                decided = Some(verdict);
            }
        }
        prop_assert_eq!(decided.unwrap_or(Ok(Progress::Incomplete)), whole);
    }

    /// One changed byte of a real ClientHello is read or refused, never worse.
    #[test]
    fn damaged_hellos_do_no_harm(position in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = hello_with(&[extension(10, &[0, 2, 0, 23]), sni(b"draw-1")].concat());
        let index = position.index(bytes.len());
        bytes[index] = value;
        let _ = read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes);
    }

    /// Any fragmentation of a message gives the same name.
    #[test]
    fn fragmentation_changes_nothing(name in "[a-zA-Z0-9.:_-]{1,200}[a-z]", sizes in prop::collection::vec(1_usize..80, 1..20)) {
        let message = message(&vector16(&sni(name.as_bytes())));
        let mut rest = message.as_slice();
        let mut bytes = Vec::new();
        for size in sizes.iter().cycle() {
            let (fragment, next) = rest.split_at((*size).min(rest.len()));
            bytes.extend(record(fragment));
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read(&bytes), complete(Some(&name)));
    }
}
