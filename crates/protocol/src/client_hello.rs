//! Reads the server name out of a TLS ClientHello, incrementally, without judging the rest of it.
//!
//! TLS libraries refuse or drop the names real PCoIP clients send (IP literals, short host names), so this reader takes
//! any printable name. Layouts: RFC 8446 sections 4 and 5.1, RFC 6066 section 3.

use std::fmt;

use thiserror::Error;

/// Largest ClientHello accepted, record headers included.
pub const MAX_BYTES: usize = 16 * 1024;
/// Longest server name in bytes.
const MAX_NAME_BYTES: usize = 255;

const RECORD_HEADER_BYTES: usize = 5;
/// Largest plaintext record, RFC 8446 section 5.1.
const MAX_RECORD_BYTES: usize = 1 << 14;
const HANDSHAKE_HEADER_BYTES: usize = 4;

/// Record types 20 to 24: change_cipher_spec, alert, handshake, application_data, heartbeat.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME_EXTENSION: u16 = 0;
const HOST_NAME: u8 = 0;

/// A server name as a client wrote it: a DNS name, a short host name in any case, or an IP literal. Compared in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(String);

/// Outcome of looking at the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not all of the ClientHello is here; read more and call again with everything from the start.
    Incomplete,
    /// The ClientHello is complete.
    Complete(ClientHello),
}

/// What the gateway needs to know of a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The `server_name` extension's host name, when there is one.
    pub server_name: Option<ServerName>,
}

/// Bytes that are not the start of a TLS connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadClientHelloError {
    /// Longer than [`MAX_BYTES`].
    #[error("the ClientHello is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not a TLS record, known from the first byte where possible.
    #[error("the connection does not start with a TLS record")]
    NotTls,
    /// TLS, but an alert, data or another handshake message where the ClientHello should be.
    #[error("the connection does not start with a ClientHello")]
    NotClientHello,
    /// A ClientHello whose parts do not fit into each other.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// A `server_name` extension whose host name is empty, too long or not printable ASCII. Taken for an error and not for
    /// an absent name, so that it can never match a session that is reserved for a client without one.
    #[error("the server name in the ClientHello is not usable")]
    UnusableServerName,
}

/// Looks at everything received so far.
///
/// Bytes after the ClientHello are not looked at.
///
/// # Errors
/// See [`ReadClientHelloError`]. An error is final: more bytes do not mend it.
pub fn read(received: &[u8]) -> Result<Progress, ReadClientHelloError> {
    let message = match assemble(received)? {
        Some(message) => message,
        None if received.len() >= MAX_BYTES => return Err(ReadClientHelloError::TooLong),
        None => return Ok(Progress::Incomplete),
    };
    let server_name = parse_body(&message)?;
    Ok(Progress::Complete(ClientHello { server_name }))
}

impl ServerName {
    /// A name in lower case, without a trailing dot; `None` when empty, longer than 255 bytes or not printable ASCII.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES;
        (fits && name.bytes().all(|byte| byte.is_ascii_graphic()))
            .then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Joins the handshake fragments of the records until the ClientHello's body is whole; `None` while it is not.
fn assemble(received: &[u8]) -> Result<Option<Vec<u8>>, ReadClientHelloError> {
    let mut rest = received;
    let mut handshake = Vec::new();
    loop {
        check_record_start(rest, handshake.is_empty())?;
        let consumed = received.len() - rest.len();
        let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [_, _, _, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD_BYTES {
            return Err(ReadClientHelloError::Malformed);
        }
        let (fragment, next) = after.split_at(length.min(after.len()));
        handshake.extend_from_slice(fragment);
        if let Some(length) = body_length(&handshake)?
            && let Some(body) =
                handshake.get(HANDSHAKE_HEADER_BYTES..HANDSHAKE_HEADER_BYTES + length)
        {
            let surplus = handshake.len() - HANDSHAKE_HEADER_BYTES - length;
            let end = consumed + RECORD_HEADER_BYTES + fragment.len() - surplus;
            return if end > MAX_BYTES {
                Err(ReadClientHelloError::TooLong)
            } else {
                Ok(Some(body.to_vec()))
            };
        }
        if fragment.len() < length {
            return Ok(None);
        }
        rest = next;
    }
}

/// Refuses as early as the bytes allow; `first` is whether no handshake byte was seen yet.
fn check_record_start(record: &[u8], first: bool) -> Result<(), ReadClientHelloError> {
    match record.first() {
        None | Some(&HANDSHAKE) => {}
        Some(kind) if RECORD_TYPES.contains(kind) => {
            return Err(ReadClientHelloError::NotClientHello);
        }
        Some(_) if first => return Err(ReadClientHelloError::NotTls),
        Some(_) => return Err(ReadClientHelloError::Malformed),
    }
    let version_fits = record.get(1).is_none_or(|major| *major == 3)
        && record.get(2).is_none_or(|minor| *minor <= 4);
    match (version_fits, first) {
        (true, _) => Ok(()),
        (false, true) => Err(ReadClientHelloError::NotTls),
        (false, false) => Err(ReadClientHelloError::Malformed),
    }
}

/// Length of the ClientHello's body, `None` while its header is not whole.
fn body_length(handshake: &[u8]) -> Result<Option<usize>, ReadClientHelloError> {
    if handshake.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(ReadClientHelloError::NotClientHello);
    }
    let Some(([_, high, middle, low], _)) = handshake.split_first_chunk::<HANDSHAKE_HEADER_BYTES>()
    else {
        return Ok(None);
    };
    let length = (usize::from(*high) << 16) | (usize::from(*middle) << 8) | usize::from(*low);
    if length > MAX_BYTES - RECORD_HEADER_BYTES - HANDSHAKE_HEADER_BYTES {
        return Err(ReadClientHelloError::TooLong);
    }
    Ok(Some(length))
}

fn parse_body(body: &[u8]) -> Result<Option<ServerName>, ReadClientHelloError> {
    let mut body = Cursor(body);
    body.take(2)?; // legacy_version
    body.take(32)?; // random
    body.vector8()?; // legacy_session_id
    body.vector16()?; // cipher_suites
    body.vector8()?; // legacy_compression_methods
    if body.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Cursor(body.vector16()?);
    body.end()?;
    let mut server_name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        if kind == SERVER_NAME_EXTENSION {
            if server_name.is_some() {
                return Err(ReadClientHelloError::Malformed);
            }
            server_name = Some(parse_server_names(data)?);
        }
    }
    Ok(server_name.flatten())
}

/// The one host name of a `server_name` extension; `None` when all names are of types not known today.
fn parse_server_names(data: &[u8]) -> Result<Option<ServerName>, ReadClientHelloError> {
    let mut data = Cursor(data);
    let mut names = Cursor(data.vector16()?);
    data.end()?;
    if names.0.is_empty() {
        return Err(ReadClientHelloError::UnusableServerName);
    }
    let mut host_name = None;
    while !names.0.is_empty() {
        let [kind] = names.array()?;
        let name = names.vector16()?;
        if kind != HOST_NAME {
            continue;
        }
        let name = std::str::from_utf8(name)
            .ok()
            .and_then(ServerName::new)
            .ok_or(ReadClientHelloError::UnusableServerName)?;
        if host_name.replace(name).is_some() {
            return Err(ReadClientHelloError::Malformed);
        }
    }
    Ok(host_name)
}

/// What is left of a TLS structure.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ReadClientHelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ReadClientHelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadClientHelloError> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(ReadClientHelloError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, ReadClientHelloError> {
        self.array().map(u16::from_be_bytes)
    }

    fn vector8(&mut self) -> Result<&'a [u8], ReadClientHelloError> {
        let [length] = self.array()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Result<&'a [u8], ReadClientHelloError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    fn end(&self) -> Result<(), ReadClientHelloError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ReadClientHelloError::Malformed)
        }
    }
}

/// Fuzz entry: a verdict on some bytes is never changed by more of them, and names stay names.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let whole = read(data);
    for end in 0..data.len().min(512) {
        let part = read(data.get(..end).unwrap_or_default());
        if part != Ok(Progress::Incomplete) {
            assert_eq!(part, whole);
        }
    }
    if let Ok(Progress::Complete(ClientHello {
        server_name: Some(name),
    })) = whole
    {
        assert_eq!(ServerName::new(name.as_str()), Some(name));
    }
}

#[cfg(test)]
mod tests;
