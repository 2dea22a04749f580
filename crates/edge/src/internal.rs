//! The agent's routes that only the control plane may call. The edge refuses them
//! in every spelling that some HTTP stack might still read as one of them, however
//! many layers of percent-encoding it takes.

use percent_encoding::percent_decode;

const INTERNAL: [&str; 8] = [
    "init",
    "freeze",
    "unfreeze",
    "collapse",
    "fsfreeze",
    "fsthaw",
    "upgrade",
    "telemetry",
];

/// Layers of encoding that are looked through. A path that is still encoded after
/// as many is refused as well: nobody but an attacker writes it.
const MAX_LAYERS: usize = 6;

/// Whether a raw request path on the agent's port may mean an internal route.
pub(crate) fn is_internal(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MAX_LAYERS {
        if names_internal(&bytes) {
            return true;
        }
        let decoded: Vec<u8> = percent_decode(&bytes).collect();
        if decoded == bytes {
            return false;
        }
        bytes = decoded;
    }
    true
}

/// Looks at the first segment that is left once empty and dot segments are resolved.
fn names_internal(path: &[u8]) -> bool {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match trim(segment) {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    segments.first().is_some_and(|first| {
        INTERNAL
            .iter()
            .any(|name| first.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Without parameters (`;…`), what a C program would cut off (NUL), an encoded
/// query or fragment, and surrounding white space and control characters.
fn trim(segment: &[u8]) -> &[u8] {
    let end = segment
        .iter()
        .position(|byte| matches!(byte, b';' | 0 | b'?' | b'#'))
        .unwrap_or(segment.len());
    let mut segment = &segment[..end];
    while let [first, rest @ ..] = segment
        && *first <= b' '
    {
        segment = rest;
    }
    while let [rest @ .., last] = segment
        && *last <= b' '
    {
        segment = rest;
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_are_refused() {
        for path in [
            "/init",
            "/INIT",
            "/init/",
            "//init",
            "/./init",
            "/x/../init",
            "/%69nit",
            "/%2569nit",
            "/%25%36%39nit",
            "/init%00",
            "/init;a=b",
            "/%2Finit",
            "/..//init",
            "\\init",
            "/%5cinit",
            "/init%20",
            "/freeze",
            "/unFreeze",
            "/collapse",
            "/fsfreeze",
            "/fsthaw/",
            "/upgrade",
            "/a/b/../../fsthaw",
            "/%2e%2e/init",
            "/init%3fa",
            "/init/x",
        ] {
            assert!(is_internal(path), "{path}");
        }
    }

    #[test]
    fn public_routes_pass() {
        for path in [
            "/",
            "/health",
            "/files",
            "/initial",
            "/files/init",
            "/process.Process/Start",
            "/init.d",
            "/metrics",
            "*",
            "",
            "/init/../health",
            "/envs%20",
        ] {
            assert!(!is_internal(path), "{path}");
        }
    }

    proptest! {
        /// Any mix of encoding, case, slashes and dot segments around an internal
        /// name is seen.
        #[test]
        fn any_spelling_is_refused(
            name in prop::sample::select(&INTERNAL[..]),
            prefix in prop::collection::vec(prop::sample::select(&["/", "/./", "//", "/x/../", "/%2e/"][..]), 1..4),
            choices in prop::collection::vec(0u8..4, 10),
            suffix in prop::sample::select(&["", "/", "//", "/.", ";v=1", "%2f"][..]),
        ) {
            let mut path = prefix.concat();
            for (byte, choice) in name.bytes().zip(choices) {
                match choice {
                    0 => path.push(char::from(byte)),
                    1 => path.push(char::from(byte.to_ascii_uppercase())),
                    2 => path.push_str(&format!("%{byte:02x}")),
                    _ => path.push_str(&format!("%25{byte:02X}")),
                }
            }
            path.push_str(suffix);
            prop_assert!(is_internal(&path), "{}", path);
        }

        #[test]
        fn never_panics(path in ".{0,200}") {
            let _ = is_internal(&path);
        }
    }
}
