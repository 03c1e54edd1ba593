//! READ, WRITE, FALLOCATE, LSEEK and COPY_FILE_RANGE.

use std::fs::File;
use std::io;

use polystore::disk::{Disk, SystemDisk};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

use super::fs::Fs;
use super::handles::Handle;
use crate::engine::editing::Content;
use crate::engine::failing::Change;
use crate::engine::process::Caller;

/// How much one COPY_FILE_RANGE request copies at most; programs ask again for the rest. It
/// keeps a thread busy for a bounded time.
const COPIED_AT_ONCE: usize = 64 << 20;

/// How the kernel asks for a write.
#[derive(Clone, Copy, Debug)]
pub struct WriteHow {
    /// Of pages that were changed through a mapping.
    pub mapped: bool,
    /// At the end (O_APPEND), as the handle is open at this moment.
    pub appends: bool,
}

/// What a change of content has to do with what is there.
struct Extent {
    /// How much of what was there before is wanted.
    keep: u64,
    /// Where it ends.
    end: u64,
    /// How much space it may need.
    bytes: u64,
}

impl Fs {
    /// Reads what is in the page cache, without waiting for the disk. `None` where that is not all.
    pub fn read_cached(&self, handle: &Handle, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let content = self.readable(handle).ok()?;
        let file = content.file();
        let wanted = buffer.len();
        let slices = &mut [io::IoSliceMut::new(buffer)];
        let read = rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT).ok()?;
        if read == wanted {
            return Some(read);
        }
        let end = rustix::fs::fstat(file).ok()?.st_size as u64;
        (offset + read as u64 >= end).then_some(read)
    }

    /// What `handle` reads, unless that was dropped for want of space.
    fn readable(&self, handle: &Handle) -> io::Result<Content<SystemDisk>> {
        let content = self.content(handle)?;
        if let Some(draft) = content.draft() {
            draft.check_unspent()?;
        }
        Ok(content)
    }

    /// Reads until `buffer` is full or the file ends.
    pub fn read(&self, handle: &Handle, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.readable(handle)?;
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let rest = &mut buffer[filled..];
            match self.engine.disk.read_at(content.file(), rest, at)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Writes all of `data`.
    pub fn write(
        &self,
        caller: Caller,
        handle: &Handle,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> io::Result<u32> {
        // Pages that were changed through a mapping come by any handle, from nobody, and have their place.
        let appends = how.appends && !how.mapped;
        let user = (!how.mapped).then_some(caller);
        let end = offset.saturating_add(data.len() as u64);
        // Kept from try to try: what an append has written once must not be written again.
        let written = std::cell::Cell::new(0);
        self.changing(
            user,
            handle,
            Extent {
                keep: u64::MAX,
                end,
                bytes: data.len() as u64,
            },
            Change::Write,
            |file| {
                while written.get() < data.len() {
                    let at = offset + written.get() as u64;
                    let rest = &data[written.get()..];
                    let count = if appends {
                        // The end that the kernel knows may be another node's of the same file.
                        let end = ReadWriteFlags::APPEND;
                        rustix::io::pwritev2(file, &[io::IoSlice::new(rest)], 0, end)?
                    } else {
                        self.engine.disk.write_at(file, rest, at)?
                    };
                    match count {
                        0 => return Err(io::ErrorKind::WriteZero.into()),
                        count => written.set(written.get() + count),
                    }
                }
                if handle.synchronous {
                    file.sync_data()
                } else {
                    Ok(())
                }
            },
        )?;
        Ok(data.len() as u32)
    }

    /// Changes the content of `handle`'s file by `work`. What a failure means for a draft says
    /// [`failing`](crate::engine::failing); a full disk is tried again without the oldest of salvage. Without a
    /// `user` it is done for who opened the handle.
    fn changing(
        &self,
        user: Option<Caller>,
        handle: &Handle,
        extent: Extent,
        change: Change,
        work: impl Fn(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let content = self.content_to_change(handle, extent.keep)?;
        // As whoever writes: the kernel takes set-user-id bits and capabilities away for it, and
        // counts what the disk has left for him.
        let who = match user {
            Some(user) => handle.credentials_of(user, &self.engine.processes),
            None => handle.user.clone(),
        };
        let work = || {
            let as_user = || self.engine.for_user(&who, || work(content.file()));
            self.with_room(extent.bytes, as_user)
        };
        match &content {
            Content::Draft(draft) => self.engine.change(draft, (change, extent.end), work),
            Content::Version(_) => work(),
        }
    }

    /// Does `work`, which needs `bytes` of space. A full disk is tried again after what nobody was promised
    /// has been given back.
    pub fn with_room<T>(&self, bytes: u64, work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let spare = || self.tree.free_superseded();
        self.engine.with_room(bytes, spare, work)
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(
        &self,
        caller: Caller,
        handle: &Handle,
        (offset, len): (u64, u64),
        mode: i32,
    ) -> io::Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        let reserves = flags
            .difference(FallocateFlags::KEEP_SIZE | FallocateFlags::UNSHARE_RANGE)
            .is_empty();
        let keeps_size = flags.contains(FallocateFlags::KEEP_SIZE);
        let extent = Extent {
            keep: u64::MAX,
            end: if keeps_size {
                0
            } else {
                offset.saturating_add(len)
            },
            bytes: if reserves { len } else { 0 },
        };
        let change = match reserves {
            true => Change::Reserve,
            false => Change::Reshape,
        };
        self.changing(Some(caller), handle, extent, change, |file| {
            Ok(rustix::fs::fallocate(file, flags, offset, len)?)
        })
    }

    /// Where data or a hole starts.
    pub fn lseek(&self, handle: &Handle, offset: i64, whence: i32) -> io::Result<i64> {
        let content = self.content(handle)?;
        let offset =
            u64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::ENXIO))?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        // The descriptor's own position is used by nobody: all reads and writes name theirs.
        Ok(rustix::fs::seek(content.file(), to)? as i64)
    }

    /// Copies between two files of the mount, by reference where the file system can.
    pub fn copy_range(
        &self,
        caller: Caller,
        (from, from_offset): (&Handle, u64),
        (to, to_offset): (&Handle, u64),
        len: u64,
    ) -> io::Result<u32> {
        let len = usize::try_from(len)
            .unwrap_or(COPIED_AT_ONCE)
            .min(COPIED_AT_ONCE);
        let end = to_offset.saturating_add(len as u64);
        let copied = std::cell::Cell::new(0usize);
        self.changing(
            Some(caller),
            to,
            Extent {
                keep: u64::MAX,
                end,
                bytes: len as u64,
            },
            Change::Copy,
            |target| {
                // The same file, perhaps: an edit reads its draft from the first write on.
                let source = self.readable(from)?;
                let (mut at, mut into) = (from_offset, to_offset);
                copied.set(rustix::fs::copy_file_range(
                    source.file(),
                    Some(&mut at),
                    target,
                    Some(&mut into),
                    len,
                )?);
                Ok(())
            },
        )?;
        Ok(copied.get() as u32)
    }

    /// Cuts or extends through a handle.
    pub fn truncate(&self, caller: Caller, handle: &Handle, len: u64) -> io::Result<()> {
        self.changing(
            Some(caller),
            handle,
            Extent {
                keep: len,
                end: len,
                bytes: 0,
            },
            Change::Cut,
            |file| self.engine.disk.set_len(file, len),
        )
    }
}
