//! The command line on real mounts: starting, ending, refusing, as root and as an ordinary user.

mod daemon;
mod serving;
mod site;
mod taken;
mod words;
