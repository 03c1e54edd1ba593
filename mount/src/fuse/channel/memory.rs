//! How much memory requests and replies may take, so that no user takes it from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many bytes there may be of one user: requests that are not finished or in progress, the
/// `default` of transactions, replies that may still be read. As values, while they are worked on, they take
/// many times that.
const MOST_OF_A_USER: usize = 32 << 20;

/// The bytes that each user has.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<u32, usize>>);

impl Memory {
    fn used(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // Each number is set in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, uid: u32, bytes: usize) -> bool {
        let mut used = self.used();
        let of_user = used.entry(uid).or_default();
        let fits = *of_user + bytes <= MOST_OF_A_USER;
        if fits {
            *of_user += bytes;
        }
        fits
    }

    fn give_back(&self, uid: u32, bytes: usize) {
        let mut used = self.used();
        if let Some(of_user) = used.get_mut(&uid) {
            *of_user = of_user.saturating_sub(bytes);
            if *of_user == 0 {
                used.remove(&uid);
            }
        }
    }
}

/// What somebody has of the memory. Dropping it gives that back.
#[derive(Default)]
pub struct Share {
    memory: Option<Arc<Memory>>,
    uid: u32,
    bytes: usize,
}

impl Share {
    /// Takes `more` bytes for user `uid`, to whom it belongs. Whether they were there.
    pub fn grow(&mut self, memory: &Arc<Memory>, uid: u32, more: usize) -> bool {
        if self.bytes > 0 && self.uid != uid {
            return false; // A descriptor that another user was given.
        }
        let fits = memory.take(uid, more);
        if fits {
            self.memory = Some(memory.clone());
            self.uid = uid;
            self.bytes += more;
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.give_back(self.uid, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_own() {
        let memory = Arc::new(Memory::default());
        let (mut one, mut more, mut two) = (Share::default(), Share::default(), Share::default());
        assert!(one.grow(&memory, 1, MOST_OF_A_USER - 5));
        assert!(!more.grow(&memory, 1, 6) && more.grow(&memory, 1, 5));
        assert!(two.grow(&memory, 2, MOST_OF_A_USER));
        assert!(!two.grow(&memory, 3, 1), "it is another user's");
        drop(one);
        assert!(more.grow(&memory, 1, MOST_OF_A_USER - 5));
        drop((more, two));
        assert!(memory.used().is_empty());
    }
}
