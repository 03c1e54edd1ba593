//! From a directory that the user names to the data directory behind it.

use std::path::{Path, PathBuf};

use crate::run::mountinfo;
use crate::run::serving::Server;
use crate::{Failure, quote};

/// A data directory.
pub struct Data {
    /// The path to reach it by. Through /proc, if a mount covers it.
    pub reach: PathBuf,
    /// The path to show.
    pub shown: PathBuf,
    /// Keeps `reach` valid: the process that serves the mount.
    _server: Option<Server>,
}

impl Data {
    /// The text of an error, with the path to show in it.
    pub fn explain(&self, error: &std::io::Error) -> String {
        let reach = self.reach.display().to_string();
        error.to_string().replace(&reach, &quote::path(&self.shown))
    }
}

/// The data directory that is served where `directory` is, or else `directory` itself.
pub fn data(directory: &Path) -> Result<Data, Failure> {
    let fail = |error: std::io::Error| Failure::new(format!("{}: {error}", quote::path(directory)));
    let entry = mountinfo::mount_of(directory).map_err(fail)?;
    let Some(entry) = entry.filter(mountinfo::Entry::is_polystore) else {
        let path = directory.canonicalize().map_err(fail)?;
        if !path.is_dir() {
            return Err(fail(std::io::ErrorKind::NotADirectory.into()));
        }
        return Ok(Data {
            reach: path.clone(),
            shown: path,
            _server: None,
        });
    };
    // Mounted over itself, or below another mount, the path leads elsewhere; the server's
    // descriptor does not.
    let server = Server::of(&entry);
    let covered = mountinfo::mount_of(&entry.source)
        .ok()
        .flatten()
        .is_none_or(|there| there.is_polystore());
    let reach = match &server {
        Some(server) => server.data.clone(),
        None if !covered => entry.source.clone(),
        None => {
            return Err(Failure::new(format!(
                "{}: its data directory {} cannot be reached while it is mounted; unmount it first",
                quote::path(&entry.mountpoint),
                quote::path(&entry.source)
            )));
        }
    };
    Ok(Data {
        reach,
        shown: entry.source,
        _server: server,
    })
}
