//! Which URLs and addresses may be reached.
//!
//! The ranges are those of the IANA registries of special-purpose addresses (RFC 6890 and its
//! updates), of multicast, and of the translations that hide a version 4 address in a version 6
//! one (RFC 4291, 6052, 3056, 4380).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::Uri;

/// Bytes of a URL.
pub(super) const URL_BYTES_MAX: usize = 2_048;
/// Bytes of a host's name (RFC 1035, section 2.3.4, without the root's dot).
const NAME_BYTES_MAX: usize = 253;

/// What may be reached.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether addresses of this machine and its network may, and `http://` and any port: for
    /// development.
    pub private: bool,
    /// The ports that may, beside a URL's own default.
    pub ports: Vec<u16>,
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The name, or the address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl Rules {
    /// Where a URL leads, if it is of a form that may be called; why not otherwise.
    pub(super) fn target_of(&self, url: &str) -> Result<Target, String> {
        let refuse = |why: &str| Err(why.to_owned());
        if url.len() > URL_BYTES_MAX || url.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return refuse("a URL has visible ASCII characters only, at most 2,048");
        }
        if url.contains(['#', '\\']) {
            return refuse("a URL that is called has no fragment and no backslash");
        }
        let uri: Uri = url.parse().map_err(|_| "this is no URL".to_owned())?;
        self.target(&uri)
    }

    /// As [`Rules::target_of`].
    pub(super) fn target(&self, uri: &Uri) -> Result<Target, String> {
        let refuse = |why: &str| Err(why.to_owned());
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if self.private => false,
            _ => return refuse("a URL begins with https://"),
        };
        let Some(authority) = uri.authority() else { return refuse("a URL names a host") };
        if authority.as_str().contains('@') {
            return refuse("a URL has no user and no password");
        }
        let host = authority.host();
        let default = if is_tls { 443 } else { 80 };
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => Some(default),
            Some(rest) => rest.strip_prefix(':').and_then(|port| port.parse().ok()),
            None => None,
        };
        let Some(port) = port else { return refuse("the port is no number up to 65535") };
        if port == 0 || !(self.private || port == default || self.ports.contains(&port)) {
            return Err(format!("port {port} is not among those that may be called"));
        }
        let literal = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(host).parse::<IpAddr>() {
            self.check(address)?;
            return Ok(Target { host: address.to_string(), port, is_tls });
        }
        let is_part = |part: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !part.is_empty() && part.len() <= 63 && part.bytes().all(fits)
        };
        if host.is_empty() || host.len() > NAME_BYTES_MAX || !host.split('.').all(is_part) {
            return refuse("the host is no name: letters, digits and -, between single dots");
        }
        // Numbers alone are other spellings of an address: 0x7f.1, 2130706433, 0177.0.0.1.
        let last = host.rsplit('.').next().unwrap_or_default();
        if last.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) {
            return refuse("the host is an address in a spelling that is not taken");
        }
        Ok(Target { host: host.to_ascii_lowercase(), port, is_tls })
    }

    /// Whether an address may be reached.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), String> {
        match forbidden(address) {
            Some(what) if !self.private => Err(format!("it leads to {what}, which is not reached")),
            _ => Ok(()),
        }
    }
}

/// What sort of address may not be reached; `None` when it may.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => forbidden_4(address),
        IpAddr::V6(address) => forbidden_6(address),
    }
}

fn forbidden_4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "an unspecified address",
        (127, ..) => "a loopback address",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (100, 64..=127, _) => "an address shared within a provider's network",
        (169, 254, _) => "a link-local address",
        (192, 0, 0) => "an address of protocol assignments",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "a documentation address",
        (192, 88, 99) => "a relay's address",
        (198, 18 | 19, _) => "an address of benchmarks",
        (224..=239, ..) => "a multicast address",
        (240.., ..) => "a reserved or broadcast address",
        _ => return None,
    })
}

fn forbidden_6(address: Ipv6Addr) -> Option<&'static str> {
    let parts = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0] => return Some("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => return Some("a loopback address"),
        // Whatever hides a version 4 address, whichever address that is: nobody needs it.
        [0, 0, 0, 0, 0, 0xffff, ..] => return Some("a mapped address"),
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            return Some("a compatible or translated address");
        }
        [0x0064, 0xff9b, 1, ..] => return Some("an address of local translation"),
        // Where only this prefix leads to the version 4 internet, it is what names resolve to.
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => return forbidden_4(embedded(high, low)),
        [0x0064, 0xff9b, ..] => return Some("an address of translation"),
        [0x0100, 0, 0, 0, ..] => return Some("a discard address"),
        [0x2002, ..] => return Some("an address of 6to4"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => return Some("a documentation address"),
        // Teredo, benchmarks, ORCHID and the other protocol assignments.
        [0x2001, 0..=0x01ff, ..] => return Some("an address of protocol assignments"),
        [0x5f00, ..] => return Some("an address of segment routing"),
        _ => {}
    }
    match parts[0] {
        0xfc00..=0xfdff => Some("a private address"),
        0xfe80..=0xfebf => Some("a link-local address"),
        0xfec0..=0xfeff => Some("a site-local address"),
        0xff00.. => Some("a multicast address"),
        // Only this block is given out for the internet (RFC 4291, section 2.4, IANA's registry).
        0x2000..=0x3fff => None,
        _ => Some("an address that is not given out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { private: false, ports: vec![8443] }
    }

    const INSIDE: &str = "\
        0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 \
        169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 \
        192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.1.1.1 \
        240.0.0.1 255.255.255.255 :: ::1 ::2 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 \
        ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b:1::1 64:ff9b:2::1 \
        100::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: \
        2002:808:808:: 3fff::1 5f00::1 fc00::1 fd12:3456::1 fe80::1 febf::1 fec0::1 ff02::1 \
        4000::1";
    const OUTSIDE: &str = "\
        1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 \
        192.167.0.1 198.17.0.1 198.20.0.1 223.255.255.255 2606:4700::1111 2a00:1450:4001::1 \
        64:ff9b::8.8.8.8 2001:4860::8888";

    #[test]
    fn addresses_that_only_this_network_reaches_are_forbidden() {
        for address in INSIDE.split_whitespace() {
            assert!(forbidden(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in OUTSIDE.split_whitespace() {
            assert_eq!(forbidden(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn a_url_that_hides_where_it_leads_is_refused() {
        for url in [
            "http://example.com/",
            "ftp://example.com/",
            "example.com",
            "/path",
            "https://",
            "https:///path",
            "https://user@example.com/",
            "https://user:word@example.com/",
            "https://@example.com/",
            "https://example.com:8080/",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://example.com:/",
            "https://example.com./",
            "https://.example.com/",
            "https://example..com/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://0x7f000001/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fe80::1%25eth0]/",
            "https://10.0.0.1:8443/",
            "https://exa mple.com/",
            "https://example.com/#part",
            "https://example.com\\@127.0.0.1/",
            "https://ex\u{e4}mple.com/",
            "https://example.com/\n",
            "https://%31%32%37.0.0.1/",
        ] {
            assert!(rules().target_of(url).is_err(), "{url}");
        }
        let target = |host: &str, port| Target { host: host.to_owned(), port, is_tls: true };
        for (url, expected) in [
            ("https://Example.COM/call?x=1", target("example.com", 443)),
            ("https://example.com:8443", target("example.com", 8443)),
            ("https://8.8.8.8/call", target("8.8.8.8", 443)),
            ("https://[2606:4700::1111]/", target("2606:4700::1111", 443)),
        ] {
            assert_eq!(rules().target_of(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn development_may_reach_what_is_near() {
        let rules = Rules { private: true, ports: Vec::new() };
        let target = rules.target_of("http://127.0.0.1:4000/call").unwrap();
        assert_eq!((target.host.as_str(), target.port, target.is_tls), ("127.0.0.1", 4000, false));
        assert!(rules.target_of("https://user@localhost/").is_err());
    }
}
