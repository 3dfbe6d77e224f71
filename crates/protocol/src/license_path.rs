//! The licence server's address as Connection Managers pass it to agents: `port@host` or `http(s)://host:port/request`.
//!
//! Both forms are documented, and so is the limit of 511 characters. How several addresses are separated is not: `;`, `,`
//! and white space are all taken, which is our own inference.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use thiserror::Error;

/// Longest address in characters.
pub const MAX_CHARACTERS: usize = 511;
/// Path of the request in URLs that name none.
const REQUEST_PATH: &str = "/request";

/// One address of a licence server, the text kept as written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LicensePath {
    text: String,
    form: Form,
    host: String,
    port: u16,
    /// With its slash; empty when the address names none.
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    PortAtHost,
    Http,
    Https,
}

/// Why a text is not the address of a licence server.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidLicensePath {
    /// Nothing at all.
    #[error("the address of the licence server is empty")]
    Empty,
    /// Longer than [`MAX_CHARACTERS`].
    #[error("the address of the licence server is longer than {MAX_CHARACTERS} characters")]
    TooLong,
    /// Neither `port@host` nor an `http` or `https` URL.
    #[error(
        "the address of the licence server is neither port@host nor http(s)://host:port/request"
    )]
    Form,
    /// The host is no name, IPv4 address or bracketed IPv6 address.
    #[error("the host in the address of the licence server is not valid")]
    Host,
    /// The port is not 1 to 65535.
    #[error("the port in the address of the licence server is not a number from 1 to 65535")]
    Port,
    /// The path holds characters that cannot stand in one.
    #[error("the path in the address of the licence server is not valid")]
    Path,
}

impl LicensePath {
    /// Reads one address. White space around it is dropped.
    ///
    /// # Errors
    /// See [`InvalidLicensePath`].
    pub fn parse(text: &str) -> Result<Self, InvalidLicensePath> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidLicensePath::Empty);
        }
        if text.chars().count() > MAX_CHARACTERS {
            return Err(InvalidLicensePath::TooLong);
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let form = match scheme {
                _ if scheme.eq_ignore_ascii_case("http") => Form::Http,
                _ if scheme.eq_ignore_ascii_case("https") => Form::Https,
                _ => return Err(InvalidLicensePath::Form),
            };
            return Self::parse_url(text, form, rest);
        }
        let (port, host) = text.split_once('@').ok_or(InvalidLicensePath::Form)?;
        Ok(Self {
            text: text.to_owned(),
            form: Form::PortAtHost,
            host: parse_host(host)?,
            port: parse_port(port)?,
            path: String::new(),
        })
    }

    /// Reads any number of addresses, separated by `;`, `,` or white space; an empty text is an empty list.
    ///
    /// # Errors
    /// See [`InvalidLicensePath`]; one bad address spoils the list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidLicensePath> {
        text.split(|character: char| matches!(character, ';' | ',') || character.is_whitespace())
            .filter(|part| !part.is_empty())
            .map(Self::parse)
            .collect()
    }

    fn parse_url(text: &str, form: Form, rest: &str) -> Result<Self, InvalidLicensePath> {
        let (authority, path) = match rest.find('/') {
            Some(index) => rest
                .split_at_checked(index)
                .ok_or(InvalidLicensePath::Form)?,
            None => (rest, ""),
        };
        if !path.bytes().all(is_path_byte) {
            return Err(InvalidLicensePath::Path);
        }
        // A colon inside brackets belongs to an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, parse_port(port)?),
            Some(_) | None => (authority, form.default_port()),
        };
        Ok(Self {
            text: text.to_owned(),
            form,
            host: parse_host(host)?,
            port,
            path: path.to_owned(),
        })
    }

    /// The address as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port. A URL that names none has that of its scheme, 80 or 443.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of the request; `/request` when the address names none.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.path.as_str() {
            "" | "/" => REQUEST_PATH,
            path => path,
        }
    }

    /// Whether to speak TLS. `port@host` does not say; TLS is our choice for it, so that no request leaves in the clear
    /// unless the administrator wrote `http`.
    #[must_use]
    pub fn is_https(&self) -> bool {
        match self.form {
            Form::PortAtHost | Form::Https => true,
            Form::Http => false,
        }
    }

    /// Host and port as they stand in a URL, IPv6 addresses in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The URL to send requests to.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path())
    }
}

impl Form {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::PortAtHost | Self::Https => 443,
        }
    }
}

impl FromStr for LicensePath {
    type Err = InvalidLicensePath;

    fn from_str(text: &str) -> Result<Self, InvalidLicensePath> {
        Self::parse(text)
    }
}

impl fmt::Display for LicensePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

fn parse_host(text: &str) -> Result<String, InvalidLicensePath> {
    if let Some(address) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        address
            .parse::<Ipv6Addr>()
            .map_err(|_| InvalidLicensePath::Host)?;
        return Ok(address.to_owned());
    }
    let is_name_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || !text.bytes().all(is_name_byte) {
        return Err(InvalidLicensePath::Host);
    }
    Ok(text.to_owned())
}

fn parse_port(text: &str) -> Result<u16, InvalidLicensePath> {
    crate::broker::fields::decimal(text)
        .filter(|port| *port != 0)
        .ok_or(InvalidLicensePath::Port)
}

/// Printable ASCII except `#`, which starts a part that is never sent, and the separators of a list.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b';' | b',')
}
