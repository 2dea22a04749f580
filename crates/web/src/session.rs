//! Sessions: random ids that stand for API keys, in this process's memory alone.
//!
//! The id is known to the browser, its hash to us. A session ends [`IDLE`] after its last
//! use, [`LIFETIME`] after its begin, with its key (each request asks for that anew), by
//! sign-out, and with the daemon.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a session lasts that is not used.
pub(crate) const IDLE: Duration = Duration::from_secs(12 * 3600);
/// How long any session lasts.
pub(crate) const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Sessions of one key: the least recently used one makes room.
const PER_KEY: usize = 32;
/// Sessions in all; likewise.
const CAPACITY: usize = 4096;

type Hash = [u8; 32];

struct Session {
    key: SecretString,
    began: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= LIFETIME || now.duration_since(self.used) >= IDLE
    }
}

#[derive(Default)]
pub(crate) struct Sessions {
    sessions: Mutex<HashMap<Hash, Session>>,
}

impl Sessions {
    /// Begins a session of a key that has proved good. Returns its id.
    pub(crate) fn begin(&self, key: SecretString, now: Instant) -> String {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot");
        let id = URL_SAFE_NO_PAD.encode(bytes);
        let mut sessions = self.lock();
        sessions.retain(|_, session| !session.is_over(now));
        let same = |session: &Session| session.key.expose_secret() == key.expose_secret();
        if sessions.values().filter(|session| same(session)).count() >= PER_KEY {
            drop_oldest(&mut sessions, same);
        }
        if sessions.len() >= CAPACITY {
            drop_oldest(&mut sessions, |_| true);
        }
        let session = Session {
            key,
            began: now,
            used: now,
        };
        sessions.insert(hash(&id), session);
        id
    }

    /// The key of a session that is not over, which is used with that.
    pub(crate) fn key(&self, id: &str, now: Instant) -> Option<SecretString> {
        let mut sessions = self.lock();
        let hash = hash(id);
        let session = sessions.get_mut(&hash)?;
        if session.is_over(now) {
            sessions.remove(&hash);
            return None;
        }
        session.used = now;
        Some(session.key.clone())
    }

    /// Ends a session. False when there is none.
    pub(crate) fn end(&self, id: &str) -> bool {
        self.lock().remove(&hash(id)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drop_oldest(sessions: &mut HashMap<Hash, Session>, of: impl Fn(&Session) -> bool) {
    let candidates = sessions.iter().filter(|(_, session)| of(session));
    let oldest = candidates.min_by_key(|(_, session)| session.used);
    if let Some(hash) = oldest.map(|(hash, _)| *hash) {
        sessions.remove(&hash);
    }
}

fn hash(id: &str) -> Hash {
    Sha256::digest(id.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(sessions: &Sessions, key: &str, now: Instant) -> String {
        sessions.begin(key.to_owned().into(), now)
    }

    #[test]
    fn a_session_stands_for_its_key_until_it_ends() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (one, two) = (begin(&sessions, "a", now), begin(&sessions, "b", now));
        assert_ne!(one, two);
        let key = |id: &str| {
            sessions
                .key(id, now)
                .map(|key| key.expose_secret().to_owned())
        };
        assert_eq!(key(&one).as_deref(), Some("a"));
        assert_eq!(key(&two).as_deref(), Some("b"));
        assert_eq!(key("guess"), None);
        assert!(sessions.end(&one));
        assert!(!sessions.end(&one));
        assert_eq!(key(&one), None);
        assert_eq!(key(&two).as_deref(), Some("b"));
    }

    #[test]
    fn use_prolongs_a_session_up_to_its_lifetime() {
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let (idle, used) = (begin(&sessions, "a", begun), begin(&sessions, "a", begun));
        let mut now = begun;
        while now + IDLE / 2 < begun + LIFETIME {
            now += IDLE / 2;
            assert!(sessions.key(&used, now).is_some());
        }
        assert!(sessions.key(&idle, begun + IDLE).is_none());
        assert!(sessions.key(&used, begun + LIFETIME).is_none());
    }

    #[test]
    fn their_number_is_bounded_by_key_and_in_all() {
        let (sessions, begun) = (Sessions::default(), Instant::now());
        let other = begin(&sessions, "b", begun);
        let first = begin(&sessions, "a", begun);
        for step in 1..=PER_KEY as u32 {
            begin(&sessions, "a", begun + Duration::from_secs(step.into()));
        }
        assert!(sessions.key(&first, begun).is_none());
        assert!(sessions.key(&other, begun).is_some());
        for step in 0..CAPACITY {
            begin(
                &sessions,
                &step.to_string(),
                begun + Duration::from_secs(60),
            );
        }
        assert_eq!(sessions.lock().len(), CAPACITY);
        assert!(sessions.key(&other, begun).is_none());
    }
}
