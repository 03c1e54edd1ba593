//! Whether this machine and this user can mount at all, and what to do where they cannot.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Failure;

const DEVICE: &str = "/dev/fuse";
const CONFIGURATION: &str = "/etc/fuse.conf";

/// Checks what mounting needs besides its two directories.
pub fn check(allow_other: bool) -> Result<(), Failure> {
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    if let Err(error) = device {
        return Err(Failure::new(device_advice(&error)));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if fusermount().is_none() {
        return Err(Failure::new(
            "fusermount3 is not installed: only root can mount without it \
             (Debian, Ubuntu, Fedora: install the package fuse3)",
        ));
    }
    if allow_other {
        let configuration = fs::read(CONFIGURATION).unwrap_or_default();
        if !permits_allow_other(&configuration) {
            return Err(Failure::new(format!(
                "--allow-other: {CONFIGURATION} does not let ordinary users do that; \
                 root can add a line that says user_allow_other"
            )));
        }
    }
    Ok(())
}

fn device_advice(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "load the kernel module (as root: modprobe fuse); \
             in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN"
        }
        Some(libc::EACCES) => {
            "this user may not use it; it is usual that all may (as root: chmod 0666 /dev/fuse)"
        }
        Some(libc::EPERM) => {
            "the container does not allow it: start it with --device /dev/fuse --cap-add SYS_ADMIN"
        }
        _ => "mounting needs it",
    };
    format!("{DEVICE}: {error}: {advice}")
}

/// The program that mounts and unmounts for ordinary users.
pub fn fusermount() -> Option<PathBuf> {
    if let Some(path) = env::var_os("FUSERMOUNT_PATH") {
        return Some(path.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .collect();
    directories
        .iter()
        .map(|directory| directory.join("fusermount3"))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.is_absolute()
        && fs::metadata(path)
            .is_ok_and(|known| known.is_file() && known.permissions().mode() & 0o111 != 0)
}

fn permits_allow_other(configuration: &[u8]) -> bool {
    configuration
        .split(|&byte| byte == b'\n')
        .any(|line| line.trim_ascii() == b"user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_allow_other_stands_on_a_line_of_its_own() {
        assert!(permits_allow_other(b"# comment\nuser_allow_other\n"));
        assert!(permits_allow_other(b"mount_max = 7\n  user_allow_other"));
        assert!(!permits_allow_other(b"#user_allow_other\n"));
        assert!(!permits_allow_other(b"no_user_allow_other\n"));
        assert!(!permits_allow_other(b""));
    }

    #[test]
    fn advice_fits_the_error() {
        let advice = |code| device_advice(&io::Error::from_raw_os_error(code));
        assert!(advice(libc::ENOENT).contains("modprobe fuse"));
        assert!(advice(libc::EACCES).contains("chmod 0666"));
        assert!(advice(libc::EPERM).contains("container"));
    }
}
