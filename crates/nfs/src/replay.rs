//! Requests that must be done once. A client whose connection breaks sends again what
//! was not answered; of what was done already it gets the former answer.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Answers that are remembered. A client has fewer requests under way.
const MOST: usize = 256;

/// A request as a client repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    xid: u32,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Known {
    key: Key,
    /// Absent while it is being made.
    answer: Option<Arc<[u8]>>,
}

/// The latest answers to one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    known: Mutex<VecDeque<Known>>,
    made: Condvar,
}

impl Replies {
    /// The answer to a request, which is only made when it is not known.
    pub(crate) fn once(&self, xid: u32, message: &[u8], make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        let digest = *blake3::hash(message).as_bytes();
        let key = Key { xid, digest };
        if let Some(answer) = self.find_or_begin(key) {
            return answer.to_vec();
        }
        // Whatever happens, nobody is left waiting.
        let mut ending = Ending {
            replies: self,
            key,
            answer: None,
        };
        let answer = make();
        ending.answer = Some(Arc::from(answer.as_slice()));
        drop(ending);
        answer
    }

    fn find_or_begin(&self, key: Key) -> Option<Arc<[u8]>> {
        let mut known = self.lock();
        loop {
            match known.iter().find(|known| known.key == key) {
                Some(Known { answer, .. }) if answer.is_some() => return answer.clone(),
                Some(_) => {
                    known = self
                        .made
                        .wait(known)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    make_room(&mut known);
                    known.push_back(Known { key, answer: None });
                    return None;
                }
            }
        }
    }

    fn end(&self, key: Key, answer: Option<Arc<[u8]>>) {
        let mut known = self.lock();
        match answer {
            Some(answer) => {
                if let Some(known) = known.iter_mut().find(|known| known.key == key) {
                    known.answer = Some(answer);
                }
            }
            None => known.retain(|known| known.key != key),
        }
        drop(known);
        self.made.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest answer goes, never a request that is under way; there are few of those.
fn make_room(known: &mut VecDeque<Known>) {
    if known.len() >= MOST
        && let Some(oldest) = known.iter().position(|known| known.answer.is_some())
    {
        known.remove(oldest);
    }
}

struct Ending<'a> {
    replies: &'a Replies,
    key: Key,
    answer: Option<Arc<[u8]>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.replies.end(self.key, self.answer.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn a_repeated_request_is_done_once_and_another_of_its_number_is_not_it() {
        let replies = Replies::default();
        assert_eq!(replies.once(1, b"make a", || vec![1]), [1]);
        assert_eq!(replies.once(1, b"make a", || vec![2]), [1]);
        assert_eq!(replies.once(1, b"make b", || vec![3]), [3]);
        assert_eq!(replies.once(2, b"make a", || vec![4]), [4]);
    }

    #[test]
    fn whoever_repeats_what_is_under_way_waits_for_its_answer() {
        let (replies, done) = (Replies::default(), AtomicUsize::new(0));
        let slow = || {
            std::thread::sleep(Duration::from_millis(50));
            done.fetch_add(1, Ordering::SeqCst);
            vec![7]
        };
        std::thread::scope(|scope| {
            let asked: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| replies.once(1, b"make", slow)))
                .collect();
            for asked in asked {
                assert_eq!(asked.join().unwrap(), [7]);
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let replies = Replies::default();
        for xid in 0..1000 {
            replies.once(xid, b"make", Vec::new);
        }
        assert_eq!(replies.lock().len(), MOST);
        assert_eq!(replies.once(0, b"make", || vec![1]), [1], "forgotten");
    }
}
