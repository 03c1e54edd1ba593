//! What the kernel says is mounted where.
//!
//! Nothing here asks the program behind a FUSE mount: it may be dead, hung, or serve another
//! user only, and then even root's stat() of its root directory fails or waits for ever.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxAttributes, StatxFlags};

/// The type that a mount of polystore has in /proc/self/mountinfo.
pub const POLYSTORE: &str = "fuse.polystore";

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tells this mount from all others of this namespace while it exists.
    pub id: u64,
    /// `major:minor` of the file system, the same in all namespaces.
    pub device: String,
    /// What of the file system is to be seen: `/`, or a directory or file in it.
    pub root: PathBuf,
    /// Where it is, as an absolute path.
    pub mountpoint: PathBuf,
    /// The type of the file system: `ext4`, `fuse.polystore`.
    pub kind: String,
    /// What is mounted; of a polystore mount: the path of its data directory.
    pub source: PathBuf,
    /// User and group that made the mount, where it is a FUSE mount.
    pub owner: Option<(u32, u32)>,
}

impl Entry {
    /// Whether this is a mount of polystore.
    pub fn is_polystore(&self) -> bool {
        self.kind == POLYSTORE
    }

    /// Whether a program serves it.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind == "fuseblk" || self.kind.starts_with("fuse.")
    }
}

/// A name as the kernel sees it, without any question to the file system behind it.
pub struct Node {
    /// Opened with O_PATH: it stands for the name and gives no access.
    pub handle: OwnedFd,
    /// The mount it belongs to.
    pub mount_id: u64,
    /// Whether it is the root of that mount.
    pub is_root: bool,
}

impl Node {
    /// A number of its mount that is never used again, which `mount_id` is as soon as the mount
    /// has gone; `None` on Linux before 6.8, and in the mounts of other users.
    pub fn unique_mount_id(&self) -> Option<u64> {
        const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let known = unasked(&self.handle, MNT_ID_UNIQUE).ok()?;
        (known.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(known.stx_mnt_id)
    }
}

/// Looks at `path`; does not follow a symbolic link at its end.
pub fn node(path: &Path) -> io::Result<Node> {
    node_in(CWD, path)
}

/// Looks at `path` below an open directory.
pub fn node_in(directory: impl AsFd, path: &Path) -> io::Result<Node> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(directory, path, flags, Mode::empty())?;
    let known = unasked(&handle, StatxFlags::empty())?;
    Ok(Node {
        handle,
        mount_id: known.stx_mnt_id,
        is_root: known.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// The mount that `path`, followed through symbolic links, belongs to.
pub fn mount_id(path: &Path) -> io::Result<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(CWD, path, flags, StatxFlags::empty())?.stx_mnt_id)
}

/// What tells the file behind `path` from all others: device and inode.
pub fn file_id(path: &Path) -> io::Result<(u32, u32, u64)> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let known = rustix::fs::statx(CWD, path, flags, StatxFlags::INO)?;
    Ok((known.stx_dev_major, known.stx_dev_minor, known.stx_ino))
}

/// An empty `wanted` is answered by the kernel alone, whoever owns the mount.
fn unasked(handle: impl AsFd, wanted: StatxFlags) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(handle, "", flags, wanted)?)
}

/// The topmost mount whose root is `path`, if there is one.
pub fn mount_at(path: &Path) -> io::Result<Option<Entry>> {
    match node(path) {
        Ok(node) if node.is_root => find(node.mount_id),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The mount that serves `path`.
pub fn mount_of(path: &Path) -> io::Result<Option<Entry>> {
    find(mount_id(path)?)
}

/// The mount that serves what is open as `handle`.
pub fn mount_of_handle(handle: impl AsFd) -> io::Result<Option<Entry>> {
    find(unasked(handle, StatxFlags::empty())?.stx_mnt_id)
}

/// The mount with this ID, if it still exists.
pub fn find(id: u64) -> io::Result<Option<Entry>> {
    Ok(all()?.into_iter().find(|entry| entry.id == id))
}

/// All mounts of this process's namespace.
pub fn all() -> io::Result<Vec<Entry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&byte| byte == b'\n').filter_map(line).collect()
}

/// `ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [TAG ...] - TYPE SOURCE SUPEROPTIONS`
fn line(text: &[u8]) -> Option<Entry> {
    let fields: Vec<&[u8]> = text.split(|&byte| byte == b' ').collect();
    let dash = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let [kind, source, options, ..] = fields.get(dash + 1..)? else {
        return None;
    };
    Some(Entry {
        id: number(fields[0])?,
        device: string(fields[2]),
        root: unescape(fields[3]).into(),
        mountpoint: unescape(fields[4]).into(),
        kind: string(&unescape(kind).into_vec()),
        source: unescape(source).into(),
        owner: owner(options),
    })
}

fn owner(options: &[u8]) -> Option<(u32, u32)> {
    let value = |key: &[u8]| {
        options
            .split(|&byte| byte == b',')
            .find_map(|option| number(option.strip_prefix(key)?))
            .and_then(|id| u32::try_from(id).ok())
    };
    Some((value(b"user_id=")?, value(b"group_id=")?))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn string(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Undoes the kernel's escapes of blanks, tabs, line ends, `\` and `#`: three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => bytes.push(first),
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_sorts() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n\
            40 36 0:51 / /home/a\\040b/s\\134afe rw,nosuid - fuse.polystore \
            /data/x\\012y rw,user_id=1000,group_id=100,default_permissions\n\
            41 36 0:52 / /x rw - fuse /dev/fuse rw,user_id=0,group_id=0,allow_other\n\
            \n\
            broken line\n\
            42 36 0:53 / /unfinished rw shared:7\n\
            43 36 0:54 / /none rw - tmpfs  rw";
        let entries = parse(text);
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[0].id, 36);
        assert_eq!(entries[0].device, "98:0");
        assert_eq!(entries[0].mountpoint, Path::new("/mnt2"));
        assert_eq!(entries[0].root, Path::new("/mnt1"));
        assert_eq!(entries[0].kind, "ext3");
        assert_eq!(entries[0].owner, None);
        assert!(!entries[0].is_fuse());
        assert_eq!(entries[1].mountpoint, Path::new("/home/a b/s\\afe"));
        assert_eq!(entries[1].source, Path::new("/data/x\ny"));
        assert_eq!(entries[1].owner, Some((1000, 100)));
        assert!(entries[1].is_polystore() && entries[1].is_fuse());
        assert!(entries[2].is_fuse() && !entries[2].is_polystore());
        assert_eq!(entries[3].source, Path::new(""));
    }

    #[test]
    fn escapes() {
        let plain = |text: &[u8]| unescape(text).into_vec();
        assert_eq!(plain(b"a\\040b\\011\\134"), b"a b\t\\");
        assert_eq!(plain(b"\\303\\274"), "ü".as_bytes());
        assert_eq!(plain(b"end\\04"), b"end\\04");
        assert_eq!(plain(b"\\999\\400"), b"\\999\\400");
    }

    #[test]
    fn the_root_is_a_mount_and_a_fresh_directory_is_not() {
        let root = mount_at(Path::new("/")).unwrap().unwrap();
        assert_eq!(root.mountpoint, Path::new("/"));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(mount_at(directory.path()).unwrap(), None);
        assert_eq!(mount_at(&directory.path().join("none")).unwrap(), None);
        assert!(mount_of(directory.path()).unwrap().is_some());
    }
}
