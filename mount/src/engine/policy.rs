//! What files are by their names and first bytes: written in place, because the program runs its own
//! protocol or the file is a stream; or written in turns.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Names that are written in place unless that is switched off.
///
/// Logs are looked at while they are written, PID files are read while they are
/// held, and a second vim must see the swap file of the first.
pub const DEFAULT_DIRECT: [&str; 4] = ["*.log", "nohup.out", "*.pid", ".*.sw[a-p]"];

fn matcher(
    defaults: &[&str],
    patterns: &[String],
    with_defaults: bool,
) -> Result<Gitignore, String> {
    let mut builder = GitignoreBuilder::new("/");
    let defaults = defaults.iter().copied().filter(|_| with_defaults);
    for pattern in defaults.chain(patterns.iter().map(String::as_str)) {
        builder
            .add_line(None, pattern)
            .map_err(|error| format!("pattern {pattern:?}: {error}"))?;
    }
    builder.build().map_err(|error| error.to_string())
}

/// How many bytes of a file [`is_database`] looks at.
pub const SIGNATURE_LEN: usize = 4112;

/// The `--direct` patterns.
pub struct Direct(Gitignore);

impl Direct {
    /// Understands `patterns` (gitignore style, relative to the root of the mount).
    ///
    /// # Errors
    /// The first pattern that is none, with what is wrong with it.
    pub fn new(patterns: &[String], with_defaults: bool) -> Result<Direct, String> {
        matcher(&DEFAULT_DIRECT, patterns, with_defaults).map(Direct)
    }

    /// Whether the file at `path`, relative to the root of the mount, is to be written in place.
    pub fn covers(&self, path: &Path) -> bool {
        self.0.matched_path_or_any_parents(path, false).is_ignore()
    }
}

/// Names whose writers take turns unless that is switched off.
pub const DEFAULT_TURNS: [&str; 2] = ["*.lock", "*.json"];

/// What it means to have the turn at a turn-taking name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnKind {
    /// It is itself the lock: a critical section.
    LockFile,
    /// It is a document that is read, changed and written back; beside it lies its lock file.
    Document,
}

/// The turn-taking names.
pub struct Turns(Gitignore);

impl Turns {
    /// Understands `patterns` (gitignore style, relative to the root of the mount).
    ///
    /// # Errors
    /// The first pattern that is none, with what is wrong with it.
    pub fn new(patterns: &[String], with_defaults: bool) -> Result<Turns, String> {
        matcher(&DEFAULT_TURNS, patterns, with_defaults).map(Turns)
    }

    /// Whether and how those who write the file at `path`, relative to the root of the mount, take turns.
    pub fn kind(&self, path: &Path) -> Option<TurnKind> {
        if self.0.is_empty() || !self.0.matched(path, false).is_ignore() {
            return None;
        }
        match path.file_name().is_some_and(is_lock_name) {
            true => Some(TurnKind::LockFile),
            false => Some(TurnKind::Document),
        }
    }

    /// Whether the file at `path` is what is locked for a turn, its own or that of the document beside it.
    pub fn is_lock_file(&self, path: &Path) -> bool {
        let document = || {
            path.extension() == Some(OsStr::new("lock"))
                && self.kind(&path.with_extension("")) == Some(TurnKind::Document)
        };
        self.kind(path) == Some(TurnKind::LockFile) || document()
    }
}

/// The name of the file that is locked for a turn at `name`.
pub fn lock_file_of(name: &OsStr, kind: TurnKind) -> OsString {
    let mut lock = name.to_owned();
    if kind == TurnKind::Document {
        lock.push(".lock");
    }
    lock
}

/// Whether a file that starts with `head` is a database or disk image that keeps itself whole.
///
/// The signatures are those of file(1)'s magic and of the formats' own documents:
/// SQLite 3, LMDB (magic in the first page's header, after 16 or 8 bytes), GDBM,
/// Berkeley DB (at byte 12), tdb, RRDtool, qcow2.
pub fn is_database(head: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let either = |offset: usize, magic: u32| {
        at(offset, &magic.to_le_bytes()) || at(offset, &magic.to_be_bytes())
    };
    at(0, b"SQLite format 3\0")
        || at(0, b"TDB file\n")
        || at(0, b"RRD\0")
        || at(0, b"QFI\xfb")
        || either(16, 0xBEEF_C0DE)
        || either(8, 0xBEEF_C0DE)
        || [
            0x1357_9ace,
            0x1357_9acd,
            0x1357_9acf,
            0x1357_9ad0,
            0x1357_9ad1,
        ]
        .iter()
        .any(|magic| either(0, *magic))
        || [
            0x0006_1561,
            0x0005_3162,
            0x0004_2253,
            0x0004_0988,
            0x0007_4582,
        ]
        .iter()
        .any(|magic| either(12, *magic))
}

/// The names whose files `name` may be a neighbour of: `a-b-c` gives `a-b` and `a`.
pub fn neighbours_of(name: &OsStr) -> impl Iterator<Item = OsString> + '_ {
    let bytes = name.as_bytes();
    (1..bytes.len())
        .rev()
        .filter(|at| bytes[*at] == b'-')
        .map(|at| OsStr::from_bytes(&bytes[..at]).to_owned())
}

/// Whether `name` is one that others lock: its inode must stay.
pub fn is_lock_name(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(patterns: &[&str], defaults: bool) -> Direct {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        Direct::new(&patterns, defaults).expect("good patterns")
    }

    #[test]
    fn the_defaults_and_directories_are_matched() {
        let direct = direct(&["pgdata/", "/only-at-the-top.bin", "!important.log"], true);
        for covered in [
            "a.log",
            "x/y.log",
            "x/nohup.out",
            "run/d.pid",
            ".a.c.swp",
            "pgdata/base/1",
            "only-at-the-top.bin",
        ] {
            assert!(direct.covers(Path::new(covered)), "{covered}");
        }
        for other in [
            "a.csv",
            "log",
            "x/only-at-the-top.bin",
            "a.swp",
            ".a.swz",
            "important.log",
            "pgdata2/x",
        ] {
            assert!(!direct.covers(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn the_defaults_can_be_switched_off() {
        assert!(!direct(&[], false).covers(Path::new("a.log")));
    }

    #[test]
    fn turns_are_taken_by_the_names_of_files() {
        let turns = |patterns: &[&str], defaults| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            Turns::new(&patterns, defaults).expect("good patterns")
        };
        let usual = turns(&["!node_modules/**", "shared/*.ini"], true);
        let kind = |path: &str| usual.kind(Path::new(path));
        assert_eq!(kind("a/job.lock"), Some(TurnKind::LockFile));
        assert_eq!(kind("a/b.json"), Some(TurnKind::Document));
        assert_eq!(kind("shared/x.ini"), Some(TurnKind::Document));
        for other in [
            "a.csv",
            "x.json/a.csv",
            "node_modules/p/package.json",
            "x.ini",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
        assert!(usual.is_lock_file(Path::new("b.json.lock")));
        let only = turns(&["*.ini"], false);
        assert!(only.is_lock_file(Path::new("b.ini.lock")));
        assert!(!only.is_lock_file(Path::new("b.lock")));
        assert_eq!(turns(&[], false).kind(Path::new("b.lock")), None);
        let document = lock_file_of(OsStr::new("b.json"), TurnKind::Document);
        assert_eq!(document, "b.json.lock");
    }

    #[test]
    fn databases_are_known_by_their_first_bytes() {
        assert!(is_database(b"SQLite format 3\0rest"));
        assert!(is_database(b"QFI\xfb\0\0\0\x03"));
        let mut lmdb = vec![0u8; 64];
        lmdb[16..20].copy_from_slice(&0xBEEF_C0DEu32.to_le_bytes());
        assert!(is_database(&lmdb));
        assert!(!is_database(b""));
        assert!(!is_database(b"a,b,c\n1,2,3\n"));
    }

    #[test]
    fn neighbours_are_found_from_the_longest_name_down() {
        let of = |name: &str| neighbours_of(OsStr::new(name)).collect::<Vec<_>>();
        assert_eq!(of("a-b.db-wal"), ["a-b.db", "a"]);
        assert_eq!(of("plain"), [""; 0]);
        assert_eq!(of("-x"), [""; 0]);
    }
}
