//! Reads come after the writes that were sent before them.
//!
//! The kernel writes through its page cache, and lets go of a page before the write that it has sent is
//! answered. If it drops the page then, because somebody's attributes told it of a new mtime, the next
//! access by a mapping reads it anew: were that answered before the write is done, the old content would stay in
//! the cache, and LMDB, for one, would build on it (seen on Linux 6.18, twice in a thousand openings of a new database).
//!
//! Invariant: a read waits for the writes of its node that were received before it, and for no others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::order::Job;

#[derive(Default)]
struct Node {
    /// The numbers of writes that are not done.
    writes: BTreeSet<u64>,
    /// Reads, and the number of the first write that came after each.
    reads: Vec<(u64, Job)>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Those with writes that are not done.
    nodes: HashMap<u64, Node>,
}

/// The writes that are not done.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<State>>);

/// A write that is not done. Dropping it says that it is.
pub struct Write {
    writes: Writes,
    node: u64,
    number: u64,
}

impl Writes {
    fn state(&self) -> MutexGuard<'_, State> {
        // Entries are set and removed in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write of `node` was received.
    pub fn begin(&self, node: u64) -> Write {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.nodes.entry(node).or_default().writes.insert(number);
        drop(state);
        Write {
            writes: self.clone(),
            node,
            number,
        }
    }

    /// A read of `node` was received: gives `read` back where it need not wait, else it is done by whoever
    /// does the last of the writes before it.
    pub fn before<J: FnOnce() + Send + 'static>(&self, node: u64, read: J) -> Option<J> {
        let mut state = self.state();
        let next = state.next;
        match state.nodes.get_mut(&node) {
            Some(node) => {
                node.reads.push((next, Box::new(read)));
                None
            }
            None => Some(read),
        }
    }

    fn end(&self, node: u64, number: u64) {
        let mut ready = Vec::new();
        let mut state = self.state();
        if let Some(of_node) = state.nodes.get_mut(&node) {
            of_node.writes.remove(&number);
            let first = of_node.writes.first().copied().unwrap_or(u64::MAX);
            let (free, waiting) = std::mem::take(&mut of_node.reads)
                .into_iter()
                .partition(|(before, _)| *before <= first);
            ready = free;
            of_node.reads = waiting;
            if of_node.writes.is_empty() {
                state.nodes.remove(&node);
            }
        }
        drop(state);
        ready.into_iter().for_each(|(_, read)| read());
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.writes.end(self.node, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_wait_for_what_came_before_them() {
        let writes = Writes::default();
        let done = Arc::new(Mutex::new(Vec::new()));
        let read = |name: &'static str| {
            let done = done.clone();
            move || done.lock().unwrap().push(name)
        };
        assert!(writes.before(1, read("at once")).is_some());
        let (one, two) = (writes.begin(1), writes.begin(1));
        assert!(writes.before(1, read("after two")).is_none());
        let three = writes.begin(1);
        assert!(writes.before(2, read("another file's")).is_some());
        assert!(writes.before(1, read("after three")).is_none());
        drop(two);
        assert!(done.lock().unwrap().is_empty());
        drop(one);
        assert_eq!(*done.lock().unwrap(), ["after two"]);
        drop(three);
        assert_eq!(*done.lock().unwrap(), ["after two", "after three"]);
        assert!(writes.state().nodes.is_empty());
    }
}
