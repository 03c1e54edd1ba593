//! In what order those who wait are looked after, where there are too many to look after all at once.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

/// A thread that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Thread {
    pub(super) user: u32,
    pub(super) tid: u32,
}

/// Where the last round has ended.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The last user of it.
    last: u32,
    /// The last thread of each user.
    threads: BTreeMap<u32, u32>,
}

/// `all`, from the first one after `last` on, and then from the beginning.
fn after<T>(all: &BTreeMap<u32, T>, last: u32) -> impl Iterator<Item = (u32, &T)> {
    let first = all.range((Excluded(last), Unbounded));
    let then = all.range(..=last);
    first.chain(then).map(|(number, value)| (*number, value))
}

impl Rounds {
    /// The next `most` of those who wait, of each user as many as of others if he has as many.
    pub(super) fn next(&mut self, waiting: impl Iterator<Item = Thread>, most: usize) -> Vec<u32> {
        let mut users: BTreeMap<u32, BTreeMap<u32, ()>> = BTreeMap::new();
        for thread in waiting {
            users.entry(thread.user).or_default().insert(thread.tid, ());
        }
        self.threads.retain(|user, _| users.contains_key(user));
        let mut lines: Vec<_> = after(&users, self.last)
            .map(|(user, threads)| {
                let last = self.threads.get(&user).copied().unwrap_or(u32::MAX);
                (user, after(threads, last))
            })
            .collect();
        let mut next = Vec::new();
        while next.len() < most && !lines.is_empty() {
            lines.retain_mut(|(user, line)| {
                if next.len() == most {
                    return true;
                }
                let Some((tid, ())) = line.next() else {
                    return false;
                };
                self.threads.insert(*user, tid);
                self.last = *user;
                next.push(tid);
                true
            });
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(users: &[(u32, std::ops::Range<u32>)]) -> Vec<Thread> {
        let all = users.iter().flat_map(|(user, tids)| {
            let user = *user;
            tids.clone().map(move |tid| Thread { user, tid })
        });
        all.collect()
    }

    #[test]
    fn few_are_looked_after_each_time() {
        let waiting = threads(&[(1, 10..13), (2, 20..21)]);
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            let mut next = rounds.next(waiting.iter().copied(), 100);
            next.sort_unstable();
            assert_eq!(next, [10, 11, 12, 20]);
        }
        assert!(rounds.next([].into_iter(), 100).is_empty() && rounds.threads.is_empty());
    }

    #[test]
    fn many_of_one_user_are_looked_after_in_turn_and_others_each_time() {
        let waiting = threads(&[(1, 1000..2000), (2, 20..22), (3, 30..31)]);
        let mut rounds = Rounds::default();
        let mut seen = Vec::new();
        for _ in 0..11 {
            let next = rounds.next(waiting.iter().copied(), 100);
            assert_eq!(next.len(), 100);
            for other in [20, 21, 30] {
                assert!(next.contains(&other), "{other} has to wait");
            }
            seen.extend(next.into_iter().filter(|tid| *tid >= 1000));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000, "everybody's turn comes");
    }

    #[test]
    fn many_users_take_turns() {
        let many: Vec<_> = (1..50)
            .map(|user| (user, user * 10..user * 10 + 3))
            .collect();
        let waiting = threads(&many);
        let mut rounds = Rounds::default();
        let mut seen = Vec::new();
        for _ in 0..waiting.len().div_ceil(10) {
            seen.extend(rounds.next(waiting.iter().copied(), 10));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), waiting.len());
    }
}
