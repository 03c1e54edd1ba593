//! Who runs a scenario, and on what.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::PATH;

/// The ordinary user of the tests: `nobody`, whom every Linux knows by name (fusermount3 asks).
const USER: u32 = 65534;

/// Who starts the mount and the programs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    /// `nobody`, or whoever runs the tests if that is not root.
    User,
}

impl Who {
    /// The uid to change to before a program is started, if it is not our own.
    pub fn switch(self) -> Option<u32> {
        (self == Who::User && we_are_root()).then_some(USER)
    }
}

pub fn we_are_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a scenario asks for beyond a mount with default options.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Options of `polystore mount`.
    pub options: Vec<String>,
    /// A fresh file system for the backing directory: its type and size in MiB.
    pub image: Option<(String, u32)>,
    /// Programs (`git`) and Python's modules (`python:lmdb`) that not every machine has.
    pub needs: Vec<String>,
    /// Whether root's mount lets others in.
    pub for_all_users: bool,
    /// How many descriptors the mount may have, if not as many as usual.
    pub descriptors: Option<u64>,
}

impl Setup {
    /// With these programs: `git` is looked for as a command, `python:lmdb` as a module, `/usr/…` as a file.
    ///
    /// `scripts/install-test-tools` says which of them it installs.
    pub fn needs(programs: &[&str]) -> Setup {
        Setup {
            needs: programs.iter().map(|name| (*name).to_owned()).collect(),
            ..Setup::default()
        }
    }

    /// With these options of `polystore mount`.
    pub fn options(options: &[&str]) -> Setup {
        Setup {
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Setup::default()
        }
    }

    /// On a fresh file system of this type and size, loop-mounted from a file.
    pub fn on_image(fs: &str, mebibytes: u32) -> Setup {
        Setup {
            image: Some((fs.to_owned(), mebibytes)),
            ..Setup::default()
        }
    }

    /// Programs in root's mount run as other users.
    pub fn for_all_users(mut self) -> Setup {
        self.for_all_users = true;
        self
    }

    /// The mount gets this many descriptors, and cannot raise that.
    pub fn with_descriptors(mut self, count: u64) -> Setup {
        self.descriptors = Some(count);
        self
    }

    /// With these options besides.
    pub fn and_options(mut self, options: &[&str]) -> Setup {
        self.options
            .extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Why a scenario cannot run here, if it cannot.
    pub fn cannot_run(&self, who: Who) -> Option<String> {
        if who == Who::Root && !we_are_root() {
            return Some("it is for root".to_owned());
        }
        if self.image.is_some() && !we_are_root() {
            return Some("only root can mount an image".to_owned());
        }
        if self.image.is_some() && !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices".to_owned());
        }
        let missing: Vec<&str> = (self.needs.iter())
            .map(String::as_str)
            .filter(|name| !is_installed(name))
            .collect();
        (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(", ")))
    }
}

/// Whether the programs of the scenarios find this one.
fn is_installed(name: &str) -> bool {
    if name.starts_with('/') {
        return Path::new(name).exists();
    }
    let mut asked = match name.strip_prefix("python:") {
        Some(module) => {
            let mut python = Command::new("python3");
            python.args(["-c", &format!("import {module}")]);
            python
        }
        None => {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "command -v \"$0\"", name]);
            shell
        }
    };
    asked
        .env("PATH", PATH)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    asked.status().is_ok_and(|status| status.success())
}

/// Gives ordinary users /dev/fuse, as distributions do.
pub fn open_fuse_to_users() {
    let device = Path::new("/dev/fuse");
    let Ok(metadata) = device.metadata() else {
        panic!("there is no /dev/fuse: modprobe fuse");
    };
    if we_are_root() && metadata.permissions().mode() & 0o006 != 0o006 {
        let permissions = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(device, permissions).expect("chmod 0666 /dev/fuse");
    }
}
