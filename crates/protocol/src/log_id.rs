//! The session log id: one UUID through the log lines of every component.

use std::{fmt, str::FromStr};

use thiserror::Error;
use uuid::Uuid;

/// The client's `Client-Log-Id`, an RFC 4122 UUID in its 36-character text form.
///
/// The nil UUID is what probing clients send before a session exists: it names nothing, so nothing may be keyed on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(Uuid);

impl LogId {
    /// A fresh random id (UUID version 4), for a request that came without one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Wraps a UUID.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The `n`-th id of the series that starts with this one, for ids made without randomness.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() ^ u128::from(n)))
    }

    /// Whether this is the all-zero id of a probe.
    #[must_use]
    pub fn is_nil(self) -> bool {
        self.0.is_nil()
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// A text that is not a UUID in its hyphenated form.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a session log id is a UUID in its 36-character form")]
pub struct InvalidLogId;

impl FromStr for LogId {
    type Err = InvalidLogId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.len() != 36 {
            return Err(InvalidLogId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidLogId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_series_differ() {
        let first = LogId::random();
        assert_eq!(first.nth(0), first);
        assert_ne!(first.nth(1), first);
        assert_ne!(first.nth(1), first.nth(2));
        assert_eq!(first.nth(7), first.nth(7));
    }

    #[test]
    fn the_hyphenated_form_and_no_other() {
        let id: LogId = " 7CD13600-b190-1039-bfc7-02005e100002\r\n".parse().unwrap();
        assert_eq!(id.to_string(), "7cd13600-b190-1039-bfc7-02005e100002");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "7cd13600b1901039bfc702005e100002",
            "{7cd13600-b190-1039-bfc7-02005e100002}",
            "urn:uuid:7cd13600-b190-1039-bfc7-02005e100002",
            "7cd13600-b190-1039-bfc7-02005e10000",
            "7cd13600-b190-1039-bfc7-02005e10000g",
            "7cd13600-b190-1039-bfc702-005e100002",
            "7cd13600_b190_1039_bfc7_02005e100002",
        ] {
            assert_eq!(text.parse::<LogId>(), Err(InvalidLogId), "{text:?}");
        }
    }

    #[test]
    fn the_probe_sends_the_nil_id() {
        assert!(
            "00000000-0000-0000-0000-000000000000"
                .parse::<LogId>()
                .unwrap()
                .is_nil()
        );
        assert!(!LogId::random().is_nil());
        assert_ne!(LogId::random(), LogId::random());
        assert_eq!(
            LogId::from_uuid(Uuid::nil()).to_string(),
            "00000000-0000-0000-0000-000000000000"
        );
    }
}
