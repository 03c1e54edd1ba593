//! Copying content: by reference where the file system shares extents, else by the kernel, data only.

use std::fs::File;
use std::io;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::SystemDisk;
use crate::disk::copy_bytes;

/// How much one call copies at most: it cannot be interrupted.
const AT_ONCE: u64 = 64 << 20;

/// Gives the empty file `to` the first `len` bytes of `from`, or all there are.
pub(super) fn content(from: &File, to: &File, len: u64) -> io::Result<()> {
    let size = from.metadata()?.len();
    let len = len.min(size);
    if len == 0 {
        return Ok(());
    }
    // Extents are shared whole; sharing all and cutting costs no more than sharing a part.
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return if len < size { to.set_len(len) } else { Ok(()) };
    }
    let mut offset = 0;
    while let Some((start, end)) = next_data(from, offset, len)? {
        extent(from, to, start, end)?;
        offset = end;
    }
    to.set_len(len) // What ends in a hole ends there, too.
}

/// The next stretch of `file` that is not a hole, from `offset` on and before `len`.
fn next_data(file: &File, offset: u64, len: u64) -> io::Result<Option<(u64, u64)>> {
    if offset >= len {
        return Ok(None);
    }
    // The descriptor's position is used by nobody: reads and writes name theirs.
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) if start < len => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((offset, len))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(len))))
}

fn extent(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut done = start;
    while done < end {
        let (mut read, mut written) = (done, done);
        let wanted = (end - done).min(AT_ONCE) as usize;
        let copied =
            rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted);
        match copied {
            Ok(0) => return Ok(()), // It was cut meanwhile.
            Ok(count) => done += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_bytes(&SystemDisk, from, to, done, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_stay_holes_and_the_rest_is_the_same() {
        let from = tempfile::tempfile().expect("a temporary file");
        from.write_all_at(b"start", 0).expect("written");
        from.write_all_at(b"middle", 40 << 20).expect("written");
        from.set_len(80 << 20).expect("extended");
        for len in [u64::MAX, 80 << 20, (40 << 20) + 3, 3, 0] {
            let to = tempfile::tempfile().expect("a temporary file");
            content(&from, &to, len).expect("copied");
            let stat = to.metadata().expect("there");
            assert_eq!(stat.len(), len.min(80 << 20));
            assert!(stat.blocks() * 512 <= from.metadata().expect("there").blocks() * 512);
            let mut middle = [0; 3];
            let there = to.read_at(&mut middle, 40 << 20).expect("read");
            assert_eq!(&middle[..there], &b"mid"[..there]);
            assert_eq!(there > 0, len > 40 << 20);
        }
    }
}
