//! Locks without poison. A thread that panics while it holds a lock poisons it; here what
//! is behind the locks is changed in steps that each leave it whole, so the others go on.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// [`Mutex::lock`] for what stays whole when a holder panics.
pub trait LockExt<T: ?Sized> {
    /// Waits for the lock, poisoned or not.
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> LockExt<T> for Mutex<T> {
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`RwLock::read`] and [`RwLock::write`] for what stays whole when a holder panics.
pub trait RwLockExt<T: ?Sized> {
    /// Waits until it may be read, poisoned or not.
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T>;
    /// Waits until it may be written, poisoned or not.
    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T: ?Sized> RwLockExt<T> for RwLock<T> {
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_holder_that_panicked_keeps_nobody_out() {
        let (mutex, lock) = (Mutex::new(1), RwLock::new(2));
        let panicked = thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _held = (mutex.lock_unpoisoned(), lock.write_unpoisoned());
                panic!("while it holds both");
            });
            holder.join()
        });
        assert!(panicked.is_err() && mutex.is_poisoned() && lock.is_poisoned());
        *mutex.lock_unpoisoned() += 1;
        *lock.write_unpoisoned() += 1;
        assert_eq!((*mutex.lock_unpoisoned(), *lock.read_unpoisoned()), (2, 3));
    }
}
