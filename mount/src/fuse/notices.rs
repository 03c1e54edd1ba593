//! Telling the kernel to drop what it keeps of a file.
//!
//! The kernel may first have to write out pages that were changed through a mapping, or wait for
//! pages that are being read: requests that this process has to answer meanwhile. So one thread
//! of its own tells, and nothing waits for it with anything held that a request may need.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use fuser::{INodeNo, Notifier};

use crate::engine::order::Job;

/// An offset that stands for no content: the kernel drops the attributes and asks no page.
const ATTRIBUTES_ONLY: i64 = -1;

/// What the kernel is to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// The content and the attributes of a node.
    Node(u64),
    /// The attributes of a node, which waits for no page.
    Attributes(u64),
}

struct Notice {
    what: What,
    /// What was waiting for this.
    then: Vec<Job>,
}

#[derive(Default)]
struct Queue {
    // Two at most for each node, so it is bounded by what the kernel knows.
    notices: VecDeque<Notice>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Entries are added and removed in single steps.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where notices are left.
#[derive(Default)]
pub struct Notices(Arc<Shared>);

impl Notices {
    /// Has the kernel drop the content and the attributes of `node`, soon.
    pub fn invalidate(&self, node: u64) {
        self.add(What::Node(node), None);
    }

    /// The same; `then` is done after it.
    pub fn invalidate_then(&self, node: u64, then: Job) {
        self.add(What::Node(node), Some(then));
    }

    /// Has the kernel drop the attributes of `node`, soon.
    pub fn invalidate_attributes(&self, node: u64) {
        self.add(What::Attributes(node), None);
    }

    /// The same; `then` is done after it.
    pub fn invalidate_attributes_then(&self, node: u64, then: Job) {
        self.add(What::Attributes(node), Some(then));
    }

    fn add(&self, what: What, then: Option<Job>) {
        let mut queue = self.0.lock();
        if queue.ended {
            drop(queue);
            return then.into_iter().for_each(|job| job());
        }
        match queue.notices.iter_mut().find(|notice| notice.what == what) {
            Some(notice) => notice.then.extend(then),
            None => queue.notices.push_back(Notice {
                what,
                then: then.into_iter().collect(),
            }),
        }
        drop(queue);
        self.0.more.notify_one();
    }

    /// Starts the thread that tells.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(&self, kernel: Notifier) -> io::Result<Teller> {
        let shared = self.0.clone();
        let thread = std::thread::Builder::new()
            .name("notices".to_owned())
            .spawn(move || run(&shared, &kernel))?;
        Ok(Teller {
            shared: self.0.clone(),
            thread: Some(thread),
        })
    }
}

/// The thread that tells; it ends when this is dropped.
pub struct Teller {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.more.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of it has been logged.
        }
    }
}

fn run(shared: &Shared, kernel: &Notifier) {
    loop {
        let notice = {
            let mut queue = shared.lock();
            loop {
                if let Some(notice) = queue.notices.pop_front() {
                    break notice;
                }
                if queue.ended {
                    return;
                }
                queue = shared
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        };
        let told = match &notice.what {
            What::Node(node) => kernel.inval_inode(INodeNo(*node), 0, 0),
            What::Attributes(node) => kernel.inval_inode(INodeNo(*node), ATTRIBUTES_ONLY, 0),
        };
        // What the kernel has forgotten has nothing left to drop.
        if let Err(error) = told
            && error.kind() != io::ErrorKind::NotFound
        {
            log::debug!("{:?}: not invalidated: {error}", notice.what);
        }
        notice.then.into_iter().for_each(|job| job());
    }
}
