//! What this process may use: as many descriptors as the system grants, files of any length, and no
//! more of the disk than the users that it writes for (see `credentials.rs`, too).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// How many descriptors are asked for; systems grant less.
const DESCRIPTORS: u64 = 1 << 20;

/// Call it before other threads are started: they inherit what it sets.
pub fn prepare() {
    raise_descriptor_limit();
    allow_long_files();
    if let Err(error) = give_up_reserved_blocks() {
        log::debug!("CAP_SYS_RESOURCE stays: {error}");
    }
}

/// The limit on file sizes of whoever started this process is not that of those it writes for,
/// and its signal (SIGXFSZ) would end the mount: a write that is too long is EFBIG.
fn allow_long_files() {
    let limit = getrlimit(Resource::Fsize);
    let _ = setrlimit(
        Resource::Fsize,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS);
    // Root may raise the hard limit, too; where that fails, what is granted is used.
    for wanted in [DESCRIPTORS.max(most), most] {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: Some(wanted),
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return;
        }
    }
}

/// Gives the system back what many small things took that are gone: the C library keeps it otherwise.
pub fn give_back_memory() {
    // SAFETY: the call takes a number only; the allocator's own locks make it safe beside others.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Without CAP_SYS_RESOURCE this process gets EDQUOT and ENOSPC where the users that it writes for would.
fn give_up_reserved_blocks() -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
    sets.inheritable.remove(CapabilitySet::SYS_RESOURCE);
    Ok(set_capabilities(None, sets)?)
}
