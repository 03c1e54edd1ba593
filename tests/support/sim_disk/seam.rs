//! The operations of the simulated disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use polystore::disk::{Disk, FileId, Kind, Ownership, Stat};

use super::{Attributes, Operation, Shared, SimDir, SimDisk, SimFile, Step, errno};

impl Disk for SimDisk {
    type Dir = SimDir;
    type File = SimFile;

    fn open_dir(&self, path: &Path) -> io::Result<SimDir> {
        let shared = self.begin(Operation::OpenDir)?;
        open_directory(&shared, shared.live.walk(path)?)
    }

    fn open_subdir(&self, dir: &SimDir, name: &OsStr) -> io::Result<SimDir> {
        let shared = self.begin(Operation::OpenDir)?;
        let (inode, _) = shared.existing(dir.inode, name)?;
        open_directory(&shared, inode)
    }

    fn make_dir(&self, dir: &SimDir, name: &OsStr, mode: u32) -> io::Result<()> {
        let mut shared = self.begin(Operation::MakeDir)?;
        shared.free(dir.inode, name)?;
        let inode = shared.make(
            Kind::Directory,
            Attributes {
                mode,
                ..Attributes::default()
            },
        );
        shared.step(Step::Named {
            dir: dir.inode,
            name: name.into(),
            inode,
        });
        Ok(())
    }

    fn remove_dir(&self, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        let mut shared = self.begin(Operation::RemoveDir)?;
        let (inode, kind) = shared.existing(dir.inode, name)?;
        if kind != Kind::Directory {
            return Err(errno(libc::ENOTDIR));
        }
        if !shared.live.inode(inode).names.is_empty() {
            return Err(errno(libc::ENOTEMPTY));
        }
        shared.step(Step::Unnamed {
            dir: dir.inode,
            name: name.into(),
        });
        Ok(())
    }

    fn list(&self, dir: &SimDir) -> io::Result<Vec<OsString>> {
        let shared = self.begin(Operation::List)?;
        Ok(shared.live.inodes[&dir.inode]
            .names
            .keys()
            .cloned()
            .collect())
    }

    fn stat(&self, dir: &SimDir, name: &OsStr) -> io::Result<Option<Stat>> {
        let shared = self.begin(Operation::Stat)?;
        Ok(shared
            .lookup(dir.inode, name)?
            .map(|inode| shared.stat(inode)))
    }

    fn stat_file(&self, file: &SimFile) -> io::Result<Stat> {
        Ok(self.begin(Operation::Stat)?.stat(file.inode))
    }

    fn stat_dir(&self, dir: &SimDir) -> io::Result<Stat> {
        Ok(self.begin(Operation::Stat)?.stat(dir.inode))
    }

    fn create_unnamed(&self, dir: &SimDir, mode: u32) -> io::Result<Option<SimFile>> {
        let mut shared = self.begin(Operation::CreateUnnamed)?;
        if shared.no_unnamed {
            return Ok(None);
        }
        let attributes = shared.created_in(dir.inode, mode);
        let inode = shared.make(Kind::File, attributes);
        Ok(Some(self.handle(&mut shared, inode, true)))
    }

    fn create_new(&self, dir: &SimDir, name: &OsStr, mode: u32) -> io::Result<SimFile> {
        let mut shared = self.begin(Operation::CreateNew)?;
        shared.free(dir.inode, name)?;
        let attributes = shared.created_in(dir.inode, mode);
        let inode = shared.make(Kind::File, attributes);
        shared.step(Step::Named {
            dir: dir.inode,
            name: name.into(),
            inode,
        });
        Ok(self.handle(&mut shared, inode, true))
    }

    fn open(&self, dir: &SimDir, name: &OsStr, writable: bool) -> io::Result<SimFile> {
        let mut shared = self.begin(Operation::Open)?;
        match shared.existing(dir.inode, name)? {
            (inode, Kind::File) => {
                let wanted = if writable { 0o6 } else { 0o4 };
                if !shared.allows(inode, wanted) {
                    return Err(errno(libc::EACCES));
                }
                Ok(self.handle(&mut shared, inode, writable))
            }
            (_, Kind::Directory) => Err(errno(libc::EISDIR)),
            (_, Kind::Symlink) => Err(errno(libc::ELOOP)),
            (_, Kind::Other) => Err(errno(libc::EINVAL)),
        }
    }

    fn link(&self, file: &SimFile, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        let mut shared = self.begin(Operation::Link)?;
        shared.free(dir.inode, name)?;
        shared.step(Step::Named {
            dir: dir.inode,
            name: name.into(),
            inode: file.inode,
        });
        Ok(())
    }

    fn rename(
        &self,
        from_dir: &SimDir,
        from: &OsStr,
        to_dir: &SimDir,
        to: &OsStr,
        replace: bool,
    ) -> io::Result<()> {
        let mut shared = self.begin(Operation::Rename)?;
        let (inode, kind) = shared.existing(from_dir.inode, from)?;
        if !replace || shared.lookup(to_dir.inode, to)?.is_none() {
            shared.free(to_dir.inode, to)?;
        }
        if let Some(replaced) = shared.lookup(to_dir.inode, to)? {
            if replaced == inode {
                // POSIX: two names of one file, nothing happens.
                return Ok(());
            }
            match (kind, shared.live.inodes[&replaced].kind) {
                (Kind::Directory, Kind::Directory)
                    if !shared.live.inodes[&replaced].names.is_empty() =>
                {
                    return Err(errno(libc::ENOTEMPTY));
                }
                (Kind::Directory, Kind::Directory) => {}
                (Kind::Directory, _) => return Err(errno(libc::ENOTDIR)),
                (_, Kind::Directory) => return Err(errno(libc::EISDIR)),
                _ => {}
            }
        }
        shared.step(Step::Renamed {
            from_dir: from_dir.inode,
            from: from.into(),
            to_dir: to_dir.inode,
            to: to.into(),
        });
        Ok(())
    }

    fn remove(&self, dir: &SimDir, name: &OsStr) -> io::Result<()> {
        let mut shared = self.begin(Operation::Remove)?;
        match shared.existing(dir.inode, name)? {
            (_, Kind::Directory) => Err(errno(libc::EISDIR)),
            _ => {
                shared.step(Step::Unnamed {
                    dir: dir.inode,
                    name: name.into(),
                });
                Ok(())
            }
        }
    }

    fn read_at(&self, file: &SimFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let shared = self.begin(Operation::Read)?;
        let content = &shared.live.inodes[&file.inode].content;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, file: &SimFile, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut shared = self.begin(Operation::Write)?;
        file.check_writable()?;
        let len = data.len().min(shared.longest_write.unwrap_or(usize::MAX));
        let content = &mut shared.live.inode(file.inode).content;
        let (start, end) = (offset as usize, offset as usize + len);
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(&data[..len]);
        Ok(len)
    }

    fn set_len(&self, file: &SimFile, len: u64) -> io::Result<()> {
        let mut shared = self.begin(Operation::SetLen)?;
        file.check_writable()?;
        shared
            .live
            .inode(file.inode)
            .content
            .resize(len as usize, 0);
        Ok(())
    }

    fn set_ownership(&self, file: &SimFile, owner: Ownership, mode: u32) -> io::Result<()> {
        let mut shared = self.begin(Operation::SetOwnership)?;
        let mut attributes = shared.live.inode(file.inode).attributes.clone();
        attributes.uid = owner.uid.unwrap_or(attributes.uid);
        attributes.gid = owner.gid.unwrap_or(attributes.gid);
        attributes.mode = mode;
        shared.step(Step::Changed {
            inode: file.inode,
            attributes,
        });
        Ok(())
    }

    fn copy_xattrs(&self, dir: &SimDir, name: &OsStr, id: FileId, to: &SimFile) -> io::Result<()> {
        let mut shared = self.begin(Operation::CopyXattrs)?;
        let (from, _) = shared.existing(dir.inode, name)?;
        if from != id.inode {
            return Err(errno(libc::ESTALE));
        }
        let copied = shared.live.inodes[&from].attributes.xattrs.clone();
        let mut attributes = shared.live.inodes[&to.inode].attributes.clone();
        attributes.xattrs.extend(
            copied
                .into_iter()
                .filter(|(name, _)| name != "security.capability"),
        );
        shared.step(Step::Changed {
            inode: to.inode,
            attributes,
        });
        Ok(())
    }

    fn may_change_names(&self, dir: &SimDir) -> io::Result<bool> {
        Ok(self.begin(Operation::Stat)?.allows(dir.inode, 0o3))
    }

    fn wait_for_data(&self, file: &SimFile) -> io::Result<()> {
        self.begin(Operation::WaitForData)?.reach(file.inode);
        Ok(())
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        let mut shared = self.begin(Operation::Sync)?;
        shared.reach(file.inode);
        shared.flush();
        Ok(())
    }

    fn sync_dir(&self, _dir: &SimDir) -> io::Result<()> {
        self.begin(Operation::SyncDir)?.flush();
        Ok(())
    }

    fn try_lock(&self, file: &SimFile, exclusive: bool) -> io::Result<bool> {
        let mut shared = self.begin(Operation::TryLock)?;
        let holders = shared.locks.entry(file.inode).or_default();
        if holders
            .iter()
            .any(|(handle, theirs)| *handle != file.handle && (exclusive || *theirs))
        {
            return Ok(false);
        }
        holders.retain(|(handle, _)| *handle != file.handle);
        holders.push((file.handle, exclusive));
        Ok(true)
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            Ok(())
        } else {
            Err(errno(libc::EBADF))
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = shared.locks.get_mut(&self.inode) {
            holders.retain(|(handle, _)| *handle != self.handle);
        }
    }
}

fn open_directory(shared: &Shared, inode: u64) -> io::Result<SimDir> {
    match shared.live.inodes[&inode].kind {
        Kind::Directory => Ok(SimDir { inode }),
        _ => Err(errno(libc::ENOTDIR)),
    }
}
