//! Leave to upload one archive: a signed link, good for a while, that needs no
//! key. It names the team and the archive, so it is of no use for anything else.

use crate::{Control, Error, FilesPiece, Kind};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::TeamId;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

/// How long an upload may take to begin.
const LIFETIME: TimeDelta = TimeDelta::minutes(30);

/// What an upload link carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadTicket {
    pub team: TeamId,
    /// 64 hexadecimal digits.
    pub hash: String,
    /// In seconds since 1970.
    pub expires: i64,
    pub signature: String,
}

/// Whether text is the name of an archive.
pub(crate) fn is_files_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Control {
    pub(crate) fn upload_ticket(
        &self,
        team: TeamId,
        hash: &str,
        now: DateTime<Utc>,
    ) -> UploadTicket {
        let expires = (now + LIFETIME).timestamp();
        UploadTicket {
            team,
            hash: hash.to_owned(),
            expires,
            signature: self.upload_signature(team, hash, expires),
        }
    }

    fn upload_signature(&self, team: TeamId, hash: &str, expires: i64) -> String {
        let seed = self.config.token_seed.expose_secret();
        let mut mac = Hmac::<Sha256>::new_from_slice(seed.as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(format!("template-files\n{team}\n{hash}\n{expires}").as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    /// Lets an upload in, or says why not.
    ///
    /// # Errors
    /// `Forbidden` for a link that is not ours or no longer good.
    pub fn upload_admit(&self, ticket: &UploadTicket) -> Result<(), Error> {
        let expected = self.upload_signature(ticket.team, &ticket.hash, ticket.expires);
        if !bool::from(expected.as_bytes().ct_eq(ticket.signature.as_bytes())) {
            return Err(Error::new(Kind::Forbidden, "the upload link is not valid"));
        }
        if ticket.expires < Utc::now().timestamp() {
            return Err(Error::new(Kind::Forbidden, "the upload link has expired"));
        }
        Ok(())
    }

    /// Adds a piece to an archive, under a link that was admitted. Answers
    /// whether the archive is whole.
    ///
    /// # Errors
    /// `Invalid` for a piece that does not fit, `Unavailable` without room.
    pub async fn upload_add(&self, piece: FilesPiece) -> Result<bool, Error> {
        let added = self.template_node()?.files_add(piece).await;
        added.map_err(Error::from_node)
    }
}
