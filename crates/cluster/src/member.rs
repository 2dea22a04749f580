//! Members of a cluster by their certificates.

use crate::Error;
use rustls::pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Below this name are those of all members, and nothing else is certified.
pub(crate) const DOMAIN: &str = "hearth.internal";
const CONTROL: &str = "control.hearth.internal";
const NODE: &str = ".node.hearth.internal";

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Member {
    /// The control plane, any of its processes.
    Control,
    /// A node, by its id.
    Node(Uuid),
}

impl Member {
    /// The one name in its certificate.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Control => CONTROL.to_owned(),
            Self::Node(id) => format!("{id}{NODE}"),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        if name == CONTROL {
            return Some(Self::Control);
        }
        let id: Uuid = name.strip_suffix(NODE)?.parse().ok()?;
        // Of the ways to write an id one is the name.
        (Self::Node(id).name() == name).then_some(Self::Node(id))
    }

    /// What a client expects of the server at the other end.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.name()).expect("names of members are host names")
    }
}

impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => formatter.write_str("the control plane"),
            Self::Node(id) => write!(formatter, "node {id}"),
        }
    }
}

/// SHA-256 of a certificate or of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// From hex.
impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Error::Certificate("has a key whose digest cannot be read"))?;
        Ok(Self(bytes))
    }
}

/// In hex.
impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

/// Who is at the other end of a connection, as its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub member: Member,
    /// Of its public key.
    pub key: Fingerprint,
    /// When its certificate ends.
    pub not_after: SystemTime,
}

impl Peer {
    /// Of a certificate that the authority was found to have signed.
    ///
    /// # Errors
    /// [`Error::Certificate`] for one that has not one member's name alone.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let unreadable = |_| Error::Certificate("cannot be read");
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(unreadable)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| Error::Certificate("has names that cannot be read"))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let [GeneralName::DNSName(name)] = names else {
            return Err(Error::Certificate("is not that of one member"));
        };
        let member = Member::parse(name).ok_or(Error::Certificate("is of no member"))?;
        let seconds = parsed.validity().not_after.timestamp();
        let life = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            member,
            key: Fingerprint::of(parsed.public_key().raw),
            not_after: UNIX_EPOCH + life,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_a_member_is_in_one_way() {
        let id = Uuid::from_u128(0xabc);
        for member in [Member::Control, Member::Node(id)] {
            assert_eq!(Member::parse(&member.name()), Some(member));
            assert_eq!(member.server_name().to_str(), member.name());
        }
        for other in [
            "",
            "hearth.internal",
            "x.node.hearth.internal",
            "x.control.hearth.internal",
            "control.hearth.internal.example.com",
            &Member::Node(id).name().to_uppercase(),
            &format!("{}.node.hearth.internal", id.simple()),
        ] {
            assert_eq!(Member::parse(other), None, "{other}");
        }
    }
}
