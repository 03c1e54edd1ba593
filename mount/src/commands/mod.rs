//! The commands for people. Each works on a mount and on a plain directory.

pub mod lock;
pub mod publish;
pub mod salvage;
pub mod status;
pub mod update;
pub mod write;

mod client;
mod lock_file;
mod place;
mod plain;
mod table;
mod turn;

/// The exit code of a command that waited in vain: EX_TEMPFAIL of sysexits.h, "try again later".
const NO_TURN: u8 = 75;
