//! Signed file URLs, `/files?path=…&signature=…`, whose sandbox is known only by
//! the token that made the signature:
//! `"v1_" + base64(sha256("{path}:{operation}:{user}:{token}[:{expiration}]"))`,
//! standard alphabet without padding. Expiry is not judged here: the agent answers
//! an expired URL itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{Method, Uri};
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use subtle::{Choice, ConstantTimeEq as _};

/// What a signature allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOperation {
    /// A download.
    Read,
    /// An upload.
    Write,
}

impl FileOperation {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The signature of a file URL. `path` and `user` are as the client wrote them
/// (empty when absent), `expiration` is in Unix seconds, as text.
#[must_use]
pub fn file_signature(
    path: &str,
    operation: FileOperation,
    user: &str,
    token: &str,
    expiration: Option<&str>,
) -> String {
    let mut hash = Sha256::new();
    for part in [path, ":", operation.name(), ":", user, ":", token] {
        hash.update(part.as_bytes());
    }
    if let Some(expiration) = expiration {
        hash.update(b":");
        hash.update(expiration.as_bytes());
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(hash.finalize()))
}

/// No path of Linux is longer, nor is any name of a user or time as long as the next.
const LONGEST_PATH: usize = 4096;
const LONGEST_PART: usize = 256;

/// A request that carries a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    path: String,
    user: String,
    expiration: Option<String>,
    signature: String,
    /// Both for a preflight that does not say.
    operations: Vec<FileOperation>,
}

impl SignedFile {
    /// `None` when the request is not for `/files` or carries no signature.
    pub(crate) fn from_request(method: &Method, uri: &Uri) -> Option<Self> {
        let operations = match *method {
            Method::GET | Method::HEAD => vec![FileOperation::Read],
            Method::POST | Method::PUT => vec![FileOperation::Write],
            Method::OPTIONS => vec![FileOperation::Read, FileOperation::Write],
            _ => return None,
        };
        if uri.path() != "/files" {
            return None;
        }
        let mut file = Self {
            path: String::new(),
            user: String::new(),
            expiration: None,
            signature: String::new(),
            operations,
        };
        for (name, value) in form_urlencoded::parse(uri.query()?.as_bytes()) {
            match name.as_ref() {
                "path" => file.path = value.into_owned(),
                "username" => file.user = value.into_owned(),
                "signature_expiration" => file.expiration = Some(value.into_owned()),
                // A `+` that the client did not encode.
                "signature" => file.signature = Cow::from(value.replace(' ', "+")).into_owned(),
                _ => {}
            }
        }
        (!file.signature.is_empty()).then_some(file)
    }

    /// Whether `token` made the signature; compared in constant time.
    pub(crate) fn made_by(&self, token: &str) -> bool {
        // Tried on every sandbox, so it is kept cheap.
        let expiration = self.expiration.as_deref().unwrap_or_default();
        let parts = [self.user.as_str(), expiration, self.signature.as_str()];
        if self.path.len() > LONGEST_PATH || parts.iter().any(|part| part.len() > LONGEST_PART) {
            return false;
        }
        let mut matches = Choice::from(0);
        for operation in &self.operations {
            let expected = file_signature(
                &self.path,
                *operation,
                &self.user,
                token,
                self.expiration.as_deref(),
            );
            matches |= expected.as_bytes().ct_eq(self.signature.as_bytes());
        }
        matches.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    const SIGNATURE: &str = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";

    fn parse(method: Method, uri: &str) -> Option<SignedFile> {
        SignedFile::from_request(&method, &uri.parse().expect("a valid URI"))
    }

    #[test]
    fn known_vector() {
        assert_eq!(
            file_signature("hello.txt", FileOperation::Read, "user", TOKEN, None),
            SIGNATURE
        );
    }

    #[test]
    fn request_is_recognised_by_its_token_alone() {
        let uri = format!("/files?path=hello.txt&username=user&signature={SIGNATURE}");
        let file = parse(Method::GET, &uri).expect("signed");
        assert!(file.made_by(TOKEN));
        assert!(!file.made_by("another"));
        let upload = parse(Method::POST, &uri).expect("signed");
        assert!(!upload.made_by(TOKEN), "a read signature allows no write");
        let preflight = parse(Method::OPTIONS, &uri).expect("signed");
        assert!(preflight.made_by(TOKEN));
    }

    #[test]
    fn expiration_is_part_of_the_signature() {
        let signature = file_signature("", FileOperation::Write, "", TOKEN, Some("1700000000"));
        let encoded: String = form_urlencoded::byte_serialize(signature.as_bytes()).collect();
        let uri = format!("/files?signature={encoded}&signature_expiration=1700000000");
        assert!(parse(Method::POST, &uri).expect("signed").made_by(TOKEN));
        let later = uri.replace("=1700000000", "=1800000000");
        assert!(!parse(Method::POST, &later).expect("signed").made_by(TOKEN));
    }

    #[test]
    fn what_no_file_is_called_is_not_tried() {
        let signed = |path: &str| {
            let signature = file_signature(path, FileOperation::Read, "", TOKEN, None);
            let signature: String = form_urlencoded::byte_serialize(signature.as_bytes()).collect();
            let uri = format!("/files?path={path}&signature={signature}");
            parse(Method::GET, &uri).expect("signed").made_by(TOKEN)
        };
        assert!(signed(&"a".repeat(LONGEST_PATH)));
        assert!(!signed(&"a".repeat(LONGEST_PATH + 1)));
    }

    #[test]
    fn other_requests_are_not_signed() {
        assert_eq!(parse(Method::GET, "/files?path=a"), None);
        assert_eq!(parse(Method::GET, "/other?signature=v1_x"), None);
        assert_eq!(parse(Method::DELETE, "/files?signature=v1_x"), None);
    }
}
