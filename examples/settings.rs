//! Replaces a settings file so that nobody ever reads a part of it:
//! `cargo run --example settings -- settings.txt`

use std::env;
use std::io::{self, Write};

use polystore::{AtomicWriteOptions, Durability, atomic_write};

fn main() -> io::Result<()> {
    let path = env::args_os()
        .nth(1)
        .unwrap_or_else(|| "settings.txt".into());
    let options = AtomicWriteOptions::new().durability(Durability::Full);
    atomic_write(&path, &options, |file| {
        writeln!(file, "colour = red")?;
        writeln!(file, "size = {}", env::args_os().len())
    })
}
