//! Access tokens of sandboxes: derived, never stored. The same sandbox id has
//! the same tokens over pauses, restarts and machines that share the seed.

use hearth_ids::SandboxId;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

#[derive(Debug, Clone)]
pub struct Tokens {
    seed: SecretString,
}

impl Tokens {
    #[must_use]
    pub fn new(seed: SecretString) -> Self {
        Self { seed }
    }

    /// What the agent requires: hex of HMAC-SHA256(seed, id).
    #[must_use]
    pub fn envd(&self, id: &SandboxId) -> SecretString {
        self.derive(id.as_str())
    }

    /// What the sandbox's other ports require where they are not public.
    #[must_use]
    pub fn traffic(&self, id: &SandboxId) -> SecretString {
        self.derive(&format!("sandbox-traffic-{id}"))
    }

    fn derive(&self, text: &str) -> SecretString {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.seed.expose_secret().as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(text.as_bytes());
        SecretString::from(hex::encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_documented_hmac() {
        let tokens = Tokens::new(SecretString::from("seed"));
        let id: SandboxId = "iabcdefghij0123456789".parse().expect("valid");
        // printf %s iabcdefghij0123456789 | openssl dgst -sha256 -hmac seed
        assert_eq!(
            tokens.envd(&id).expose_secret(),
            "46b01f142d9bf455829803225b886675ba2833f25df30071c38ce3da2ff75546"
        );
        assert_eq!(
            tokens.traffic(&id).expose_secret(),
            "8b9f71f6f1b9f438d81910e4eb183c3e4b47803a6d0e564d03cea613510e08b4"
        );
    }
}
