//! Finds out what host a connection is meant for, from the first bytes that the
//! guest sends. Pure, and bounded on any input.

use crate::names;

/// Bytes that are looked at before giving up; no honest greeting is longer.
pub(crate) const LIMIT: usize = 32 * 1024;

const TLS_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest request method that is taken for one.
const LONGEST_METHOD: usize = 20;

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// Too little to say.
    Incomplete,
    /// TLS, with the server's name in its normal form if the client gave one.
    Tls(Option<String>),
    /// HTTP without TLS, with the host if the request names exactly one.
    Http(Option<String>),
    /// Something else.
    Other,
}

impl Greeting {
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Tls(name) | Self::Http(name) => name.as_deref(),
            Self::Incomplete | Self::Other => None,
        }
    }
}

/// Reads what `bytes`, the beginning of a connection, say.
pub(crate) fn greeting(bytes: &[u8]) -> Greeting {
    match bytes.first() {
        None => Greeting::Incomplete,
        Some(&TLS_HANDSHAKE) => tls(bytes),
        Some(byte) if byte.is_ascii_uppercase() => http(bytes),
        Some(_) => Greeting::Other,
    }
}

fn http(bytes: &[u8]) -> Greeting {
    let method = bytes
        .iter()
        .take(LONGEST_METHOD)
        .position(|byte| !byte.is_ascii_uppercase() && *byte != b'-');
    match method {
        Some(end) if bytes[end] == b' ' => {}
        None if bytes.len() < LONGEST_METHOD => return Greeting::Incomplete,
        _ => return Greeting::Other,
    }
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Greeting::Incomplete;
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else {
        return Greeting::Http(None);
    };
    let mut lines = head.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut hosts = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("host")
            .then(|| value.trim())
    });
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Greeting::Http(None);
    }
    let host = first.and_then(without_port);
    // A target with a host of its own must name the same one.
    let absolute = target
        .and_then(|target| target.split_once("://"))
        .map(|(_, rest)| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            without_port(authority)
        });
    match absolute {
        Some(other) if other != host => Greeting::Http(None),
        _ => Greeting::Http(host),
    }
}

fn without_port(authority: &str) -> Option<String> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => authority,
    };
    names::normal(host)
}

fn tls(bytes: &[u8]) -> Greeting {
    // A hello may be spread over records.
    let mut hello = Vec::new();
    let mut rest = bytes;
    loop {
        let Some((header, body)) = rest.split_at_checked(5) else {
            return Greeting::Incomplete;
        };
        if header[0] != TLS_HANDSHAKE || header[1] != 3 {
            return Greeting::Other;
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let whole = body.len() >= length;
        hello.extend_from_slice(&body[..length.min(body.len())]);
        if let Some(&kind) = hello.first()
            && kind != CLIENT_HELLO
        {
            return Greeting::Other;
        }
        if let Some(&[_, a, b, c]) = hello.first_chunk::<4>() {
            let wanted = 4 + ((usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c));
            if wanted > LIMIT {
                return Greeting::Other;
            }
            if hello.len() >= wanted {
                return Greeting::Tls(server_name(&hello[4..wanted]));
            }
        }
        if !whole || length == 0 {
            return Greeting::Incomplete;
        }
        rest = &body[length..];
    }
}

/// The server's name in a `ClientHello` (RFC 8446 section 4.1.2, RFC 6066 section 3).
fn server_name(hello: &[u8]) -> Option<String> {
    let mut reader = Reader(hello);
    reader.take(2 + 32)?;
    let session = reader.u8()?;
    reader.take(session.into())?;
    let suites = reader.u16()?;
    reader.take(suites.into())?;
    let compressions = reader.u8()?;
    reader.take(compressions.into())?;
    let length = reader.u16()?;
    let mut extensions = Reader(reader.take(length.into())?);
    let mut found = None;
    while let Some(kind) = extensions.u16() {
        let length = extensions.u16()?;
        let body = extensions.take(length.into())?;
        if kind != SERVER_NAME {
            continue;
        }
        let mut list = Reader(body);
        list.u16()?;
        if list.u8()? != HOST_NAME || found.is_some() {
            return None;
        }
        let length = list.u16()?;
        let name = std::str::from_utf8(list.take(length.into())?).ok()?;
        found = Some(names::normal(name)?);
    }
    found
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `ClientHello` with this server name, in records of `size` bytes.
    fn hello(name: &str, size: usize) -> Vec<u8> {
        let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
        let mut entry = vec![HOST_NAME];
        entry.extend(length(name.len()));
        entry.extend(name.bytes());
        let mut extension = vec![0, 0];
        extension.extend(length(entry.len() + 2));
        extension.extend(length(entry.len()));
        extension.extend(entry);
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(length(extension.len() + 6));
        body.extend([0, 43, 0, 2, 3, 4]);
        body.extend(extension);
        let mut handshake = vec![CLIENT_HELLO, 0];
        handshake.extend(length(body.len()));
        handshake.extend(body);
        handshake
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1], length(part.len()).as_slice(), part].concat())
            .collect()
    }

    #[test]
    fn a_servers_name_is_found_in_one_record_and_in_many() {
        let wanted = Greeting::Tls(Some("api.example.com".to_owned()));
        for size in [16_000, 40, 1] {
            let bytes = hello("API.example.com", size);
            assert_eq!(greeting(&bytes), wanted);
            for cut in 0..bytes.len() {
                assert_eq!(
                    greeting(&bytes[..cut]),
                    Greeting::Incomplete,
                    "{size} {cut}"
                );
            }
        }
        assert_eq!(greeting(&hello("192.0.2.1", 900)), Greeting::Tls(None));
    }

    #[test]
    fn a_host_is_found_in_a_request_and_doubts_are_no_host() {
        let host = |request: &str| greeting(request.as_bytes());
        let found = Greeting::Http(Some("example.com".to_owned()));
        assert_eq!(
            host("GET / HTTP/1.1\r\nhost:  Example.com:8080\r\n\r\n"),
            found
        );
        assert_eq!(
            host("GET http://example.com/x HTTP/1.1\r\nHost: example.com\r\n\r\n"),
            found
        );
        for doubtful in [
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "GET http://u@b.test:80:x/ HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(host(doubtful), Greeting::Http(None), "{doubtful}");
        }
        assert_eq!(host("GET / HTTP/1.1\r\nHost: a.te"), Greeting::Incomplete);
        assert_eq!(host("SSH-2.0-x\r\n"), Greeting::Other);
        assert_eq!(host("\0\0\0\x08"), Greeting::Other);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = greeting(&bytes);
            let mut bytes = bytes;
            bytes.splice(0..0, [22, 3, 1]);
            let _ = greeting(&bytes);
        }

        #[test]
        fn a_damaged_hello_never_panics(at in 0_usize..120, byte in any::<u8>()) {
            let mut bytes = hello("api.example.com", 50);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let _ = greeting(&bytes);
        }
    }
}
