//! Joins the command line and the mount: checks, mounts, serves, ends.

mod abandoned;
mod alive;
mod connection;
mod daemon;
mod holders;
pub mod mountinfo;
mod mountpoint;
mod nesting;
mod preflight;
pub mod serving;
pub mod signals;
pub mod unmount;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use polystore_mount::{MountOptions, Mounted};

use crate::cli::{LogLevel, MountArgs};
use crate::{Failure, complain, logging, quote};
use connection::Guard;
use daemon::Ready;
use mountpoint::Place;
use signals::{Caught, Own};

/// `polystore mount`.
pub fn mount(args: MountArgs) -> Result<(), Failure> {
    logging::start(args.log.into(), args.log_file.as_deref())?;
    preflight::check(args.allow_other)?;
    let place = Place::prepare(&args.data, args.mountpoint.as_deref())?;
    let options = MountOptions {
        data: place.data_path.clone(),
        durability: args.durability.into(),
        direct: args.direct,
        default_direct: !args.no_default_direct,
        turns: args.turns,
        default_turns: !args.no_default_turns,
        lock_timeout: args.lock_timeout,
        salvage_limit: args.salvage,
        allow_other: args.allow_other,
        read_only: args.read_only,
    };
    let limit = args.watchdog;
    if !args.daemon {
        return serve(place, options, limit, &mut Ready::foreground());
    }
    if args.log_file.is_none() && args.log > LogLevel::Warn {
        complain("--log: nothing is logged once it runs in the background, without --log-file");
    }
    let mountpoint = place.mountpoint.clone();
    daemon::launch(&mountpoint, |ready| serve(place, options, limit, ready))
}

/// Mounts, and serves until the mount is gone and what was being published is in place.
fn serve(
    place: Place,
    options: MountOptions,
    limit: Duration,
    ready: &mut Ready,
) -> Result<(), Failure> {
    let shown = quote::path(&place.mountpoint);
    let data_shown = quote::path(&place.data_path);
    let fail = |error: io::Error| Failure::new(format!("{shown}: {error}"));
    let caught = Caught::new().map_err(fail)?;
    let data = place.data.try_clone().map_err(fail)?;
    let over = place.handle.as_fd();
    let mut mounted = match polystore_mount::mount(data, over, &place.mountpoint, options) {
        Ok(mounted) => mounted,
        Err(error) => {
            place.clear_own_dead();
            place.undo();
            return Err(Failure::new(error.to_string()));
        }
    };
    // None: somebody has unmounted it already.
    let own = place.root().ok().and_then(|root| Own::new(&root));
    let guard = own.as_ref().and_then(|own| guard(&mut mounted, own, limit));
    let told = look_after(own.as_ref(), place.data, caught, ready);
    if told.is_ok() {
        log::info!("{data_shown} is mounted at {shown}");
        if !sees_all_processes() {
            log::info!(
                "{shown}: writers outside this container count as finished even when they are killed"
            );
        }
    }
    let served = mounted.run();
    drop(guard);
    if let (Some(own), Err(_)) = (&own, &served) {
        // Nobody serves it any more.
        own.leave();
    }
    served.map_err(|error| Failure::new(format!("{shown}: the mount ended: {error}")))?;
    told.map_err(fail)?;
    log::info!("{shown} is unmounted");
    Ok(())
}

/// Sees to it that nobody waits for ever for a mount that does not answer, or whose process died.
fn guard(mounted: &mut Mounted, own: &Own, limit: Duration) -> Option<Guard> {
    let entry = own.entry.clone();
    let abort = Box::new(move || connection::abort(&entry));
    if !limit.is_zero()
        && let Err(error) = mounted.watch(limit, abort)
    {
        log::warn!("nobody looks whether the mount answers: {error}");
    }
    match Guard::start(&own.entry) {
        Ok(guard) => Some(guard),
        Err(error) => {
            log::debug!("nobody ends the connection if this process is killed: {error}");
            None
        }
    }
}

/// Whether this process is in the first of all pid namespaces, where none is hidden from it.
fn sees_all_processes() -> bool {
    /// The number that the kernel gives to the first one.
    const FIRST: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST)
}

/// Sees to it that the mount can be found and ended, then tells that it is there.
fn look_after(
    own: Option<&Own>,
    data: OwnedFd,
    caught: Caught,
    ready: &mut Ready,
) -> io::Result<()> {
    if let Some(own) = own {
        let seen = own.clone();
        let announced = serving::announce(&own.entry, data.into(), move || seen.is_there());
        if let Err(error) = announced {
            log::debug!("polystore unmount cannot wait for this process: {error}");
        }
    }
    if let Err(error) = ready.tell() {
        own.inspect(|own| own.leave());
        return Err(error);
    }
    if let Err(error) = caught.watch(own.cloned()) {
        log::warn!("signals end this process without unmounting: {error}");
    }
    Ok(())
}
