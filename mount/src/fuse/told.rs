//! Who was told of a file a moment ago, in few bytes: there is one of these for each file that the
//! kernel knows.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Milliseconds since the first one was asked for, and one more. After 49 days they start again,
/// so that what is very old can be taken for new, for a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(NonZeroU32);

impl Moment {
    fn now() -> Moment {
        static START: OnceLock<Instant> = OnceLock::new();
        let since = START.get_or_init(Instant::now).elapsed().as_millis() as u32;
        Moment(NonZeroU32::MIN.saturating_add(since))
    }

    fn age(self) -> Duration {
        let age = Moment::now().0.get().wrapping_sub(self.0.get());
        Duration::from_millis(u64::from(age))
    }
}

/// The last two threads that were told of a file, and when, the later first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told([Option<(u32, Moment)>; 2]);

impl Told {
    /// Notes that thread `tid` was told of it, and is likely to open it next.
    pub fn tell(&mut self, tid: u32) {
        let [last, before] = &mut self.0;
        if last.is_none_or(|(other, _)| other != tid) {
            *before = *last;
        }
        *last = Some((tid, Moment::now()));
    }

    /// Whether somebody other than `writer` was told of it less than `age` ago.
    pub fn others(&self, writer: Option<u32>, age: Duration) -> bool {
        let told = self.0.iter().flatten();
        let mut others = told.filter(|(tid, _)| Some(*tid) != writer);
        others.any(|(_, when)| when.age() < age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_writer_alone_is_no_other() {
        let mut told = Told::default();
        assert!(!told.others(None, LONG));
        told.tell(7);
        told.tell(7);
        assert!(!told.others(Some(7), LONG));
        assert!(told.others(Some(8), LONG));
        assert!(told.others(None, LONG));
    }

    #[test]
    fn the_last_two_threads_are_remembered() {
        let mut told = Told::default();
        told.tell(7);
        told.tell(8);
        assert!(told.others(Some(8), LONG), "7 was told before");
        told.tell(8);
        assert!(told.others(Some(8), LONG), "7 still was");
        told.tell(9);
        assert!(told.others(Some(9), LONG), "8 was");
        assert!(!told.others(Some(9), Duration::ZERO), "but not just now");
    }

    #[test]
    fn it_takes_few_bytes() {
        assert_eq!(size_of::<Told>(), 16);
    }
}
