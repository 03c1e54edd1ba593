//! What every scenario stands on: a mount of its own, programs that run in it as
//! a given user, and limits of time, so that a mount that hangs fails one test
//! and not the whole run.
//!
//! Scenarios are declared with three macros, by what a plain directory would do:
//! - [`same!`]: a plain directory passes as well; the mount must not differ from it.
//! - [`promise!`]: only polystore does this. With `POLYSTORE_TEST_PLAIN=1` these run
//!   on a plain directory and must *fail* there, which shows that they can.
//! - [`mount_only!`]: about the mount itself; there is nothing to run without one.

mod mounted;
mod process;
mod setup;

pub use mounted::Mounted;
pub use setup::{Setup, Who};

use crate::skipped::skip;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Where programs are looked for: where an ordinary user finds them, too.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// What a plain directory does with a scenario.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    Passes,
    Fails,
    DoesNotApply,
}

/// True if the scenarios are to be tried on a plain directory.
pub fn on_plain_directory() -> bool {
    std::env::var_os("POLYSTORE_TEST_PLAIN").is_some_and(|value| value == "1")
}

/// The number in the environment variable `name`, or `default`.
pub fn count(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Runs one scenario as `who`; the end of it is part of the test (see [`Mounted::finish`]).
pub fn run(who: Who, setup: &Setup, plain: Plain, scenario: fn(&mut Mounted)) {
    if on_plain_directory() && plain == Plain::DoesNotApply {
        return;
    }
    if let Some(reason) = setup.cannot_run(who) {
        return skip(&reason);
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut mounted = Mounted::new(who, setup);
        scenario(&mut mounted);
        mounted.finish();
    }));
    match (outcome, on_plain_directory() && plain == Plain::Fails) {
        (Ok(()), false) | (Err(_), true) => {}
        (Err(panic), false) => resume_unwind(panic),
        (Ok(()), true) => panic!("a plain directory keeps this promise: the test shows nothing"),
    }
}

/// Declares one scenario as two tests; used by the three macros below.
macro_rules! scenario {
    ($plain:ident, $(#[$doc:meta])* $name:ident, $setup:expr, |$m:ident| $body:block) => {
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            use $crate::harness::{Mounted, Plain, Setup, Who, run};

            fn scenario($m: &mut Mounted) $body

            fn setup() -> Setup {
                $setup
            }

            #[test]
            fn as_root() {
                run(Who::Root, &setup(), Plain::$plain, scenario);
            }

            #[test]
            fn as_user() {
                run(Who::User, &setup(), Plain::$plain, scenario);
            }
        }
    };
}

/// A scenario that a plain directory passes, too.
macro_rules! same {
    ($(#[$doc:meta])* $name:ident, |$m:ident| $body:block) => {
        $crate::harness::scenario!(Passes, $(#[$doc])* $name, Setup::default(), |$m| $body);
    };
    ($(#[$doc:meta])* $name:ident, $setup:expr, |$m:ident| $body:block) => {
        $crate::harness::scenario!(Passes, $(#[$doc])* $name, $setup, |$m| $body);
    };
}

/// A scenario that a plain directory must fail.
macro_rules! promise {
    ($(#[$doc:meta])* $name:ident, |$m:ident| $body:block) => {
        $crate::harness::scenario!(Fails, $(#[$doc])* $name, Setup::default(), |$m| $body);
    };
    ($(#[$doc:meta])* $name:ident, $setup:expr, |$m:ident| $body:block) => {
        $crate::harness::scenario!(Fails, $(#[$doc])* $name, $setup, |$m| $body);
    };
}

/// A scenario that has no meaning without a mount.
macro_rules! mount_only {
    ($(#[$doc:meta])* $name:ident, |$m:ident| $body:block) => {
        $crate::harness::scenario!(DoesNotApply, $(#[$doc])* $name, Setup::default(), |$m| $body);
    };
    ($(#[$doc:meta])* $name:ident, $setup:expr, |$m:ident| $body:block) => {
        $crate::harness::scenario!(DoesNotApply, $(#[$doc])* $name, $setup, |$m| $body);
    };
}

pub(crate) use {mount_only, promise, same, scenario};
