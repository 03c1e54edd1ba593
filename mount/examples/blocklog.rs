//! A disk that remembers in which order it was written.
//!
//! `blocklog LOG MOUNTPOINT MEBIBYTES` mounts a directory with one file, `disk`, to be put under a
//! loop device (`losetup --direct-io=on`, so that flushes arrive). Each write and each flush is appended
//! to LOG: what a power cut might leave is made of that by `scripts/powercut`.
//!
//! A record is a letter, `W` or `F`, then offset (u64) and length (u32), little-endian, then, for `W`, the bytes. The
//! content of the disk is kept in memory: a disk that waits for another disk could wait for itself.

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, log, mountpoint, mebibytes] => disk::serve(log, mountpoint, mebibytes),
        _ => Err(std::io::Error::other(
            "usage: blocklog LOG MOUNTPOINT MEBIBYTES",
        )),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("blocklog needs Linux");
}

#[cfg(target_os = "linux")]
mod disk {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io::{self, Write};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, UNIX_EPOCH};

    use fuser::{
        Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
        LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
        ReplyWrite, Request, WriteFlags,
    };

    const DISK: INodeNo = INodeNo(2);
    const TTL: Duration = Duration::from_secs(3600);

    struct Disk {
        content: Vec<u8>,
        log: File,
    }

    struct BlockLog(Mutex<Disk>);

    /// Serves until it is unmounted.
    pub fn serve(log: &str, mountpoint: &str, mebibytes: &str) -> io::Result<()> {
        let mebibytes: usize = mebibytes.parse().map_err(io::Error::other)?;
        let disk = Disk {
            content: vec![0; mebibytes << 20],
            log: File::create(log)?,
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("blocklog".into())];
        fuser::mount(BlockLog(Mutex::new(disk)), mountpoint, &config)
    }

    impl Disk {
        fn record(&mut self, what: u8, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut record = vec![what];
            record.extend(offset.to_le_bytes());
            record.extend((data.len() as u32).to_le_bytes());
            record.extend(data);
            self.log.write_all(&record)
        }

        fn range(&mut self, offset: u64, len: usize) -> Option<&mut [u8]> {
            let start = usize::try_from(offset).ok()?;
            self.content.get_mut(start..start.checked_add(len)?)
        }
    }

    impl BlockLog {
        fn disk(&self) -> MutexGuard<'_, Disk> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn attr(&self, node: INodeNo) -> FileAttr {
            let is_disk = node == DISK;
            FileAttr {
                ino: node,
                size: if is_disk {
                    self.disk().content.len() as u64
                } else {
                    0
                },
                blocks: 0,
                atime: UNIX_EPOCH,
                mtime: UNIX_EPOCH,
                ctime: UNIX_EPOCH,
                crtime: UNIX_EPOCH,
                kind: if is_disk {
                    FileType::RegularFile
                } else {
                    FileType::Directory
                },
                perm: if is_disk { 0o600 } else { 0o700 },
                nlink: 1,
                uid: 0,
                gid: 0,
                rdev: 0,
                flags: 0,
                blksize: 4096,
            }
        }
    }

    impl Filesystem for BlockLog {
        fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
            if name == "disk" {
                reply.entry(&TTL, &self.attr(DISK), Generation(0));
            } else {
                reply.error(Errno::ENOENT);
            }
        }

        fn getattr(
            &self,
            _request: &Request,
            node: INodeNo,
            _handle: Option<FileHandle>,
            reply: ReplyAttr,
        ) {
            reply.attr(&TTL, &self.attr(node));
        }

        fn open(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
            // No cache: every write arrives, in the order in which the disk got it.
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
        }

        fn read(
            &self,
            _request: &Request,
            _node: INodeNo,
            _handle: FileHandle,
            offset: u64,
            size: u32,
            _flags: OpenFlags,
            _owner: Option<LockOwner>,
            reply: ReplyData,
        ) {
            match self.disk().range(offset, size as usize) {
                Some(data) => reply.data(data),
                None => reply.error(Errno::EIO),
            }
        }

        fn write(
            &self,
            _request: &Request,
            _node: INodeNo,
            _handle: FileHandle,
            offset: u64,
            data: &[u8],
            _write_flags: WriteFlags,
            _flags: OpenFlags,
            _owner: Option<LockOwner>,
            reply: ReplyWrite,
        ) {
            let mut disk = self.disk();
            match disk.range(offset, data.len()) {
                Some(range) => range.copy_from_slice(data),
                None => return reply.error(Errno::ENOSPC),
            }
            match disk.record(b'W', offset, data) {
                Ok(()) => reply.written(data.len() as u32),
                Err(error) => reply.error(error.into()),
            }
        }

        fn fsync(
            &self,
            _request: &Request,
            _node: INodeNo,
            _handle: FileHandle,
            _data_only: bool,
            reply: ReplyEmpty,
        ) {
            match self.disk().record(b'F', 0, &[]) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error.into()),
            }
        }

        fn fallocate(
            &self,
            _request: &Request,
            _node: INodeNo,
            _handle: FileHandle,
            _offset: u64,
            _length: u64,
            _mode: i32,
            reply: ReplyEmpty,
        ) {
            // Neither discards nor zeroes a range by a command of its own: zeroes are written.
            reply.error(Errno::EOPNOTSUPP);
        }
    }
}
