//! The licence server's address as Connection Managers pass it to agents: `port@host` or `http(s)://host:port/request`.

/// One address of a licence server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LicensePath(String);

// parse(&str) -> Result<LicensePath, InvalidLicensePath>; host(); port(); scheme(); as_str() — text kept verbatim
