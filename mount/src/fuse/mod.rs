//! The adapter for Linux: the kernel's FUSE requests become calls of the engine.

mod attach;
mod attr;
mod attrs;
mod channel;
mod closing;
mod credentials;
mod editing;
mod errno;
mod filesystem;
mod fs;
mod handles;
mod io;
mod leases;
mod limits;
mod listing;
mod locking;
mod lookup;
mod made_locks;
mod names;
mod nodes;
mod notices;
mod opening;
mod outside;
mod overtaken;
mod proc;
mod quota;
mod redirect;
mod rights;
mod ticker;
mod told;
mod tree;
mod turns;
mod watchdog;
mod writes;

use std::fmt;
use std::io::Error;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Config, Session, SessionACL};
use polystore::Durability;
use polystore::disk::SystemDisk;
use rustix::fs::{Access, AtFlags};

use crate::engine::locks::Locks;
use crate::engine::order::{Order, Spawn};
use crate::engine::policy::{Direct, Turns};
use crate::engine::salvage::Salvage;
use crate::engine::staging::{self, Session as Staging};
use crate::engine::{Engine, Settings};
use crate::pool::Pool;
use crate::shares::Shares;
use attach::Attach;
use filesystem::Adapter;
use fs::Fs;
use limits::Limits;
use proc::ProcFs;
use ticker::Ticker;
use tree::{Dir, Tree};
pub use watchdog::Abort;
use watchdog::Watchdog;

/// How a directory is mounted.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The data directory's absolute path, for messages and for the list of mounts.
    pub data: PathBuf,
    /// What a publish waits for.
    pub durability: Durability,
    /// Patterns of files that are written in place, gitignore style.
    pub direct: Vec<String>,
    /// Whether [`DEFAULT_DIRECT`](crate::engine::policy::DEFAULT_DIRECT) counts, too.
    pub default_direct: bool,
    /// Patterns of files whose writers take turns, gitignore style.
    pub turns: Vec<String>,
    /// Whether [`DEFAULT_TURNS`](crate::engine::policy::DEFAULT_TURNS) counts, too.
    pub default_turns: bool,
    /// How long an open of a lock file waits for its turn at most; `None` for ever.
    pub lock_timeout: Option<Duration>,
    /// Bytes of dropped drafts that are kept at most; 0 keeps none.
    pub salvage_limit: u64,
    /// Whether other users than the one who mounts may use it.
    pub allow_other: bool,
    /// Whether nothing may be changed through it.
    pub read_only: bool,
}

/// Why a directory could not be mounted.
#[derive(Debug)]
pub struct MountError {
    path: PathBuf,
    doing: &'static str,
    source: Error,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.path.display(),
            self.doing,
            self.source
        )
    }
}

impl std::error::Error for MountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A directory that is mounted; [`run`](Self::run) serves it.
pub struct Mounted {
    session: Session<Adapter>,
    fs: Arc<Fs>,
    watchdog: Option<Watchdog>,
}

/// Mounts the directory `data`, which was opened before anything was mounted over it, over the directory that is
/// open as `mountpoint`; `shown` is its path, for messages.
///
/// # Errors
/// What could not be done, with its path and the system's reason.
pub fn mount(
    data: OwnedFd,
    mountpoint: BorrowedFd<'_>,
    shown: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    let failed = |path: &Path, doing: &'static str| {
        let path = path.to_owned();
        move |source: Error| MountError {
            path,
            doing,
            source,
        }
    };
    let direct = Direct::new(&options.direct, options.default_direct).map_err(|text| {
        failed(&options.data, "--direct")(Error::new(std::io::ErrorKind::InvalidInput, text))
    })?;
    let turns = Turns::new(&options.turns, options.default_turns).map_err(|text| {
        failed(&options.data, "--turns")(Error::new(std::io::ErrorKind::InvalidInput, text))
    })?;
    let limits = limits::prepare();
    // What is created gets the modes that callers ask for, less their own umasks.
    rustix::process::umask(rustix::fs::Mode::empty());
    let fs = new_fs(data, (direct, turns), &options, &limits)
        .map_err(failed(&options.data, "cannot be served"))?;
    let how = Attach {
        source: options.data.as_os_str(),
        read_only: options.read_only,
        allow_other: options.allow_other,
        default_permissions: true,
        suid: false,
        devices: false,
    };
    let config = config();
    let attached = attach::attach(mountpoint, &how)
        .and_then(|kernel| Session::from_fd(Adapter(fs.clone()), kernel, config.acl, config));
    match attached {
        Ok(session) => Ok(Mounted {
            session,
            fs,
            watchdog: None,
        }),
        Err(error) => {
            fs.end_staging();
            Err(failed(shown, "cannot be mounted")(error))
        }
    }
}

fn new_fs(
    data: OwnedFd,
    (direct, turns): (Direct, Turns),
    options: &MountOptions,
    limits: &Limits,
) -> Result<Arc<Fs>, Error> {
    let disk = Arc::new(SystemDisk);
    let tree = Tree::new(Dir::from(data), limits)?;
    let staging = if options.read_only {
        None
    } else {
        start_staging(&disk, &tree, options)?
    };
    let salvage = staging
        .as_ref()
        .filter(|_| options.salvage_limit > 0)
        .map(|staging| {
            Salvage::new(
                &disk,
                staging.own_dir(),
                options.salvage_limit,
                staging.id(),
            )
        });
    if let Some(staging) = &staging {
        match staging::sweep(&*disk, staging.own_dir(), salvage.as_ref()) {
            Ok(0) => {}
            Ok(count) => log::warn!(
                "{}: {count} unpublished drafts of a mount that died are in salvage",
                options.data.display()
            ),
            Err(error) => log::warn!("{}: what dead mounts left: {error}", options.data.display()),
        }
    }
    if let Some(salvage) = &salvage {
        salvage.purge();
    }
    let uid = rustix::process::geteuid().as_raw();
    let pool = Pool::start(limits.threads, uid, !options.allow_other)?;
    let spawn: Spawn = {
        let pool = pool.clone();
        Arc::new(move |user, job| pool.spawn(user, job))
    };
    let settings = Settings {
        durability: options.durability,
        direct,
        turns,
        uid,
    };
    Ok(Arc::new(Fs {
        tree,
        engine: Engine::new(disk, ProcFs, settings, staging, salvage),
        order: Order::new(spawn),
        pool,
        locks: Arc::new(Locks::new(uid, !options.allow_other)),
        handles: Default::default(),
        descriptors: Shares::new(limits.shares(uid, !options.allow_other)),
        promises: Default::default(),
        second_looks: Default::default(),
        turns: turns::Turns::new(options.lock_timeout),
        writes: Default::default(),
        channel: Default::default(),
        reading: Default::default(),
        leases: Default::default(),
        waker: Default::default(),
        notices: Default::default(),
        uid,
        gid: rustix::process::getegid().as_raw(),
    }))
}

fn start_staging(
    disk: &Arc<SystemDisk>,
    tree: &Tree,
    options: &MountOptions,
) -> Result<Option<Staging<SystemDisk>>, Error> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let id = format!("{:x}-{:x}", now, std::process::id());
    let user = rustix::process::geteuid().as_raw();
    match Staging::start(disk, tree.root(), &id, user) {
        Ok(staging) => Ok(Some(staging)),
        // Where this user cannot write, it is no wonder that it is another's.
        Err(error) if staging::is_foreign(&error) && may_write(tree.root()) => Err(error),
        Err(error) => {
            log::warn!(
                "{}: no staging there ({error}): drafts are staged beside their files, and dropped ones are not kept",
                options.data.display()
            );
            Ok(None)
        }
    }
}

fn may_write(dir: &Dir) -> bool {
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(dir, ".", access, AtFlags::EACCESS).is_ok()
}

fn config() -> Config {
    let mut config = Config::default();
    // The kernel keeps others out (allow_other). fuser's own filter would refuse even the close
    // of a file that its program opened before it changed its user.
    config.acl = SessionACL::All;
    // One thread reads requests: two could swap a release and what comes after it.
    config.n_threads = Some(1);
    config
}

impl Mounted {
    /// Has the connection to the kernel ended by `abort` when the thread that reads requests has not come
    /// back for `limit`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch(&mut self, limit: Duration, abort: Abort) -> Result<(), Error> {
        self.watchdog = Some(Watchdog::start(self.fs.reading.clone(), limit, abort)?);
        Ok(())
    }

    /// Serves until unmounted, then finishes what is being published and leaves the data
    /// directory as an ordinary one.
    ///
    /// # Errors
    /// Why serving ended, if not by an unmount.
    pub fn run(self) -> Result<(), Error> {
        let Mounted {
            session,
            fs,
            watchdog,
        } = self;
        let ticker = Ticker::start(&fs)?;
        let teller = fs.notices.start(session.notifier())?;
        let served = session.run();
        drop((watchdog, ticker, teller));
        fs.give_up_leased();
        fs.close_all();
        fs.pool.drain();
        fs.end_staging();
        served
    }
}
