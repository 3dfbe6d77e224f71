//! A TLS ClientHello by hand: as much of one as a gateway looks at.

/// A TLS 1.2 ClientHello with a server name and one cipher suite, in one record.
///
/// `None` when the name is longer than a ClientHello can say.
pub(super) fn client_hello(server_name: &str) -> Option<Vec<u8>> {
    /// TLS 1.2, as every ClientHello says first.
    const VERSION: [u8; 2] = [3, 3];
    let host = with_length(server_name.as_bytes())?;
    let entry = [[0].as_slice(), &host].concat();
    let list = with_length(&entry)?;
    let extension = [[0, 0].as_slice(), &with_length(&list)?].concat();
    let body = [
        VERSION.as_slice(),
        // Random, and an empty session id.
        &[0x5a; 32],
        &[0],
        // TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, without compression.
        &[0, 2, 0xc0, 0x2f],
        &[1, 0],
        &with_length(&extension)?,
    ]
    .concat();
    let handshake = [[1, 0].as_slice(), &with_length(&body)?].concat();
    Some([[22, 3, 1].as_slice(), &with_length(&handshake)?].concat())
}

/// Bytes after their 16-bit length.
fn with_length(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(bytes.len()).ok()?;
    Some([length.to_be_bytes().as_slice(), bytes].concat())
}

#[cfg(test)]
mod tests {
    use portcullis_protocol::client_hello::{ClientHello, Progress, ServerName, read};

    use super::*;

    #[test]
    fn it_names_the_server_once_it_is_whole() {
        let hello = client_hello("s-17.bench.invalid").unwrap();
        let server_name = ServerName::new("s-17.bench.invalid");
        let whole = Progress::Complete(ClientHello { server_name });
        assert_eq!(read(&hello), Ok(whole));
        let cut = hello.get(..hello.len() - 1).unwrap();
        assert_eq!(read(cut), Ok(Progress::Incomplete));
    }

    #[test]
    fn a_name_that_does_not_fit_has_none() {
        assert_eq!(client_hello(&"x".repeat(65_530)), None);
    }
}
