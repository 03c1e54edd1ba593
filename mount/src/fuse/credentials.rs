//! Acting as the user who asked, where the system decides by who acts: whose a new file is, which group
//! and set-group-id bit it gets, whose quota and which reserved blocks count, and whether a write
//! takes set-user-id bits and capabilities away.
//!
//! File system ids belong to a thread (setfsuid(2)); so do the groups, to the system call itself
//! (the C library's setgroups(2) changes those of all threads). Where the user id is not 0, the
//! kernel takes the capabilities away that override file permissions (capabilities(7)).

use std::io;

use crate::engine::process::Caller;

/// Puts the thread's own credentials back.
struct Own {
    groups: Option<Vec<libc::gid_t>>,
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: the calls take numbers only.
        unsafe {
            libc::setfsuid(0);
            libc::setfsgid(0);
        }
        if let Some(groups) = self.groups.take()
            && let Err(error) = set_groups(&groups)
        {
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

fn own_groups() -> io::Result<Vec<libc::gid_t>> {
    // SAFETY: with a length of 0 nothing is written.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).map_err(|_| io::Error::last_os_error())?];
    // SAFETY: the pointer and the length describe the vector.
    let got = unsafe { libc::getgroups(count, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(got).map_err(|_| io::Error::last_os_error())?);
    Ok(groups)
}

/// Does `work` as `caller`, with `groups` besides where they are given. This process must be user
/// 0; as user 0 itself nothing changes.
///
/// # Errors
/// `PermissionDenied` where the system does not let this process be that user: nothing is done.
pub fn act_as(caller: Caller, groups: Option<&[u32]>, work: &mut dyn FnMut()) -> io::Result<()> {
    if caller.uid == 0 && caller.gid == 0 {
        work();
        return Ok(());
    }
    let mut own = Own { groups: None };
    if let Some(groups) = groups {
        let before = own_groups()?;
        set_groups(groups)?;
        own.groups = Some(before);
    }
    // Neither call says whether it was allowed; asking a second time tells what is so now.
    // SAFETY: the calls take numbers only.
    let became = unsafe {
        libc::setfsgid(caller.gid);
        libc::setfsuid(caller.uid);
        libc::setfsgid(caller.gid) as u32 == caller.gid
            && libc::setfsuid(caller.uid) as u32 == caller.uid
    };
    if !became {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    work();
    drop(own);
    Ok(())
}
