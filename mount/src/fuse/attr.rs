//! What the backing file system says of a file, as the kernel wants it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use polystore::disk::{FileId, Kind, Stat};
use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// What is known of `name` in `dir`, or of the link itself.
pub fn of_name(dir: impl AsFd, name: &OsStr) -> io::Result<Statx> {
    Ok(rustix::fs::statx(
        dir,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
        wanted(),
    )?)
}

/// What is known of an open file.
pub fn of_file(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted())?)
}

/// Which file it is.
pub fn id(stat: &Statx) -> FileId {
    FileId {
        device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
    }
}

/// What tells a file from an earlier one with the same number: when it was made, where that is known.
pub fn born(stat: &Statx) -> Option<(i64, u32)> {
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

/// Whether only the system itself can say who may write it: immutable or append-only.
pub fn flagged(stat: &Statx) -> bool {
    stat.stx_attributes
        .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
}

fn file_type(mode: u16) -> FileType {
    match u32::from(mode) & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// What sort of thing it is.
pub fn kind(stat: &Statx) -> Kind {
    match file_type(stat.stx_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    }
}

/// The engine's view of it.
pub fn stat(stat: &Statx) -> Stat {
    Stat {
        id: id(stat),
        kind: kind(stat),
        len: stat.stx_size,
        links: u64::from(stat.stx_nlink),
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
    }
}

fn time(stamp: StatxTimestamp) -> SystemTime {
    since_epoch(stamp.tv_sec, stamp.tv_nsec)
}

/// When it was changed last, in seconds and nanoseconds since 1970.
pub fn ctime(stat: &Statx) -> (i64, u32) {
    (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)
}

/// When its content last changed: seconds and nanoseconds since 1970.
pub fn mtime(stat: &Statx) -> (i64, u32) {
    (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// The time so many seconds and nanoseconds after 1970 began.
pub fn since_epoch(seconds: i64, nanoseconds: u32) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(nanoseconds));
    let positive = seconds >= 0;
    let seconds = Duration::from_secs(seconds.unsigned_abs());
    let whole = if positive {
        UNIX_EPOCH.checked_add(seconds)
    } else {
        UNIX_EPOCH.checked_sub(seconds)
    };
    whole
        .and_then(|time| time.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}

/// The kernel's view of it, as node `node`.
///
/// fuser 0.18 sends one number as the node's and as st_ino, so they are the same here, too.
pub fn to_kernel(stat: &Statx, node: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(node),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        crtime: time(stat.stx_btime),
        kind: file_type(stat.stx_mode),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: device_number(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// A device number as FUSE sends it: `new_encode_dev` of the kernel's `kdev_t.h`.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The same, the other way.
pub fn device_of(number: u32) -> (u32, u32) {
    (
        (number & 0xfff00) >> 8,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_go_there_and_back() {
        for (major, minor) in [(1, 3), (8, 0), (259, 1_000), (0xfff, 0xfffff)] {
            assert_eq!(device_of(device_number(major, minor)), (major, minor));
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        let before = since_epoch(-2, 500_000_000);
        assert_eq!(
            UNIX_EPOCH
                .duration_since(before)
                .expect("before")
                .as_millis(),
            1_500
        );
    }
}
