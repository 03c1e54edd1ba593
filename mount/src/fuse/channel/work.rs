//! Room for what is being worked on. As values, documents and requests take many times the size of their text,
//! so what a request will take is counted before anything is parsed, and it is begun when there is room for it.
//!
//! Invariants:
//! 1. No user has more than [`MOST_OF_A_USER`], and all together no more than [`MOST_OF_ALL`], but for small ones.
//! 2. Who waits for room holds none and no thread, so nobody waits for himself. There are no more who wait than
//!    there are handles (see [`super::MOST_HANDLES`]).
//! 3. Users do not wait behind each other; each one's own requests are begun in order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::fs::Fs;
use super::super::limits::give_back_memory;
use crate::control::ControlError;

/// How many bytes the requests of one user may take while they are worked on.
const MOST_OF_A_USER: usize = 512 << 20;

/// And those of all users.
const MOST_OF_ALL: usize = 1 << 30;

/// What takes no more than this does not wait for other users' requests, up to [`FOR_SMALL`] in all.
const SMALL: usize = 1 << 20;
const FOR_SMALL: usize = 64 << 20;

/// Room of this size is given back to the system at once.
const BIG: usize = 16 << 20;

type Ready = Box<dyn FnOnce(&Arc<Fs>, Result<Room, ControlError>) + Send>;

#[derive(Default)]
struct User {
    used: usize,
    waiting: VecDeque<(usize, Ready)>,
}

#[derive(Default)]
struct State {
    used: usize,
    users: HashMap<u32, User>,
}

impl State {
    /// Takes `bytes` for user `uid` if there is room.
    fn take(&mut self, uid: u32, bytes: usize) -> bool {
        let most = match bytes <= SMALL {
            true => MOST_OF_ALL + FOR_SMALL,
            false => MOST_OF_ALL,
        };
        let user = self.users.entry(uid).or_default();
        let fits = user.used + bytes <= MOST_OF_A_USER && self.used + bytes <= most;
        if fits {
            user.used += bytes;
            self.used += bytes;
        }
        fits
    }

    /// Gives it back. Those who can begin now.
    fn give_back(&mut self, uid: u32, bytes: usize) -> Vec<(u32, usize, Ready)> {
        self.used = self.used.saturating_sub(bytes);
        if let Some(user) = self.users.get_mut(&uid) {
            user.used = user.used.saturating_sub(bytes);
        }
        let mut ready = Vec::new();
        let waiting: Vec<u32> = self.users.keys().copied().collect();
        for uid in waiting {
            while let Some(bytes) = self.next_of(uid)
                && self.take(uid, bytes)
                && let Some((bytes, job)) = self.pop(uid)
            {
                ready.push((uid, bytes, job));
            }
        }
        self.users
            .retain(|_, user| user.used > 0 || !user.waiting.is_empty());
        ready
    }

    fn next_of(&self, uid: u32) -> Option<usize> {
        let user = self.users.get(&uid)?;
        user.waiting.front().map(|(bytes, _)| *bytes)
    }

    fn pop(&mut self, uid: u32) -> Option<(usize, Ready)> {
        self.users.get_mut(&uid)?.waiting.pop_front()
    }
}

/// Who has room, and who waits for it.
#[derive(Default)]
pub struct Work(Mutex<State>);

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is complete by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that somebody has. Dropping it lets others begin.
pub struct Room {
    fs: Arc<Fs>,
    uid: u32,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes >= BIG {
            give_back_memory();
        }
        let ready = self.fs.channel.work.state().give_back(self.uid, self.bytes);
        for (uid, bytes, job) in ready {
            let fs = self.fs.clone();
            let room = Room { fs, uid, bytes };
            self.fs.aside(move |fs| job(fs, Ok(room)));
        }
    }
}

impl Fs {
    /// Goes on with `ready` when there is room for `bytes` of user `uid`: now, or later and in another thread.
    ///
    /// It is told EMSGSIZE if that is more than a user may have.
    pub fn in_room(
        self: &Arc<Self>,
        uid: u32,
        bytes: usize,
        ready: impl FnOnce(&Arc<Fs>, Result<Room, ControlError>) + Send + 'static,
    ) {
        if bytes > MOST_OF_A_USER {
            let text = format!(
                "it has too many values: this would take more than {} MiB of memory",
                MOST_OF_A_USER >> 20
            );
            return ready(self, Err(ControlError::too_large(text)));
        }
        let mut state = self.channel.work.state();
        let queued = state.next_of(uid).is_some();
        if queued || !state.take(uid, bytes) {
            let user = state.users.entry(uid).or_default();
            return user.waiting.push_back((bytes, Box::new(ready)));
        }
        drop(state);
        let fs = self.clone();
        ready(self, Ok(Room { fs, uid, bytes }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(state: &mut State, uid: u32, bytes: usize) {
        let job: Ready = Box::new(|_, _| ());
        let user = state.users.entry(uid).or_default();
        user.waiting.push_back((bytes, job));
    }

    #[test]
    fn users_wait_for_themselves_and_small_ones_for_nobody() {
        let mut state = State::default();
        assert!(state.take(1, MOST_OF_A_USER - 5) && !state.take(1, 6) && state.take(1, 5));
        assert!(state.take(2, MOST_OF_A_USER));
        assert!(!state.take(3, 2 * SMALL) && state.take(3, SMALL));
        wait(&mut state, 1, 10);
        wait(&mut state, 3, MOST_OF_A_USER);
        assert!(state.give_back(3, SMALL).is_empty());
        let begun: Vec<_> = state
            .give_back(1, 5)
            .into_iter()
            .map(|(uid, bytes, _)| (uid, bytes))
            .collect();
        assert!(begun.is_empty(), "there is no room for ten");
        let begun: Vec<_> = state
            .give_back(2, MOST_OF_A_USER)
            .into_iter()
            .map(|(uid, bytes, _)| (uid, bytes))
            .collect();
        assert_eq!(begun, [(3, MOST_OF_A_USER)]);
        let begun = state.give_back(1, MOST_OF_A_USER - 5);
        assert_eq!(begun.len(), 1);
        state.give_back(3, MOST_OF_A_USER);
        state.give_back(1, 10);
        assert!(state.users.is_empty() && state.used == 0);
    }
}
