//! What can be seen of a data directory without its mount.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use polystore_mount::salvage;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::super::client::Mount;
use crate::quote;

const SESSIONS: &str = ".polystore/sessions";
const LOCK: &str = "lock";
const NOTE: &str = "note-";

/// A mount, living or dead, that left something in the directory.
struct Session {
    id: String,
    lives: bool,
    /// How many drafts are staged in it.
    drafts: usize,
}

/// A directory that is not a mount.
pub struct Directory {
    path: PathBuf,
    /// Where it is mounted.
    mountpoint: Option<PathBuf>,
    sessions: Vec<Session>,
    kept: usize,
    kept_bytes: u64,
}

impl Directory {
    /// Looks at `path`, a canonical path.
    pub fn look(path: &Path) -> io::Result<Directory> {
        let kept = salvage::list(path)?;
        Ok(Directory {
            path: path.to_owned(),
            mountpoint: Mount::serving(path)?
                .filter(|mount| mount.data == path)
                .map(|mount| mount.mountpoint),
            sessions: sessions(path)?,
            kept: kept.len(),
            kept_bytes: kept
                .iter()
                .fold(0, |sum, item| sum.saturating_add(item.size)),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let shown = quote::path(&self.path);
        let living = self.sessions.iter().any(|session| session.lives);
        let mut text = match (&self.mountpoint, living) {
            (Some(at), _) => {
                let at = quote::path(at);
                format!("{shown}: mounted at {at} (polystore status {at} shows more)\n")
            }
            (None, true) => format!("{shown}: mounted, but not where it can be seen from here\n"),
            (None, false) => format!("{shown}: not mounted\n"),
        };
        for session in &self.sessions {
            let state = match session.lives {
                true => "living mount",
                false => "dead mount, cleared by the next one",
            };
            let id = quote::text(&session.id);
            text.push_str(&format!(
                "session {id}: {state}, {} staged drafts\n",
                session.drafts
            ));
        }
        let bytes = self.kept_bytes;
        match self.kept {
            0 => text.push_str("salvage: none\n"),
            kept => text.push_str(&format!(
                "salvage: {kept} kept, {bytes} bytes (polystore salvage list)\n"
            )),
        }
        text
    }

    /// For programs. A path that is not UTF-8 is shown with U+FFFD.
    pub fn json(&self) -> Value {
        let session = |session: &Session| json!({"id": session.id, "lives": session.lives, "drafts": session.drafts});
        json!({
            "mounted": self.mountpoint.is_some() || self.sessions.iter().any(|s| s.lives),
            "mountpoint": self.mountpoint.as_ref().map(|path| path.to_string_lossy()),
            "data": self.path.to_string_lossy(),
            "sessions": self.sessions.iter().map(session).collect::<Vec<_>>(),
            "salvage": {"count": self.kept, "bytes": self.kept_bytes},
        })
    }
}

fn sessions(data: &Path) -> io::Result<Vec<Session>> {
    let entries = match fs::read_dir(data.join(SESSIONS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut sessions = Vec::new();
    for entry in entries {
        match look_at(&entry?) {
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            session => sessions.push(session?),
        }
    }
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(sessions)
}

fn look_at(entry: &fs::DirEntry) -> io::Result<Session> {
    let dir = entry.path();
    let lock = File::open(dir.join(LOCK))?;
    // A living mount holds it. Shared, and for a moment: a mount that starts just then and
    // finds it locked leaves the session to the next one.
    let lives = match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(error) => return Err(error.into()),
    };
    drop(lock);
    let names = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let is_draft = |name: &std::ffi::OsString| {
        name != LOCK && !name.as_encoded_bytes().starts_with(NOTE.as_bytes())
    };
    Ok(Session {
        id: entry.file_name().to_string_lossy().into_owned(),
        lives,
        drafts: names.filter(is_draft).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_and_dead_sessions_are_told_apart() {
        let data = tempfile::tempdir().unwrap();
        let root = data.path().canonicalize().unwrap();
        let empty = Directory::look(&root).unwrap();
        assert_eq!(
            empty.text(),
            format!("{}: not mounted\nsalvage: none\n", root.display())
        );
        for id in ["a", "b"] {
            let dir = root.join(SESSIONS).join(id);
            fs::create_dir_all(&dir).unwrap();
            for name in [LOCK, "1.file", "note-1.file"] {
                fs::write(dir.join(name), "").unwrap();
            }
        }
        fs::create_dir_all(root.join(SESSIONS).join("starting")).unwrap();
        let held = File::open(root.join(SESSIONS).join("b").join(LOCK)).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        let seen = Directory::look(&root).unwrap().json();
        assert_eq!(seen["mounted"], true);
        let sessions = json!([
            {"id": "a", "lives": false, "drafts": 1},
            {"id": "b", "lives": true, "drafts": 1},
        ]);
        assert_eq!(seen["sessions"], sessions);
    }
}
