//! Acting as the user who asked, where the system decides by who acts: what he may open and change, whose a
//! new file is, which group and set-group-id bit it gets, whose quota and which reserved blocks count, and
//! whether a write takes set-user-id bits and capabilities away.
//!
//! File system ids belong to a thread (setfsuid(2)); so do the groups, to the system call itself
//! (the C library's setgroups(2) changes those of all threads). Where the user id is not 0, the
//! kernel takes the capabilities away that override file permissions (capabilities(7)).
//!
//! Invariant: outside [`act_as`] a thread has the ids and groups that the process started with.

use std::io;
use std::sync::OnceLock;

use crate::engine::credentials::Credentials;

/// Puts the thread's own credentials back.
struct Own {
    groups: &'static [libc::gid_t],
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: the calls take numbers only.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
        }
        if let Err(error) = set_groups(self.groups) {
            // Going on as a member of somebody's groups would give him more than he has.
            log::error!("the mount's own groups cannot be set again: {error}");
            std::process::abort();
        }
    }
}

fn set_groups(groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe the slice, which is only read.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The groups that this process started with.
fn own_groups() -> io::Result<&'static [libc::gid_t]> {
    static OWN: OnceLock<Vec<libc::gid_t>> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    // Nobody's groups but its own can be those of this thread: see the invariant.
    let groups = rustix::process::getgroups()?;
    let groups = groups.into_iter().map(rustix::process::Gid::as_raw);
    Ok(OWN.get_or_init(|| groups.collect()))
}

/// Does `work` as `who`. This process must be user 0; as user 0 itself nothing changes.
///
/// # Errors
/// `PermissionDenied` where the system does not let this process be that user: nothing is done.
pub fn act_as(who: &Credentials, work: &mut dyn FnMut()) -> io::Result<()> {
    if who.uid == 0 && who.gid == 0 {
        work();
        return Ok(());
    }
    let own = Own {
        groups: own_groups()?,
    };
    if who.uid != 0 {
        set_groups(&who.groups)?;
    }
    // Neither call says whether it was allowed; asking a second time tells what is so now.
    // SAFETY: the calls take numbers only.
    let became = unsafe {
        libc::setfsgid(who.gid);
        libc::setfsuid(who.uid);
        libc::setfsgid(who.gid) as u32 == who.gid && libc::setfsuid(who.uid) as u32 == who.uid
    };
    if !became {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    work();
    drop(own);
    Ok(())
}
