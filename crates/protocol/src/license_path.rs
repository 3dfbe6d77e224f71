//! The licence server's address as Connection Managers pass it to agents: `port@host` or `http(s)://host:port/request`.
//!
//! Both forms are documented, and so is the limit of 511 characters. How several addresses are separated is not: `;`, `,`
//! and white space are all taken, which is our own inference.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use thiserror::Error;

use crate::decimal::decimal;

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
    decimal(text)
        .filter(|port| *port != 0)
        .ok_or(InvalidLicensePath::Port)
}

/// Printable ASCII except `#`, which starts a part that is never sent, and the separators of a list.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b';' | b',')
}

/// Fuzz entry: an address is kept as written, and its URL is an address of the same server.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(path) = LicensePath::parse(text) {
        assert_eq!(path.as_str(), text.trim());
        assert_eq!(LicensePath::parse(path.as_str()).as_ref(), Ok(&path));
        if path.url().len() <= MAX_CHARACTERS {
            let url = LicensePath::parse(&path.url());
            let parts = |path: &LicensePath| {
                (
                    path.host.clone(),
                    path.port,
                    path.is_https(),
                    path.path().to_owned(),
                )
            };
            assert_eq!(url.as_ref().map(parts), Ok(parts(&path)));
        }
    }
    if let Ok(list) = LicensePath::parse_list(text) {
        let joined: Vec<&str> = list.iter().map(LicensePath::as_str).collect();
        assert_eq!(
            LicensePath::parse_list(&joined.join(";")).as_ref(),
            Ok(&list)
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> LicensePath {
        LicensePath::parse(text).unwrap()
    }

    #[test]
    fn port_at_host() {
        for (text, host, port, url) in [
            (
                "7070@lic.example.com",
                "lic.example.com",
                7070,
                "https://lic.example.com:7070/request",
            ),
            ("1@192.0.2.1", "192.0.2.1", 1, "https://192.0.2.1:1/request"),
            (
                "65535@[2001:db8::1]",
                "2001:db8::1",
                65535,
                "https://[2001:db8::1]:65535/request",
            ),
            ("7070@LIC_1", "LIC_1", 7070, "https://LIC_1:7070/request"),
        ] {
            let path = parse(text);
            assert_eq!(
                (path.as_str(), path.host(), path.port()),
                (text, host, port)
            );
            assert!(path.is_https());
            assert_eq!(path.url(), url);
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn urls() {
        for (text, host, port, https, path) in [
            (
                "http://192.0.2.1:7070/request",
                "192.0.2.1",
                7070,
                false,
                "/request",
            ),
            (
                "https://lic.example.com:7071",
                "lic.example.com",
                7071,
                true,
                "/request",
            ),
            (
                "https://lic.example.com:7071/",
                "lic.example.com",
                7071,
                true,
                "/request",
            ),
            (
                "https://cloud.example.com/instances/AB12CD34EF56/request",
                "cloud.example.com",
                443,
                true,
                "/instances/AB12CD34EF56/request",
            ),
            ("HTTP://lic", "lic", 80, false, "/request"),
            (
                "https://[2001:db8::1]",
                "2001:db8::1",
                443,
                true,
                "/request",
            ),
            (
                "https://[2001:db8::1]:7071/request?x=1",
                "2001:db8::1",
                7071,
                true,
                "/request?x=1",
            ),
        ] {
            let parsed = parse(text);
            assert_eq!(
                (parsed.as_str(), parsed.host(), parsed.port()),
                (text, host, port)
            );
            assert_eq!((parsed.is_https(), parsed.path()), (https, path));
        }
        assert_eq!(
            parse("http://[::1]:7070").url(),
            "http://[::1]:7070/request"
        );
        assert_eq!(parse(" 7070@lic\n").as_str(), "7070@lic");
    }

    #[test]
    fn refused() {
        use InvalidLicensePath as E;
        for (text, error) in [
            ("", E::Empty),
            (" \t", E::Empty),
            ("lic.example.com", E::Form),
            ("lic.example.com:7070", E::Form),
            ("ftp://lic:7070/request", E::Form),
            ("://lic", E::Form),
            ("@lic", E::Port),
            ("0@lic", E::Port),
            ("65536@lic", E::Port),
            ("+1@lic", E::Port),
            ("070@lic", E::Port),
            ("x@lic", E::Port),
            ("http://lic:/request", E::Port),
            ("http://lic:x/request", E::Port),
            ("7070@", E::Host),
            ("7070@a b", E::Host),
            ("7070@a@b", E::Host),
            ("7070@2001:db8::1", E::Host),
            ("7070@[192.0.2.1]", E::Host),
            ("7070@[::1", E::Host),
            ("7070@lic/request", E::Host),
            ("http:///request", E::Host),
            ("http://:7070/request", E::Host),
            ("http://user@lic:7070/request", E::Host),
            ("http://2001:db8::1:7070/request", E::Host),
            ("http://lic?x", E::Host),
            ("http://lic/a b", E::Path),
            ("http://lic/#x", E::Path),
            ("http://lic/ä", E::Path),
            ("http://lic/a;b", E::Path),
        ] {
            assert_eq!(LicensePath::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_longest_and_one_character_more() {
        let prefix = "http://lic/";
        let longest = format!("{prefix}{}", "x".repeat(MAX_CHARACTERS - prefix.len()));
        assert_eq!(parse(&longest).as_str().len(), 511);
        assert_eq!(
            LicensePath::parse(&format!("{longest}x")),
            Err(InvalidLicensePath::TooLong)
        );
    }

    #[test]
    fn lists() {
        for text in [
            "7070@a;http://b:1/request;7071@c",
            "7070@a, http://b:1/request ,7071@c,",
            " 7070@a\thttp://b:1/request\r\n;; 7071@c",
        ] {
            let hosts: Vec<_> = LicensePath::parse_list(text)
                .unwrap()
                .iter()
                .map(|path| path.host().to_owned())
                .collect();
            assert_eq!(hosts, ["a", "b", "c"], "{text:?}");
        }
        assert_eq!(LicensePath::parse_list(""), Ok(vec![]));
        assert_eq!(LicensePath::parse_list(" ; "), Ok(vec![]));
        assert_eq!(
            LicensePath::parse_list("7070@a;b"),
            Err(InvalidLicensePath::Form)
        );
        assert_eq!(
            "7070@a".parse::<LicensePath>(),
            LicensePath::parse("7070@a")
        );
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "[a-z0-9:@/.\\[\\];, ]{0,40}|https?://\\PC{0,30}|[0-9]{1,6}@\\PC{0,20}") {
            fuzz(text.as_bytes());
        }
    }
}
