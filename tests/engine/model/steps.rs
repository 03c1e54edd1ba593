//! What processes do, at random.

use polystore_mount::engine::locks::Class;
use proptest::prelude::*;

use super::rules::{How, NAMES, Range};

pub(super) const MOST_PROCESSES: usize = 6;
const MOST_HANDLES: usize = 8;

/// One step. Processes, names and handles are numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Fork(usize),
    Exec(usize),
    Exit(usize),
    Kill(usize),
    Open(usize, usize, How),
    Write(usize),
    /// A write that fails, for want of space or not.
    FailWrite(usize, bool),
    /// ftruncate(2) to half of what there is.
    Cut(usize),
    /// truncate(2) to half of what there is.
    CutPath(usize, usize),
    Close(usize),
    Rename(usize, usize, usize, bool),
    Exchange(usize, usize, usize),
    Link(usize, usize, usize),
    Unlink(usize, usize),
    /// `None` to unlock.
    Lock(usize, Class, Range, Option<bool>),
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        2 => Just(How::Read),
        1 => Just(How::Make),
        4 => Just(How::Rewrite),
        2 => Just(How::Append),
        6 => Just(How::Edit),
        1 => Just(How::Exclusive),
    ]
}

/// flock(2) knows whole files only.
fn lock() -> impl Strategy<Value = (Class, Range)> {
    prop_oneof![
        2 => Just((Class::Flock, 0..=2)),
        1 => Just((Class::Posix, 0..=2)),
        3 => (0..3_usize, 0..3_usize).prop_map(|(a, b)| (Class::Posix, a.min(b)..=a.max(b))),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let (process, name, handle) = (|| 0..MOST_PROCESSES, || 0..NAMES, || 0..MOST_HANDLES);
    let kind = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    prop_oneof![
        4 => process().prop_map(Step::Fork),
        2 => process().prop_map(Step::Exec),
        1 => process().prop_map(Step::Exit),
        2 => process().prop_map(Step::Kill),
        16 => (process(), name(), how()).prop_map(|(p, n, how)| Step::Open(p, n, how)),
        12 => handle().prop_map(Step::Write),
        1 => (handle(), any::<bool>()).prop_map(|(h, full)| Step::FailWrite(h, full)),
        2 => handle().prop_map(Step::Cut),
        1 => (process(), name()).prop_map(|(p, n)| Step::CutPath(p, n)),
        10 => handle().prop_map(Step::Close),
        4 => (process(), name(), name(), any::<bool>())
            .prop_map(|(p, a, b, replace)| Step::Rename(p, a, b, replace)),
        1 => (process(), name(), name()).prop_map(|(p, a, b)| Step::Exchange(p, a, b)),
        2 => (process(), name(), name()).prop_map(|(p, a, b)| Step::Link(p, a, b)),
        2 => (process(), name()).prop_map(|(p, n)| Step::Unlink(p, n)),
        6 => (handle(), lock(), kind).prop_map(|(h, (class, range), kind)| Step::Lock(h, class, range, kind)),
    ]
}
