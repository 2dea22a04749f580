//! Certificates of an authority that browsers trust, by ACME (RFC 8555), for a
//! domain of the user's and everything below it.
//!
//! Sandboxes come and go by the thousand, each with names of its own, so the
//! certificate is a wildcard, and for those authorities accept proof through DNS
//! alone. The proof is left in a file, from which `hearth dns` serves it to the
//! authority where the domain is delegated to it, or is handed to a program of the
//! user's that knows the domain's name server.

use crate::authority::system_time;
use crate::{Error, file};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rustls::pki_types::CertificateDer;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::Command;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How long the authority may take to check a proof and to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .timeout(Duration::from_secs(180));
/// How long the user's program may take, waiting for name servers included.
const HOOK_LIMIT: Duration = Duration::from_secs(600);

/// Whom to ask, and for what.
#[derive(Debug, Clone)]
pub struct Acme {
    /// Address of the authority's directory.
    pub directory: String,
    /// Mail address for the authority's warnings.
    pub contact: Option<String>,
    /// Certificates in PEM of whom to trust as that authority; the system's else.
    pub trusted: Option<PathBuf>,
    /// Called as `<program> set|clear _acme-challenge.<domain> <value>...`; `set`
    /// returns when the records can be seen.
    pub hook: Option<PathBuf>,
    /// A host name without a port.
    pub domain: String,
    /// Keeps the account, the certificate and its key; for root alone.
    pub folder: PathBuf,
    /// Where the proof is left, a value a line; see [`challenges`].
    pub proof: PathBuf,
}

/// Why there is no certificate of the authority's.
#[expect(missing_docs, reason = "the messages say what the variants are")]
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error("talk to the certificate authority")]
    Protocol(#[from] instant_acme::Error),
    #[error("the certificate authority did not accept the proof ({0:?})")]
    Refused(OrderStatus),
    #[error("the certificate authority takes no proof by DNS for {0}")]
    NoDns(String),
    #[error(transparent)]
    File(#[from] Error),
    #[error("{} is damaged", path.display())]
    Account {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("run {}: {why}", program.display())]
    Hook { program: PathBuf, why: String },
}

impl Acme {
    /// The file with the certificate and its issuers, in PEM.
    #[must_use]
    pub fn chain(&self) -> PathBuf {
        self.folder.join("chain.pem")
    }

    /// The file with the certificate's private key, in PEM.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// When the next certificate is to be asked for: at two thirds of the life of
    /// the one that is there, and at once where none is that serves the domain.
    #[must_use]
    pub fn due(&self) -> SystemTime {
        let certificate = file::read(&self.chain())
            .and_then(|pem| file::certificates(&self.chain(), &pem))
            .ok()
            .filter(|_| self.key().is_file());
        let life = certificate.and_then(|chain| life(&chain[0], &self.domain));
        let now = SystemTime::now();
        life.filter(|(_, end)| *end > now)
            .map_or(now, |(begin, end)| {
                let whole = end.duration_since(begin).unwrap_or_default();
                begin + whole * 2 / 3
            })
    }

    /// Gets a certificate and keeps it in the place of any other. Takes as long as
    /// the authority and the name servers do.
    pub async fn obtain(&self) -> Result<(), AcmeError> {
        let account = self.account().await?;
        let names = [self.domain.clone(), format!("*.{}", self.domain)];
        let identifiers = names.map(Identifier::Dns);
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut proofs = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let challenge = challenge.ok_or_else(|| AcmeError::NoDns(self.domain.clone()))?;
            proofs.push(challenge.key_authorization().dns_value());
        }
        // Both names are proved at one: all values stand there together.
        self.publish(&proofs).await?;
        let issued = Self::finish(&mut order).await;
        let cleared = self.withdraw(&proofs).await;
        let (key, chain) = issued?;
        file::write(&self.key(), key.as_bytes(), 0o600)?;
        file::write(&self.chain(), chain.as_bytes(), 0o600)?;
        cleared
    }

    /// The key and the chain, as PEM.
    async fn finish(order: &mut instant_acme::Order) -> Result<(String, String), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(ChallengeType::Dns01)
            {
                challenge.set_ready().await?;
            }
        }
        let status = order.poll_ready(&PATIENCE).await?;
        if status != OrderStatus::Ready {
            return Err(AcmeError::Refused(status));
        }
        let key = order.finalize().await?;
        Ok((key, order.poll_certificate(&PATIENCE).await?))
    }

    /// The account that is kept, or a new one.
    async fn account(&self) -> Result<Account, AcmeError> {
        let path = self.folder.join("account.json");
        let builder = match &self.trusted {
            Some(trusted) => Account::builder_with_root(trusted)?,
            None => Account::builder()?,
        };
        if let Some(kept) = file::read_if_there(&path)? {
            let credentials: AccountCredentials = serde_json::from_str(&kept)
                .map_err(|source| AcmeError::Account { path, source })?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact = self.contact.iter().map(|mail| format!("mailto:{mail}"));
        let contact: Vec<String> = contact.collect();
        let account = NewAccount {
            contact: &contact.iter().map(String::as_str).collect::<Vec<_>>(),
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder
            .create(&account, self.directory.clone(), None)
            .await?;
        let kept = serde_json::to_string(&credentials).map_err(|source| AcmeError::Account {
            path: path.clone(),
            source,
        })?;
        file::write(&path, kept.as_bytes(), 0o600)?;
        Ok(account)
    }

    async fn publish(&self, proofs: &[String]) -> Result<(), AcmeError> {
        // Public by nature: the authority is to read it.
        file::write(&self.proof, proofs.join("\n").as_bytes(), 0o644)?;
        self.call_hook("set", proofs).await
    }

    async fn withdraw(&self, proofs: &[String]) -> Result<(), AcmeError> {
        file::remove(&self.proof)?;
        self.call_hook("clear", proofs).await
    }

    async fn call_hook(&self, verb: &str, proofs: &[String]) -> Result<(), AcmeError> {
        let Some(program) = &self.hook else {
            return Ok(());
        };
        let failed = |why: String| AcmeError::Hook {
            program: program.clone(),
            why,
        };
        let running = Command::new(program)
            .arg(verb)
            .arg(format!("_acme-challenge.{}", self.domain))
            .args(proofs)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status();
        let ended = tokio::time::timeout(HOOK_LIMIT, running)
            .await
            .map_err(|_| failed("it does not end".to_owned()))?;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The values that wait at `proof` for an authority to look at them.
#[must_use]
pub fn challenges(proof: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(proof).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Begin and end of a certificate for `domain` and everything below it.
fn life(certificate: &CertificateDer<'_>, domain: &str) -> Option<(SystemTime, SystemTime)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let has = |wanted: &str| {
        let mut names = names.value.general_names.iter();
        names.any(|name| matches!(name, GeneralName::DNSName(name) if *name == wanted))
    };
    let begin = u64::try_from(parsed.validity().not_before.timestamp()).ok()?;
    (has(domain) && has(&format!("*.{domain}"))).then(|| {
        let begin = UNIX_EPOCH + Duration::from_secs(begin);
        (begin, system_time(&parsed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn acme(folder: &Path) -> Acme {
        Acme {
            directory: "https://127.0.0.1:1/dir".to_owned(),
            contact: None,
            trusted: None,
            hook: None,
            domain: "sbx.example.com".to_owned(),
            folder: folder.to_owned(),
            proof: folder.join("proof"),
        }
    }

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life_and_without_one_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let acme = acme(folder.path());
        let at_once = |due: SystemTime| due <= SystemTime::now();
        assert!(at_once(acme.due()));
        let authority = Authority::open_or_create(folder.path(), &acme.domain).expect("made");
        let keep = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let (chain, key) = authority.issue_pem(&names).expect("issued");
            std::fs::write(acme.chain(), chain).expect("written");
            std::fs::write(acme.key(), key).expect("written");
        };
        keep(&["sbx.example.com"]);
        assert!(at_once(acme.due()), "no wildcard");
        keep(&["sbx.example.com", "*.sbx.example.com"]);
        let wait = acme.due().duration_since(SystemTime::now()).expect("later");
        let days = wait.as_secs() / (24 * 3600);
        assert!((55..62).contains(&days), "{days}");
        std::fs::remove_file(acme.key()).expect("removed");
        assert!(at_once(acme.due()), "no key");
    }

    #[tokio::test]
    async fn the_users_program_is_told_and_its_failure_is_one() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("hook");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}/calls\n",
            folder.path().display()
        );
        std::fs::write(&program, script + "[ $1 = set ]\n").expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
        let acme = Acme {
            hook: Some(program),
            ..acme(folder.path())
        };
        let proofs = ["one".to_owned(), "two".to_owned()];
        acme.publish(&proofs).await.expect("accepted");
        assert_eq!(challenges(&acme.proof), proofs);
        assert!(matches!(
            acme.withdraw(&proofs).await,
            Err(AcmeError::Hook { .. })
        ));
        assert!(challenges(&acme.proof).is_empty());
        let calls = std::fs::read_to_string(folder.path().join("calls")).expect("called");
        assert_eq!(
            calls,
            "set _acme-challenge.sbx.example.com one two\nclear _acme-challenge.sbx.example.com one two\n"
        );
    }
}
