//! Real programs on a real mount.
//!
//! Each scenario runs twice: as root, and as an ordinary user with a mount of
//! his own (see [`harness`]). What is compared with a plain directory, what only
//! the mount can do, and how both are kept honest is said there, too.
//!
//! Environment:
//! - `POLYSTORE_TEST_PLAIN=1`: run the scenarios on a plain directory, without polystore.
//!   What is to be equal must pass there, and what polystore promises must fail there.
//! - `POLYSTORE_TEST_ROUNDS`, `POLYSTORE_TEST_KILLS`, `POLYSTORE_TEST_MOUNT_KILLS`: how
//!   long the repeating scenarios go on.
//! - `POLYSTORE_TEST_DIR`: where the directories of the tests are made (default: `/tmp`).
//! - `POLYSTORE_TEST_SKIPPED`, `POLYSTORE_TEST_STRICT=1`: what becomes of scenarios that cannot
//!   run here (no root, no loop device), see [`skipped`].

#![cfg(target_os = "linux")]

mod harness;
#[path = "../support/skipped.rs"]
mod skipped;

mod acls;
mod attributes;
mod cli;
mod control;
mod data;
mod drafts;
mod edits;
mod extremes;
mod freezes;
mod fs;
mod full_disk;
mod images;
mod kill;
mod locks;
mod options;
mod programs;
mod rewrite;
mod rights;
mod scale;
mod semantics;
mod shares;
mod strangers;
mod swaps;
mod traps;
mod turns;
mod users;
