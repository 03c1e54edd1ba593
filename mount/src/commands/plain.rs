//! Writing in a directory that is not mounted.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

use polystore::{AtomicFile, AtomicWriteOptions};

use super::place::Spot;

/// Starts a new version of the file at `spot`. A directory that is missing is an error.
pub fn stage(spot: &Spot) -> io::Result<AtomicFile> {
    let options = AtomicWriteOptions::new().ensure_directory(false);
    AtomicFile::open(spot.path(), &options)
}

/// Replaces the file at `spot`, whose turn must be held.
pub fn replace(spot: &Spot, content: &[u8]) -> io::Result<()> {
    if spot.is_lock() {
        return write_in_place(&spot.path(), &mut &content[..]);
    }
    let mut file = stage(spot)?;
    file.write_all(content)?;
    file.commit()
}

/// Writes a lock file, which others hold locks on, so that it must stay the file that it is.
pub fn write_in_place(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let written = io::copy(content, &mut file)?;
    file.set_len(written)
}
