//! Shares: how much each user may have of something that there is little of.
//!
//! What one user takes is never taken from him again, so the rule decides when he asks: whoever has much
//! leaves a part of the rest, and nobody ever takes what is kept for those who have little.
//!
//! Invariants, whatever is taken and given back in whatever order:
//! 1. No more than the total is taken.
//! 2. The mount's own needs, and its owners, find their reserve free, but for what they have of it themselves.
//! 3. While no more than [`Rule::users`] other users have anything, each finds the rest of his
//!    [`Rule::floor`] free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The mount's own needs: no user has this number (it is chown's "leave it as it is").
pub const NOBODY: u32 = u32::MAX;

/// Who shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Account {
    /// The mount itself.
    Own,
    /// Root, and whoever runs the mount.
    Owners,
    /// Another user.
    User(u32),
}

/// How many times as much as he leaves to others a user may have: alone, three quarters of all.
const GREED: usize = 3;

/// How a total is divided.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// All there is.
    pub total: usize,
    /// What is kept for the mount's own needs.
    pub own: usize,
    /// What is kept for root and whoever runs the mount.
    pub owners: usize,
    /// What each other user gets, however much some have.
    pub floor: usize,
    /// How many users' floors are kept free.
    pub users: usize,
    /// Whoever runs the mount, beside root.
    pub owner: u32,
    /// Whether nobody else may use the mount: then its owner leaves nothing to others.
    pub alone: bool,
}

impl Rule {
    /// A sixteenth of `total` is kept for root and `owner`, a quarter for the floors of others.
    pub fn new(total: usize, floor: usize, owner: u32, alone: bool) -> Rule {
        Rule {
            total,
            own: 0,
            owners: (total / 16).min(64),
            floor,
            users: total / 4 / floor.max(1),
            owner,
            alone,
        }
    }

    /// With this much kept for the mount's own needs.
    pub fn and_own(mut self, own: usize) -> Rule {
        self.own = own;
        self
    }

    fn account(&self, user: u32) -> Account {
        match user {
            NOBODY => Account::Own,
            user if user == 0 || user == self.owner => Account::Owners,
            user => Account::User(user),
        }
    }

    fn guaranteed(&self, account: Account) -> usize {
        match account {
            Account::Own => self.own,
            Account::Owners => self.owners,
            Account::User(_) => self.floor,
        }
    }
}

/// What users have of a total.
#[derive(Debug)]
pub struct Split {
    rule: Rule,
    used: usize,
    users: HashMap<Account, usize>,
}

impl Split {
    /// Nobody has anything yet.
    pub fn new(rule: Rule) -> Split {
        Split {
            rule,
            used: 0,
            users: HashMap::new(),
        }
    }

    fn has(&self, account: Account) -> usize {
        self.users.get(&account).copied().unwrap_or(0)
    }

    fn fits(&self, account: Account, count: usize) -> bool {
        let Some(left) = self.rule.total.checked_sub(self.used + count) else {
            return false;
        };
        let rest = |other| self.rule.guaranteed(other).saturating_sub(self.has(other));
        let others = [Account::Own, Account::Owners];
        let others = others.into_iter().filter(|other| *other != account);
        let reserved: usize = others.map(rest).sum();
        let Some(spare) = left.checked_sub(reserved) else {
            return false;
        };
        let has = self.has(account) + count;
        let unbounded = self.rule.alone && account == Account::Owners;
        let floors = self.rule.floor * self.rule.users;
        let common = spare.checked_sub(floors);
        unbounded
            || has <= self.rule.guaranteed(account)
            || common.is_some_and(|common| has <= GREED.saturating_mul(common))
    }

    /// Gives `user` `count` more, if that leaves enough to others.
    pub fn take(&mut self, user: u32, count: usize) -> bool {
        let account = self.rule.account(user);
        let fits = self.fits(account, count);
        if fits && count > 0 {
            self.used += count;
            *self.users.entry(account).or_default() += count;
        }
        fits
    }

    /// Takes `count` back from `user`.
    pub fn give_back(&mut self, user: u32, count: usize) {
        let account = self.rule.account(user);
        let Some(has) = self.users.get_mut(&account) else {
            return;
        };
        let count = count.min(*has);
        *has -= count;
        self.used -= count;
        if *has == 0 {
            self.users.remove(&account);
        }
    }

    /// How much is taken.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used
    }
}

/// A [`Split`] that many threads take from; clones are the same one.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Mutex<Split>>);

impl Shares {
    /// Nobody has anything yet.
    pub fn new(rule: Rule) -> Shares {
        Shares(Arc::new(Mutex::new(Split::new(rule))))
    }

    fn split(&self) -> MutexGuard<'_, Split> {
        // Nothing in there panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `user` `count`, if that leaves enough to others.
    pub fn take(&self, user: u32, count: usize) -> Option<Share> {
        self.split().take(user, count).then(|| Share {
            shares: self.clone(),
            user,
            count,
        })
    }
}

/// What a user has. Dropping it gives that back.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    user: u32,
    count: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.split().give_back(self.user, self.count);
    }
}

/// Of things that belong to `users`, oldest first, the one to be dropped for a new one: the oldest of
/// whoever has most of them, so that nobody drives out what others have.
pub fn oldest_of_most(users: impl Iterator<Item = u32>) -> Option<usize> {
    let mut seen: HashMap<u32, (usize, usize)> = HashMap::new();
    for (index, user) in users.enumerate() {
        seen.entry(user).or_insert((index, 0)).1 += 1;
    }
    let most = seen.into_values().max_by_key(|(oldest, count)| {
        // Of two who have as much, the one whose is older.
        (*count, std::cmp::Reverse(*oldest))
    });
    most.map(|(oldest, _)| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: u32 = 1000;

    fn rule(alone: bool) -> Rule {
        Rule::new(400, 8, OWNER, alone).and_own(10)
    }

    fn take_all(split: &mut Split, user: u32) -> usize {
        (0..).take_while(|_| split.take(user, 1)).count()
    }

    #[test]
    fn a_greedy_user_leaves_enough_to_others() {
        let mut split = Split::new(rule(false));
        let first = take_all(&mut split, 1);
        assert!(first > 180, "alone he may have much, and got {first}");
        let second = take_all(&mut split, 2);
        assert!(second > 40, "what is left is divided again: {second}");
        for user in 3..12 {
            assert!(take_all(&mut split, user) >= 8, "user {user}");
        }
        assert_eq!(take_all(&mut split, 0), 25, "the owners' reserve");
        assert_eq!(take_all(&mut split, OWNER), 0, "is one");
        assert_eq!(take_all(&mut split, NOBODY), 10);
        split.give_back(1, first);
        assert!(
            take_all(&mut split, 1) > 100,
            "what was given back is there"
        );
    }

    #[test]
    fn whoever_is_alone_may_have_all() {
        let mut split = Split::new(rule(true));
        assert_eq!(take_all(&mut split, OWNER), 390);
        assert_eq!(take_all(&mut split, NOBODY), 10);
    }

    #[test]
    fn shares_are_given_back() {
        let shares = Shares::new(rule(false));
        let share = shares.take(1, 3).expect("room");
        assert!(shares.take(1, 1000).is_none());
        assert_eq!(shares.split().used, 3);
        drop(share);
        assert_eq!(shares.split().used, 0);
        assert!(shares.split().users.is_empty());
    }

    #[test]
    fn who_has_most_loses_his_oldest() {
        let of = |users: &[u32]| oldest_of_most(users.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7, 8, 8, 9]), Some(1));
        assert_eq!(of(&[7, 8, 9]), Some(0));
        assert_eq!(of(&[7, 8, 9, 8, 7, 7]), Some(0));
    }

    /// Who, how much, and whether he takes it or gives it back.
    fn steps() -> impl Strategy<Value = Vec<(u32, usize, bool)>> {
        let user = prop_oneof![Just(0), Just(OWNER), Just(NOBODY), 1..12u32];
        proptest::collection::vec((user, 1..60usize, proptest::bool::weighted(0.7)), 0..300)
    }

    proptest! {
        #[test]
        fn what_is_kept_for_others_stays_free(steps in steps()) {
            let rule = rule(false);
            let mut split = Split::new(rule);
            let mut has: HashMap<Account, usize> = HashMap::new();
            for (user, count, takes) in steps {
                let mine = has.entry(rule.account(user)).or_default();
                if takes {
                    *mine += if split.take(user, count) { count } else { 0 };
                } else {
                    split.give_back(user, count);
                    *mine = mine.saturating_sub(count);
                }
                has.retain(|_, count| *count > 0);
                prop_assert_eq!(split.used(), has.values().sum::<usize>());
                prop_assert!(split.used() <= rule.total);
                for kept in [Account::Own, Account::Owners] {
                    let rest = rule.guaranteed(kept).saturating_sub(split.has(kept));
                    prop_assert!(rest == 0 || split.fits(kept, rest), "{:?} cannot have {}", kept, rest);
                }
                let others = has.keys().filter(|account| matches!(account, Account::User(_))).count();
                if others < rule.users {
                    for user in (1..12).map(Account::User) {
                        let rest = rule.floor.saturating_sub(split.has(user));
                        prop_assert!(rest == 0 || split.fits(user, rest), "{:?} cannot have {}", user, rest);
                    }
                }
            }
        }
    }
}
