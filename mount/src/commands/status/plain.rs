//! What can be seen of a data directory without its mount.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use polystore::disk::{Dir, Disk, SystemDisk};
use polystore_mount::salvage;
use serde_json::{Value, json};

use super::super::client::Mount;
use crate::locate::Data;
use crate::quote;

const SESSIONS: &str = "sessions";
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
    /// Looks at a directory that is not in a mount.
    pub fn look(data: &Data) -> io::Result<Directory> {
        let kept = salvage::list(&data.dir)?;
        let path = &data.shown;
        Ok(Directory {
            path: path.clone(),
            mountpoint: Mount::serving(path)?
                .filter(|mount| mount.data == *path)
                .map(|mount| mount.mountpoint),
            sessions: sessions(&data.dir)?,
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

fn sessions(data: &Dir) -> io::Result<Vec<Session>> {
    let all = match salvage::own_dir(data)? {
        Some(own) => salvage::own_subdir(&own, SESSIONS)?,
        None => None,
    };
    let Some(all) = all else {
        return Ok(Vec::new());
    };
    let mut sessions = Vec::new();
    for id in SystemDisk.list(&all)? {
        match look_at(&all, &id) {
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            session => sessions.push(session?),
        }
    }
    sessions.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(sessions)
}

fn look_at(sessions: &Dir, id: &OsStr) -> io::Result<Session> {
    let dir = SystemDisk.open_subdir(sessions, id)?;
    let lock = SystemDisk.open(&dir, OsStr::new(LOCK), false)?;
    // A living mount holds it. Shared, and for a moment: a mount that starts just then and
    // finds it locked leaves the session to the next one.
    let lives = !SystemDisk.try_lock(&lock, false)?;
    drop(lock);
    let is_draft =
        |name: &&OsString| *name != LOCK && !name.as_encoded_bytes().starts_with(NOTE.as_bytes());
    Ok(Session {
        id: id.to_string_lossy().into_owned(),
        lives,
        drafts: SystemDisk.list(&dir)?.iter().filter(is_draft).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};

    fn look(path: &std::path::Path) -> Directory {
        Directory::look(&crate::locate::data(path).unwrap()).unwrap()
    }

    #[test]
    fn living_and_dead_sessions_are_told_apart() {
        let data = tempfile::tempdir().unwrap();
        let root = data.path().canonicalize().unwrap();
        assert_eq!(
            look(&root).text(),
            format!("{}: not mounted\nsalvage: none\n", root.display())
        );
        let all = root.join(".polystore").join(SESSIONS);
        for id in ["a", "b"] {
            let dir = all.join(id);
            fs::create_dir_all(&dir).unwrap();
            for name in [LOCK, "1.file", "note-1.file"] {
                fs::write(dir.join(name), "").unwrap();
            }
        }
        fs::create_dir_all(all.join("starting")).unwrap();
        let held = File::open(all.join("b").join(LOCK)).unwrap();
        held.lock().unwrap();
        let seen = look(&root).json();
        assert_eq!(seen["mounted"], true);
        let sessions = json!([
            {"id": "a", "lives": false, "drafts": 1},
            {"id": "b", "lives": true, "drafts": 1},
        ]);
        assert_eq!(seen["sessions"], sessions);
    }
}
