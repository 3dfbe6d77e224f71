//! Reads the server name out of a TLS ClientHello, incrementally, without judging the rest of it.

use thiserror::Error;

/// Largest ClientHello accepted, record headers included.
pub const MAX_BYTES: usize = 16 * 1024;

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
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadClientHelloError {
    /// Longer than [`MAX_BYTES`].
    #[error("the ClientHello is longer than {MAX_BYTES} bytes")]
    TooLong,
    // further: NotTls, NotClientHello, Malformed, …
}

/// Looks at everything received so far.
///
/// # Errors
/// See [`ReadClientHelloError`].
pub fn read(received: &[u8]) -> Result<Progress, ReadClientHelloError> {
    let _ = received;
    todo!()
}

impl ServerName {
    /// A name in lower case, without a trailing dot; `None` when empty, longer than 255 bytes or not printable ASCII.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let _ = name;
        todo!()
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
