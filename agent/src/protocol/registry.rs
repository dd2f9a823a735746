//! The protocols, in the order in which they are asked.

use super::{Protocol, Recognition, Side, http1};

/// Every protocol: one line each.
static PROTOCOLS: &[&dyn Protocol] = &[&http1::Http1];

/// The first protocol that recognises bytes at the beginning of a message, and which way that message goes.
///
/// Who is sure comes before who may be.
#[must_use]
pub fn recognise(bytes: &[u8]) -> Option<(&'static dyn Protocol, Side)> {
    let mut possible = None;
    for protocol in PROTOCOLS {
        match protocol.recognise(bytes) {
            Recognition::Yes(side) => return Some((*protocol, side)),
            Recognition::Maybe(side) if possible.is_none() => possible = Some((*protocol, side)),
            Recognition::Maybe(_) | Recognition::No => {}
        }
    }
    possible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_http_by_its_first_line_and_nothing_else() {
        let of = |bytes: &[u8]| recognise(bytes).map(|(protocol, side)| (protocol.name(), side));
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), Some(("http", Side::Request)));
        assert_eq!(of(b"HTTP/1.1 200 OK\r\n"), Some(("http", Side::Response)));
        assert_eq!(of(b"*1\r\n$4\r\nPING\r\n"), None);
        assert_eq!(of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None);
        assert_eq!(of(b"GET key\r\n"), None);
        assert_eq!(of(&[0x16, 3, 1, 2, 0]), None);
    }
}
