//! Getting a mount from the kernel.
//!
//! fuser can do this, too, but unmounts by path when its session is dropped even if the mount has
//! gone meanwhile, and takes away what is there by then: the file system below, or a newer mount.
//! Here the mount is made apart from the session, and nobody unmounts who was not asked to.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const DEVICE: &str = "/dev/fuse";
/// What mountinfo calls the type, `fuse.` in front.
const SUBTYPE: &str = "polystore";

/// How to mount.
#[derive(Clone, Debug)]
pub struct Attach<'a> {
    /// What mountinfo is to show as the source: the path of the data directory.
    pub source: &'a OsStr,
    /// Refuse every change.
    pub read_only: bool,
    /// Let users in who did not mount it.
    pub allow_other: bool,
    /// Let the kernel check permission bits and owners.
    pub default_permissions: bool,
    /// Honour set-user-ID bits; an ordinary user's mount never does.
    pub suid: bool,
    /// Honour device files; an ordinary user's mount never does.
    pub devices: bool,
}

/// Mounts over the directory that is open as `mountpoint` (O_PATH will do), whatever has its path by
/// now, and returns the connection to the kernel on which the first request waits already. As an ordinary
/// user asks fusermount3 to do it. That has no other way than by path, which it asks the system for, and
/// mounts only where the user could write.
pub fn attach(mountpoint: BorrowedFd<'_>, how: &Attach<'_>) -> io::Result<OwnedFd> {
    match attach_directly(mountpoint, how) {
        Err(Errno::PERM) => attach_by_helper(mountpoint, how),
        other => Ok(other?),
    }
}

/// The kernel follows this link to the very directory.
fn through(mountpoint: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", mountpoint.as_raw_fd())
}

fn attach_directly(mountpoint: BorrowedFd<'_>, how: &Attach<'_>) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::openat(CWD, DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mode = rustix::fs::fstat(mountpoint)?.st_mode;
    let options = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={}{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        access(how),
    );
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, how.read_only);
    flags.set(MountFlags::NOSUID, !how.suid);
    flags.set(MountFlags::NODEV, !how.devices);
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let kind = format!("fuse.{SUBTYPE}");
    let target = through(mountpoint);
    rustix::mount::mount(how.source, target, kind, flags, options.as_c_str())?;
    Ok(device)
}

/// The options that the kernel and fusermount3 read alike, each with a comma before it.
fn access(how: &Attach<'_>) -> String {
    let mut options = String::new();
    if how.default_permissions {
        options.push_str(",default_permissions");
    }
    if how.allow_other {
        options.push_str(",allow_other");
    }
    options
}

/// fusermount3 sends the connection through a socket, which it gets as its standard input.
fn attach_by_helper(mountpoint: BorrowedFd<'_>, how: &Attach<'_>) -> io::Result<OwnedFd> {
    let program = std::env::var_os("FUSERMOUNT_PATH").map_or("fusermount3".into(), PathBuf::from);
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(&program)
        .arg("-o")
        .arg(helper_options(how))
        .args(["--", "."])
        .current_dir(through(mountpoint))
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let connection = receive(&ours);
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(4096).read_to_end(&mut message)?;
    }
    let status = child.wait()?;
    match connection {
        Ok(Some(connection)) if status.success() => Ok(connection),
        Err(error) => Err(error),
        _ => {
            let message = String::from_utf8_lossy(&message);
            let lines: Vec<&str> = message.lines().map(str::trim).collect();
            let message = lines.join(" ").trim().to_string();
            Err(io::Error::other(if message.is_empty() {
                format!("{}: {status}", program.display())
            } else {
                message
            }))
        }
    }
}

fn helper_options(how: &Attach<'_>) -> OsString {
    let mut options = b"fsname=".to_vec();
    for &byte in how.source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(byte);
    }
    options.extend_from_slice(format!(",subtype={SUBTYPE}{}", access(how)).as_bytes());
    if how.read_only {
        options.extend_from_slice(b",ro");
    }
    OsString::from_vec(options)
}

/// The descriptor that comes through the socket; `None` if it is closed without one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_cannot_add_options() {
        let how = Attach {
            source: OsStr::new("/a,allow_other\\,b"),
            read_only: true,
            allow_other: false,
            default_permissions: true,
            suid: false,
            devices: false,
        };
        assert_eq!(
            helper_options(&how),
            "fsname=/a\\,allow_other\\\\\\,b,subtype=polystore,default_permissions,ro"
        );
    }

    #[test]
    fn a_socket_that_is_closed_brings_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
