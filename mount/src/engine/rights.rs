//! What somebody may do, judged by hand or by the system: one place for "may he open this" and "may he
//! replace this".
//!
//! The system judges where this process can act as the user in question; otherwise permission bits and
//! ACL are read here, as acl(5) says under "access check algorithm".

use std::io;

use polystore::disk::{Disk, Stat};

use super::Engine;
use super::credentials::Credentials;
use super::process::Processes;
use super::slot::Place;

/// Right to read, as in the last digit of a mode.
pub const READ: u32 = 0o4;
/// Right to write.
pub const WRITE: u32 = 0o2;
/// Right to execute, or to search a directory.
pub const EXECUTE: u32 = 0o1;

const STICKY: u32 = 0o1000;

/// One entry of an ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    rights: u32,
    id: u32,
}

// Tags and format of Linux' `uapi/linux/posix_acl.h` and `posix_acl_xattr.h`.
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const VERSION: u32 = 2;

/// The entries of an ACL as it is stored; `None` for what is none.
fn entries(acl: &[u8]) -> Option<Vec<Entry>> {
    let (version, mut rest) = acl.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let mut entries = Vec::new();
    while let Some((&[t0, t1, r0, r1, i0, i1, i2, i3], more)) = rest.split_first_chunk::<8>() {
        entries.push(Entry {
            tag: u16::from_le_bytes([t0, t1]),
            rights: u32::from(u16::from_le_bytes([r0, r1])),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        });
        rest = more;
    }
    rest.is_empty().then_some(entries)
}

/// Whether mode and ACL of a file give `who` the rights `wanted`. What cannot be understood gives none
/// to anybody but the owner.
pub fn permits(who: &Credentials, file: Stat, acl: Option<&[u8]>, wanted: u32) -> bool {
    let has = |rights: u32| rights & wanted == wanted;
    if who.uid == 0 {
        // Root executes only what anybody may.
        return wanted & EXECUTE == 0
            || file.kind != polystore::disk::Kind::File
            || file.mode & 0o111 != 0;
    }
    if who.uid == file.uid {
        return has(file.mode >> 6);
    }
    let Some(acl) = acl else {
        let class = if who.is_member(file.gid) { 3 } else { 0 };
        return has(file.mode >> class);
    };
    let Some(entries) = entries(acl) else {
        return false;
    };
    let mask = entries.iter().find(|entry| entry.tag == MASK);
    let mask = mask.map_or(0o7, |mask| mask.rights);
    if let Some(own) = entries.iter().find(|e| e.tag == USER && e.id == who.uid) {
        return has(own.rights & mask);
    }
    let mut groups = entries.iter().filter(|entry| match entry.tag {
        GROUP_OBJ => who.is_member(file.gid),
        GROUP => who.is_member(entry.id),
        _ => false,
    });
    let mut member = false;
    let granted = groups.any(|entry| {
        member = true;
        has(entry.rights & mask)
    });
    if member { granted } else { has(file.mode) }
}

/// Whether a sticky directory keeps its files from `who`, as unlink(2) says.
fn is_kept_from(who: &Credentials, file: Stat, dir: Stat) -> bool {
    dir.mode & STICKY != 0 && who.uid != dir.uid && who.uid != file.uid
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Whether `who` may put something else in the place of `file`, which stands in `dir`.
    pub(super) fn may_replace(
        &self,
        who: &Credentials,
        file: Stat,
        dir: Stat,
        at: &D::Dir,
    ) -> bool {
        if who.uid == 0 {
            return true;
        }
        if is_kept_from(who, file, dir) {
            return false;
        }
        let may = match self.is_stranger(who) {
            true => self
                .disk
                .acl_of_dir(at)
                .map(|acl| permits(who, dir, acl.as_deref(), WRITE | EXECUTE)),
            false => self.as_user(who, || self.disk.may_change_names(at)),
        };
        may.unwrap_or(false)
    }

    /// Whether `who` may take the name at `place` away, where the system below does not judge him itself.
    ///
    /// # Errors
    /// `PermissionDenied`: he may not.
    pub fn judge_removing(&self, who: &Credentials, place: &Place<D>) -> io::Result<()> {
        if self.is_stranger(who) {
            self.judge_replacing(who, None, place)?;
        }
        Ok(())
    }

    /// Whether `who` may still do at `to` what was planned when `made_from` stood there, or nothing did.
    ///
    /// # Errors
    /// `PermissionDenied`: another file stands there, which he may not replace.
    pub(super) fn judge_replacing(
        &self,
        who: &Credentials,
        made_from: Option<polystore::disk::FileId>,
        to: &Place<D>,
    ) -> io::Result<()> {
        if who.uid == 0 {
            return Ok(());
        }
        let Some(file) = self.disk.stat(&to.dir, to.name())? else {
            return Ok(());
        };
        let dir = self.disk.stat_dir(&to.dir)?;
        let may = match made_from == Some(file.id) {
            // Judged when it was opened: what has become of the directory since changes nothing for an open
            // file. But another user's new file may have the number of one that is gone.
            true => !is_kept_from(who, file, dir),
            false => self.may_replace(who, file, dir, &to.dir),
        };
        match may {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polystore::disk::{FileId, Kind};

    fn file(mode: u32, uid: u32, gid: u32) -> Stat {
        let id = FileId {
            device: 1,
            inode: 2,
        };
        Stat {
            id,
            kind: Kind::File,
            len: 0,
            links: 1,
            mode,
            uid,
            gid,
        }
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut acl = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(rights.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    fn user(uid: u32, groups: &[u32]) -> Credentials {
        Credentials {
            groups: groups.into(),
            ..Credentials::new(uid, uid)
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let of = file(0o604, 7, 8);
        assert!(permits(&user(7, &[]), of, None, READ | WRITE));
        assert!(
            !permits(&user(9, &[8]), of, None, READ),
            "his group has less than all"
        );
        assert!(permits(&user(9, &[]), of, None, READ));
        assert!(!permits(&user(9, &[]), of, None, WRITE));
        assert!(!permits(&user(7, &[]), file(0o077, 7, 8), None, READ));
        assert!(permits(&user(0, &[]), file(0, 7, 8), None, READ | WRITE));
        assert!(!permits(&user(0, &[]), file(0o644, 7, 8), None, EXECUTE));
    }

    #[test]
    fn an_acl_is_read_as_the_system_reads_it() {
        const NOBODY: u32 = u32::MAX;
        let entries = [
            (0x01, 6, NOBODY),
            (USER, 6, 9),
            (USER, 0, 10),
            (GROUP_OBJ, 4, NOBODY),
            (GROUP, 6, 20),
            (GROUP, 1, 21),
            (MASK, 4, NOBODY),
            (0x20, 4, NOBODY),
        ];
        let (of, acl) = (file(0o644, 7, 8), acl(&entries));
        let may = |who: &Credentials, wanted| permits(who, of, Some(&acl), wanted);
        assert!(may(&user(7, &[]), READ | WRITE));
        assert!(
            may(&user(9, &[]), READ) && !may(&user(9, &[]), WRITE),
            "the mask"
        );
        assert!(
            !may(&user(10, &[20]), READ),
            "an entry for the user decides"
        );
        assert!(may(&user(11, &[8]), READ) && may(&user(11, &[21, 20]), READ));
        assert!(
            !may(&user(11, &[21]), READ),
            "a member is not one of the others"
        );
        assert!(may(&user(11, &[]), READ));
        assert!(!permits(&user(11, &[]), of, Some(b"\x02\0\0\0abc"), READ));
    }
}
