//! How much of something each user may have, so that nobody takes it from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What users have of one thing, of which each may have as much.
pub struct Budget {
    most: usize,
    used: Mutex<HashMap<u32, usize>>,
}

impl Budget {
    /// One of which each user may have `most`.
    pub fn new(most: usize) -> Arc<Budget> {
        Arc::new(Budget {
            most,
            used: Mutex::default(),
        })
    }

    fn used(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // Each number is set in one step.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, uid: u32, amount: usize) -> bool {
        let mut used = self.used();
        let of_user = used.get(&uid).copied().unwrap_or(0);
        let fits = amount <= self.most.saturating_sub(of_user);
        if fits && amount > 0 {
            used.insert(uid, of_user + amount);
        }
        fits
    }

    fn give_back(&self, uid: u32, amount: usize) {
        let mut used = self.used();
        if let Some(of_user) = used.get_mut(&uid) {
            *of_user = of_user.saturating_sub(amount);
            if *of_user == 0 {
                used.remove(&uid);
            }
        }
    }

    /// `amount` for user `uid`, if he may have as much.
    pub fn share(self: &Arc<Self>, uid: u32, amount: usize) -> Option<Share> {
        let mut share = Share::default();
        share.grow(self, uid, amount).then_some(share)
    }
}

/// What a user has of a budget. Dropping it gives that back.
#[derive(Default)]
pub struct Share {
    budget: Option<Arc<Budget>>,
    uid: u32,
    amount: usize,
}

impl Share {
    /// Takes `more` for user `uid`, to whom it belongs. Whether he may have it.
    pub fn grow(&mut self, budget: &Arc<Budget>, uid: u32, more: usize) -> bool {
        if self.amount > 0 && self.uid != uid {
            return false; // It would be given back to the wrong one.
        }
        let fits = budget.take(uid, more);
        if fits {
            self.budget = Some(budget.clone());
            self.uid = uid;
            self.amount += more;
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.uid, self.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_own() {
        let budget = Budget::new(100);
        let (mut one, mut more, mut two) = (Share::default(), Share::default(), Share::default());
        assert!(one.grow(&budget, 1, 95));
        assert!(!more.grow(&budget, 1, 6) && more.grow(&budget, 1, 5));
        assert!(budget.share(1, 1).is_none() && budget.share(3, 101).is_none());
        assert!(two.grow(&budget, 2, 100));
        assert!(!two.grow(&budget, 3, 1), "it is another user's");
        drop(one);
        assert!(more.grow(&budget, 1, 95));
        drop((more, two));
        assert!(budget.used().is_empty());
    }
}
