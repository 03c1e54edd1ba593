//! Names of files as requests give them.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use super::error::ControlError;
use crate::engine::staging::is_hidden;

/// The longest path, in bytes.
const MAX_PATH: usize = 4096;

/// The longest name in a path, in bytes.
const MAX_NAME: usize = 255;

/// A path below the root of the mount: `/` between its names, none of which is empty, `.`, `..`,
/// or one that the mount keeps for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ControlPath(String);

impl ControlPath {
    /// Checks `path`.
    ///
    /// # Errors
    /// EINVAL if it is not such a path, or is too long for one.
    pub fn new(path: impl Into<String>) -> Result<ControlPath, ControlError> {
        let path = path.into();
        match problem_of(&path) {
            None => Ok(ControlPath(path)),
            Some(problem) => Err(ControlError::invalid(format!("path: {problem}"))),
        }
    }

    /// The path as the request gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, to be joined to the root.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The names from the root on, at least one.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &OsStr> {
        self.0.split('/').map(OsStr::new)
    }
}

impl fmt::Display for ControlPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn problem_of(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.len() > MAX_PATH {
        return Some("longer than 4096 bytes");
    }
    if path.starts_with('/') {
        return Some("it is relative to the root of the mount");
    }
    if path.contains('\0') {
        return Some("a NUL in it");
    }
    let mut names = path.split('/').enumerate();
    names.find_map(|(at, name)| problem_of_name(at == 0, name))
}

fn problem_of_name(in_root: bool, name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("an empty name in it")
    } else if name == "." || name == ".." {
        Some("a name `.` or `..` in it")
    } else if name.len() > MAX_NAME {
        Some("a name longer than 255 bytes in it")
    } else if is_hidden(in_root, OsStr::new(name)) {
        Some("a name that polystore keeps for itself")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::CONTROL_DIR;
    use super::super::error::Code;
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(2048) + "a";
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "a/.", "../a", "a/..", "a\0b", &long, &deep,
        ] {
            let error = ControlPath::new(bad).unwrap_err();
            assert_eq!(error.code, Code::Invalid, "{bad}");
        }
        for good in [
            "a",
            "a/b.json",
            ".config/x",
            "...",
            "a b/\u{e9}",
            &long[1..],
            &deep[2..],
        ] {
            assert_eq!(ControlPath::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn names_of_the_mount_are_refused() {
        for bad in [
            CONTROL_DIR,
            ".polystore/control.json",
            "a/.polystore-draft-1",
        ] {
            assert!(ControlPath::new(bad).is_err(), "{bad}");
        }
        assert!(ControlPath::new("a/.polystore").is_ok());
        let path = ControlPath::new("a/b").unwrap();
        assert_eq!(path.names().collect::<Vec<_>>(), ["a", "b"]);
    }
}
