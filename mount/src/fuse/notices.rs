//! Telling the kernel to drop what it keeps of a file.
//!
//! Invariants:
//! 1. No notification is about a name: those take the directory's lock, which a program may hold that
//!    waits for this process, or for ever.
//! 2. Who waits for a notice waits for one about *attributes*, which takes no lock and waits for no page.
//!    With the attributes the kernel learns that the content has changed, and whoever reads next drops the
//!    pages himself (FUSE_AUTO_INVAL_DATA; see `Nodes::content_changed`).
//! 3. A notice about *pages* may wait until they are written out or read: for requests that this process has
//!    to answer. Nobody waits for those, they are sent by threads of their own, [`MOST_THREADS`] at most, and
//!    those about one node do not delay another's, unless as many nodes are stuck.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::engine::order::Job;

/// How many threads wait for pages at most.
const MOST_THREADS: usize = 8;

/// An offset that stands for no content: the kernel drops the attributes and asks no page.
const ATTRIBUTES_ONLY: i64 = -1;

#[derive(Default)]
struct Queue {
    /// Attributes that are to be dropped, and what waits for each; one for each node at most.
    attributes: VecDeque<(u64, Vec<Job>)>,
    /// Nodes whose pages are to be dropped, once each.
    pages: VecDeque<u64>,
    /// Those whose pages are being dropped.
    being_dropped: HashSet<u64>,
    /// Threads for pages, and those of them that have nothing to do.
    threads: usize,
    idle: usize,
    ended: bool,
}

impl Queue {
    /// The next node whose pages are to be dropped and are not being dropped already.
    fn next_pages(&mut self) -> Option<u64> {
        let free = |node: &u64| !self.being_dropped.contains(node);
        let index = self.pages.iter().position(free)?;
        let node = self.pages.remove(index)?;
        self.being_dropped.insert(node);
        Some(node)
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    more_pages: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Entries are added and removed in single steps.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where notices are left.
#[derive(Default)]
pub struct Notices {
    shared: Arc<Shared>,
    kernel: Mutex<Option<Notifier>>,
}

impl Notices {
    /// Has the kernel drop the content and the attributes of `node`, when that can be.
    pub fn invalidate(&self, node: u64) {
        let mut queue = self.shared.lock();
        if queue.ended || queue.pages.contains(&node) {
            return;
        }
        queue.pages.push_back(node);
        let starts = queue.idle < queue.pages.len() && queue.threads < MOST_THREADS;
        queue.threads += usize::from(starts);
        drop(queue);
        if starts && let Err(error) = self.start_thread() {
            log::debug!("no further thread for notices: {error}");
            self.shared.lock().threads -= 1;
        }
        self.shared.more_pages.notify_one();
    }

    /// Has the kernel drop the attributes of `node`, soon.
    pub fn invalidate_attributes(&self, node: u64) {
        self.add(node, None);
    }

    /// The same; `then` is done after it.
    pub fn invalidate_attributes_then(&self, node: u64, then: Job) {
        self.add(node, Some(then));
    }

    fn add(&self, node: u64, then: Option<Job>) {
        let mut queue = self.shared.lock();
        if queue.ended {
            drop(queue);
            return then.into_iter().for_each(|job| job());
        }
        match queue.attributes.iter_mut().find(|(of, _)| *of == node) {
            Some((_, jobs)) => jobs.extend(then),
            None => queue
                .attributes
                .push_back((node, then.into_iter().collect())),
        }
        drop(queue);
        self.shared.more.notify_one();
    }

    /// Starts the threads that tell.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start(&self, kernel: Notifier) -> io::Result<Teller> {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = Some(kernel.clone());
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("notices".to_owned())
            .spawn(move || tell_attributes(&shared, &kernel))?;
        let teller = Teller {
            shared: self.shared.clone(),
            thread: Some(thread),
        };
        // There is one at least, or none that waits for pages would ever be started in a full cgroup.
        self.shared.lock().threads += 1;
        self.start_thread()?;
        Ok(teller)
    }

    fn start_thread(&self) -> io::Result<()> {
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kernel) = kernel.clone() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let shared = self.shared.clone();
        std::thread::Builder::new()
            .name("pages".to_owned())
            .spawn(move || tell_pages(&shared, &kernel))
            .map(drop)
    }
}

/// The threads that tell. When this is dropped they end, those that wait for pages when these are free.
pub struct Teller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.more.notify_all();
        self.shared.more_pages.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of it has been logged.
        }
    }
}

fn tell_attributes(shared: &Shared, kernel: &Notifier) {
    let mut queue = shared.lock();
    loop {
        if let Some((node, then)) = queue.attributes.pop_front() {
            drop(queue);
            tell(kernel, node, ATTRIBUTES_ONLY);
            then.into_iter().for_each(|job| job());
            queue = shared.lock();
        } else if queue.ended {
            return;
        } else {
            queue = shared
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn tell_pages(shared: &Shared, kernel: &Notifier) {
    let mut queue = shared.lock();
    while !queue.ended {
        if let Some(node) = queue.next_pages() {
            drop(queue);
            tell(kernel, node, 0);
            queue = shared.lock();
            queue.being_dropped.remove(&node);
        } else {
            queue.idle += 1;
            queue = shared
                .more_pages
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

/// Drops the attributes of `node`, and its content from `offset` on unless that is negative.
fn tell(kernel: &Notifier, node: u64, offset: i64) {
    // What the kernel has forgotten has nothing left to drop.
    if let Err(error) = kernel.inval_inode(INodeNo(node), offset, 0)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::debug!("node {node}: not invalidated: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stuck_node_holds_up_no_other() {
        let mut queue = Queue::default();
        queue.pages.extend([1, 2]);
        assert_eq!(queue.next_pages(), Some(1));
        queue.pages.push_back(1);
        assert_eq!(queue.next_pages(), Some(2));
        assert_eq!(queue.next_pages(), None, "the first still waits");
        queue.being_dropped.remove(&1);
        assert_eq!(queue.next_pages(), Some(1));
    }

    #[test]
    fn whoever_waits_is_answered_after_the_end() {
        let notices = Notices::default();
        notices.shared.lock().ended = true;
        let (sender, done) = std::sync::mpsc::channel();
        let then = Box::new(move || sender.send(()).unwrap());
        notices.invalidate_attributes_then(1, then);
        assert_eq!(done.try_recv(), Ok(()));
    }
}
