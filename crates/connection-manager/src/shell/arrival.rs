//! What a request says outside its document: who it comes from, under which cookie and log id.

use std::net::IpAddr;

use http::{HeaderMap, header};
use ipnet::IpNet;
use portcullis_protocol::LogId;

use super::table::{COOKIE, SessionKey};
use crate::adapters::CLIENT_LOG_ID;

/// Where proxies write the addresses a request came through.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Addresses of `X-Forwarded-For` looked at, from the right: more proxies than any site has.
const MAX_FORWARDED: usize = 16;
/// Cookies of our name looked at: a balancer or another application may have set one of its own.
const MAX_KEYS: usize = 4;

/// The outside of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// The client's real address.
    pub(super) client: IpAddr,
    /// Addresses for the broker, the client's last.
    pub(super) forwarded_for: Vec<IpAddr>,
    /// `Client-Log-Id`, if it came and is a UUID; perhaps the nil one.
    pub(super) log_id: Option<LogId>,
    /// Our cookies, in the order they came.
    pub(super) keys: Vec<SessionKey>,
    /// Whether a cookie of our name came at all.
    pub(super) has_cookie: bool,
}

impl Arrival {
    pub(super) fn new(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let forwarded_for = addresses(peer.to_canonical(), headers, trusted);
        let values: Vec<&str> = cookies(headers).collect();
        Self {
            client: forwarded_for.last().copied().unwrap_or(peer),
            forwarded_for,
            log_id: headers
                .get(CLIENT_LOG_ID)
                .and_then(|value| value.to_str().ok()?.parse().ok()),
            keys: values
                .iter()
                .filter_map(|value| SessionKey::parse(value))
                .take(MAX_KEYS)
                .collect(),
            has_cookie: !values.is_empty(),
        }
    }
}

/// Fuzz entry: whatever the headers say, the way is bounded, ends in the client, and a stranger is believed nothing.
///
/// `data` is the values of `Client-Log-Id`, `X-Forwarded-For` and `Cookie`, a line each.
pub(crate) fn fuzz_headers(data: &[u8]) {
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    let mut headers = HeaderMap::new();
    let names = [CLIENT_LOG_ID, FORWARDED_FOR, "cookie"];
    for (name, line) in names.into_iter().zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(value) = http::HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let stranger = Arrival::new(PEER, &headers, &[]);
    assert_eq!(stranger.forwarded_for, [PEER]);
    let proxied = Arrival::new(PEER, &headers, &[IpNet::from(PEER)]);
    assert_eq!(proxied.forwarded_for.last(), Some(&proxied.client));
    assert!(proxied.forwarded_for.len() <= MAX_FORWARDED && proxied.keys.len() <= MAX_KEYS);
}

/// The way a request came, the client last. What a proxy says counts only when the proxy is trusted, and then up to the
/// rightmost address that is none of the trusted ones: that is the client, and all left of it are its own words.
fn addresses(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Vec<IpAddr> {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !is_trusted(peer) {
        return vec![peer];
    }
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut said = values
        .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','))
        .take(MAX_FORWARDED)
        .map_while(address)
        .fuse();
    let mut client = peer;
    for address in said.by_ref() {
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    let mut way: Vec<IpAddr> = said.collect();
    way.reverse();
    way.push(client);
    way
}

/// One entry of `X-Forwarded-For`: an address, with or without brackets, quotes and a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let address = if let Some(bracketed) = text.strip_prefix('[') {
        bracketed.split_once(']')?.0.parse().ok()
    } else {
        let without_port = match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => text,
        };
        without_port.parse().ok()
    };
    address.map(|address: IpAddr| address.to_canonical())
}

/// The values of all cookies of our name.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| name.trim() == COOKIE)
        .map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn arrival(peer: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> Arrival {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        let trusted: Vec<IpNet> = trusted
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
        Arrival::new(peer.parse().expect("an address"), &map, &trusted)
    }

    fn way(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let headers: Vec<_> = forwarded
            .iter()
            .map(|value| ("x-forwarded-for", *value))
            .collect();
        let arrival = arrival(peer, &headers, trusted);
        assert_eq!(arrival.forwarded_for.last(), Some(&arrival.client));
        let way = arrival.forwarded_for.iter().map(ToString::to_string);
        way.collect::<Vec<_>>().join(" ")
    }

    proptest::proptest! {
        #[test]
        fn any_headers_are_bounded(log_id in "\\PC{0,40}", way in "[0-9a-f.:, \\[\\]\"]{0,200}", cookie in "\\PC{0,200}") {
            fuzz_headers(format!("{log_id}\n{way}\n{cookie}").as_bytes());
        }
    }

    #[test]
    fn strangers_are_believed_nothing() {
        assert_eq!(way("198.51.100.7", &["10.0.0.1"], &[]), "198.51.100.7");
        assert_eq!(
            way("198.51.100.7", &["10.0.0.1"], &["10.0.0.0/8"]),
            "198.51.100.7"
        );
        assert_eq!(way("::ffff:198.51.100.7", &[], &[]), "198.51.100.7");
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        let trusted = &["10.0.0.0/8", "2001:db8:1::/48"];
        for (peer, forwarded, expected) in [
            ("10.0.0.1", &["198.51.100.7"][..], "198.51.100.7"),
            ("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            (
                "10.0.0.1",
                &["1.2.3.4, 198.51.100.7"],
                "1.2.3.4 198.51.100.7",
            ),
            (
                "10.0.0.1",
                &["1.2.3.4", "198.51.100.7 , 10.0.0.2"],
                "1.2.3.4 198.51.100.7",
            ),
            (
                "2001:db8:1::2",
                &["\"[2001:db8:9::1]:443\""],
                "2001:db8:9::1",
            ),
            ("10.0.0.1", &["198.51.100.7:50000"], "198.51.100.7"),
            ("10.0.0.1", &["2001:db8:9::1"], "2001:db8:9::1"),
            ("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["unknown, 198.51.100.7"], "198.51.100.7"),
            (
                "10.0.0.1",
                &["evil, 1.2.3.4, 198.51.100.7"],
                "1.2.3.4 198.51.100.7",
            ),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            assert_eq!(
                way(peer, forwarded, trusted),
                expected,
                "{peer} {forwarded:?}"
            );
        }
    }

    #[test]
    fn a_long_way_is_cut() {
        let long = vec!["1.2.3.4"; 1000].join(",");
        let way = way("10.0.0.1", &[&long], &["10.0.0.0/8"]);
        assert_eq!(way.split(' ').count(), MAX_FORWARDED);
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let quoted = format!("JSESSIONID=\"{KEY}\"");
        let second = format!("JSESSIONID=from-elsewhere; JSESSIONID={KEY}");
        let among = format!("AWSALB=x=y; JSESSIONID={KEY}; theme=dark");
        for cookie in [&quoted, &second, &among] {
            let arrival = arrival("1.2.3.4", &[("cookie", cookie)], &[]);
            assert_eq!(arrival.keys, [SessionKey::parse(KEY).expect("a key")]);
            assert!(arrival.has_cookie);
        }
        for other in [
            format!("jsessionid={KEY}"),
            format!("XJSESSIONID={KEY}"),
            "lb=JSESSIONID".into(),
        ] {
            let arrival = arrival("1.2.3.4", &[("cookie", &other)], &[]);
            assert!(arrival.keys.is_empty() && !arrival.has_cookie, "{other}");
        }
        let foreign = arrival("1.2.3.4", &[("cookie", "JSESSIONID=short")], &[]);
        assert!(foreign.keys.is_empty() && foreign.has_cookie);
    }

    #[test]
    fn a_log_id_is_a_uuid_or_nothing() {
        let id = "7cd13600-b190-1039-bfc7-1c697a6f50fb";
        let log_id = |text| arrival("1.2.3.4", &[("client-log-id", text)], &[]).log_id;
        assert_eq!(log_id(id).map(|id| id.to_string()).as_deref(), Some(id));
        assert_eq!(log_id("not a uuid"), None);
        assert_eq!(log_id(""), None);
        let nil = log_id("00000000-0000-0000-0000-000000000000");
        assert!(nil.is_some_and(LogId::is_nil));
    }
}
