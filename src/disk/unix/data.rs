//! Getting content to the disk.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// Returns when content and size are durable (on a directory: its names).
pub(super) fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // On macOS fsync(2) leaves the data in the drive's cache; F_FULLFSYNC does
    // not, but network file systems refuse it.
    #[cfg(target_vendor = "apple")]
    if rustix::fs::fcntl_fullfsync(fd).is_ok() {
        return Ok(());
    }
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fsync(fd))?)
}

/// Has the kernel begin to write out a range.
#[cfg(target_os = "linux")]
pub(super) fn start_writing(file: &File, from: u64, to: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from))) else {
        return;
    };
    // SAFETY: the call takes numbers only, and the descriptor is open for as long as `file` is
    // borrowed. Its result does not matter: whoever waits for the data gets the error.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Returns when a rename that follows cannot become durable before the content.
#[cfg(target_os = "linux")]
pub(super) fn wait(file: &File) -> io::Result<()> {
    use rustix::io::Errno;
    if super::journal::orders_the_rest(file)? {
        match rustix::io::retry_on_intr(|| fiemap_sync(file)) {
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {}
            other => return Ok(other?),
        }
    }
    Ok(rustix::io::retry_on_intr(|| rustix::fs::fdatasync(file))?)
}

/// macOS has a call for just this: the drive may not reorder across it.
#[cfg(target_vendor = "apple")]
pub(super) fn wait(file: &File) -> io::Result<()> {
    use std::os::fd::{AsFd, AsRawFd};
    // SAFETY: F_BARRIERFSYNC takes no argument, and the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_BARRIERFSYNC) } == 0 {
        return Ok(());
    }
    sync(file.as_fd())
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub(super) fn wait(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Asks for the file's extents, none of them to be returned, with the flag that
/// writes all dirty pages out first, allocates what is delayed, and waits.
#[cfg(target_os = "linux")]
fn fiemap_sync(file: &File) -> Result<(), rustix::io::Errno> {
    use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

    /// `struct fiemap` of `linux/fiemap.h`, without extents.
    #[repr(C)]
    struct Fiemap {
        start: u64,
        length: u64,
        flags: u32,
        mapped_extents: u32,
        extent_count: u32,
        reserved: u32,
    }
    const FS_IOC_FIEMAP: Opcode = opcode::read_write::<Fiemap>(b'f', 11);
    const FIEMAP_FLAG_SYNC: u32 = 1;

    let mut request = Fiemap {
        start: 0,
        length: u64::MAX,
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: 0,
        reserved: 0,
    };
    // SAFETY: `Fiemap` is the argument of FS_IOC_FIEMAP, and with an extent count of 0 the kernel
    // writes nothing behind it.
    unsafe { ioctl(file, Updater::<FS_IOC_FIEMAP, Fiemap>::new(&mut request)) }
}
