//! Checks of where a request comes from and of the name that it was sent to.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

use crate::dashboard::options::DashboardOptions;

/// Returns whether the request was sent to a name under which the dashboard answers.
pub(crate) fn is_known(headers: &HeaderMap, options: &DashboardOptions) -> bool {
    if options.is_guarded() && options.hosts.is_empty() {
        return true;
    }
    let Some(host) = text(headers, HOST.as_str()).map(without_port) else { return false };
    is_loopback(host) || options.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
}

/// Returns whether a name or an address cannot be pointed elsewhere by a foreign site.
fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Returns the host of `host:port`. The colons of an IPv6 address stand in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns whether a write comes from a page of the dashboard, as far as the browser tells.
///
/// `Sec-Fetch-Site` decides where the browser sends it. An `Origin` of `null` says nothing, because the
/// `Referrer-Policy` of the pages makes browsers send it; the token of the form then decides alone.
pub(crate) fn is_own_page(headers: &HeaderMap) -> bool {
    if let Some(site) = text(headers, "sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    match text(headers, ORIGIN.as_str()) {
        None | Some("null") => true,
        Some(origin) => {
            let origin = origin.parse::<Uri>().ok();
            let origin = origin.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
            origin.is_some() && [HOST.as_str(), "x-forwarded-host"].iter().any(|name| text(headers, name) == origin)
        }
    }
}

/// Returns whether the browser reaches a reverse proxy by HTTPS, as the proxy tells.
pub(crate) fn is_https(headers: &HeaderMap) -> bool {
    text(headers, "x-forwarded-proto") == Some("https")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn with(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(header).collect()
    }

    #[test]
    fn only_loopback_names_are_known_unless_others_are_added() {
        let open = DashboardOptions::default();
        for host in ["localhost:8137", "LOCALHOST", "127.0.0.1:8137", "127.0.0.2", "[::1]:8137", "[::1]"] {
            assert!(is_known(&with(&[("host", host)]), &open), "{host}");
        }
        for host in ["evil.example:8137", "localhost.evil.example", "192.168.1.1:8137", "[::2]:8137", ""] {
            assert!(!is_known(&with(&[("host", host)]), &open), "{host}");
        }
        assert!(!is_known(&HeaderMap::new(), &open));
        let named = open.clone().with_host("ops.example.com");
        assert!(is_known(&with(&[("host", "OPS.example.com:443")]), &named));
        let guarded = open.with_token("a token of sixteen");
        assert!(is_known(&with(&[("host", "evil.example")]), &guarded));
        assert!(!is_known(&with(&[("host", "evil.example")]), &guarded.with_host("ops.example.com")));
    }

    #[test]
    fn writes_come_from_the_dashboard_itself() {
        let host = ("host", "127.0.0.1:8137");
        for own in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://127.0.0.1:8137")],
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "null")],
            &[host, ("x-forwarded-host", "ops.example.com"), ("origin", "https://ops.example.com")],
        ] {
            assert!(is_own_page(&with(own)), "{own:?}");
        }
        for foreign in [
            &[host, ("sec-fetch-site", "cross-site")][..],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("origin", "http://127.0.0.1:8138")],
            &[host, ("origin", "https://evil.example")],
            &[host, ("origin", "not an origin")],
        ] {
            assert!(!is_own_page(&with(foreign)), "{foreign:?}");
        }
    }
}
