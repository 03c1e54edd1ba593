//! A directory to work in, and what is left in it.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch(tempfile::tempdir().expect("a directory for the test"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).expect("a file for the test");
        path
    }

    /// All names in the directory, so that a temporary file cannot hide.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path())
            .expect("the directory of the test")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("a file with text")
}

/// Where a child process is to work.
pub const CHILD_PATH: &str = "POLYSTORE_TEST_CHILD_PATH";

/// This program again, to run one ignored test, which is told a path.
pub fn child(test: &str, path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(env::current_exe().expect("the path of this program"));
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(CHILD_PATH, path);
    command
}

/// What the parent said.
pub fn child_path() -> PathBuf {
    env::var_os(CHILD_PATH)
        .expect("runs as a child of another test only")
        .into()
}

/// Sets the permission bits.
#[cfg(unix)]
pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("to set permission bits");
}

/// Whether nothing is forbidden to this process.
#[cfg(target_os = "linux")]
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").expect("/proc").uid() == 0
}
