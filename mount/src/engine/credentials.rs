//! As whom something is done, and doing it so.
//!
//! A mount serves many users. Whatever it opens, makes, changes or locks for a caller is done with
//! that caller's credentials, so that the system below judges it as it would have judged him:
//! functions that touch user content take [`Credentials`], and there is no way to leave them out.
//!
//! There are two ways. [`Engine::as_user`] is for what nobody has judged yet: it is refused where this
//! process cannot be that user. [`Engine::for_user`] is for what the kernel has judged already, on a
//! descriptor or a name that was found for the caller: whose quota and reserved blocks count, and which
//! set-user-id bits a change takes away, depends on him where that is possible.

use std::io;
use std::sync::Arc;

use polystore::disk::Disk;

use super::Engine;
use super::process::{Caller, Processes};

/// A user with his groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups; empty where they cannot be seen, and for user 0, who needs none.
    pub groups: Arc<[u32]>,
}

impl Credentials {
    /// A user without supplementary groups.
    pub fn new(uid: u32, gid: u32) -> Credentials {
        Credentials {
            uid,
            gid,
            groups: Arc::default(),
        }
    }

    /// Whether he is a member of group `gid`.
    pub fn is_member(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether requests of `caller` are made with them, but for the groups, which may have changed since.
    pub fn are_of(&self, caller: Caller) -> bool {
        self.uid == caller.uid && self.gid == caller.gid
    }
}

type Act<'a> = &'a dyn Fn(&mut dyn FnMut()) -> io::Result<()>;

fn acting<T>(act: Act<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (mut work, mut done) = (Some(work), None);
    act(&mut || done = work.take().map(|work| work()))?;
    done.unwrap_or_else(|| Err(io::ErrorKind::PermissionDenied.into()))
}

/// Does `work` as `who`; see [`Processes::act_as`].
///
/// # Errors
/// `PermissionDenied` where this process cannot be him; those of the work.
pub fn as_user<P, T>(
    processes: &P,
    who: &Credentials,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T>
where
    P: Processes + ?Sized,
{
    acting(&|work| processes.act_as(who, work), work)
}

/// Does `work` for `who`; see [`Processes::act_for`].
///
/// # Errors
/// Those of becoming him, and of the work.
pub fn for_user<P, T>(
    processes: &P,
    who: &Credentials,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T>
where
    P: Processes + ?Sized,
{
    acting(&|work| processes.act_for(who, work), work)
}

impl<D: Disk, P: Processes> Engine<D, P> {
    /// Does as `who` what nobody has judged yet.
    ///
    /// # Errors
    /// `PermissionDenied` where this process cannot be him; those of the work.
    pub fn as_user<T>(
        &self,
        who: &Credentials,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        as_user(&self.processes, who, work)
    }

    /// Does for `who` what he was judged for already: as him if this process can.
    ///
    /// # Errors
    /// Those of becoming him, and of the work.
    pub fn for_user<T>(
        &self,
        who: &Credentials,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        for_user(&self.processes, who, work)
    }

    /// Whether the engine runs as somebody who can be nobody else, and `who` is not he. User 0 gets from him
    /// no more than he has.
    pub fn is_stranger(&self, who: &Credentials) -> bool {
        self.settings.uid != 0 && ![0, self.settings.uid].contains(&who.uid)
    }
}
