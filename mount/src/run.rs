//! Joins the command line and the mount: checks, mounts, serves, ends.

mod alive;
mod daemon;
mod holders;
pub mod mountinfo;
mod mountpoint;
mod preflight;
pub mod serving;
mod signals;
pub mod unmount;

use std::io;
use std::os::fd::OwnedFd;

use polystore_mount::MountOptions;

use crate::cli::{LogLevel, MountArgs};
use crate::{Failure, complain, logging, quote};
use daemon::Ready;
use mountinfo::Entry;
use mountpoint::Place;
use signals::Caught;

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
        salvage_limit: args.salvage,
        allow_other: args.allow_other,
        read_only: args.read_only,
    };
    if !args.daemon {
        return serve(place, options, &mut Ready::foreground());
    }
    if args.log_file.is_none() && args.log > LogLevel::Warn {
        complain("--log: nothing is logged once it runs in the background, without --log-file");
    }
    let mountpoint = place.mountpoint.clone();
    daemon::launch(&mountpoint, |ready| serve(place, options, ready))
}

/// Mounts, and serves until the mount is gone and what was being published is in place.
fn serve(place: Place, options: MountOptions, ready: &mut Ready) -> Result<(), Failure> {
    let shown = quote::path(&place.mountpoint);
    let data_shown = quote::path(&place.data_path);
    let fail = |error: io::Error| Failure::new(format!("{shown}: {error}"));
    let caught = Caught::new().map_err(fail)?;
    let data = place.data.try_clone().map_err(fail)?;
    let mounted = match polystore_mount::mount(data, &place.mountpoint, options) {
        Ok(mounted) => mounted,
        Err(error) => {
            place.undo();
            return Err(Failure::new(error.to_string()));
        }
    };
    let told = match mountinfo::mount_at(&place.mountpoint) {
        Ok(Some(entry)) => look_after(entry, place.data, caught, ready),
        // Somebody has unmounted it already.
        _ => ready.tell(),
    };
    if told.is_ok() {
        log::info!("{data_shown} is mounted at {shown}");
    }
    mounted
        .run()
        .map_err(|error| Failure::new(format!("{shown}: the mount ended: {error}")))?;
    told.map_err(fail)?;
    log::info!("{shown} is unmounted");
    Ok(())
}

/// Sees to it that `mount` can be found and ended, then tells that it is there.
fn look_after(mount: Entry, data: OwnedFd, caught: Caught, ready: &mut Ready) -> io::Result<()> {
    let shown = quote::path(&mount.mountpoint);
    if let Err(error) = serving::announce(&mount, data.into()) {
        log::debug!("{shown}: polystore unmount cannot wait for this process: {error}");
    }
    if let Err(error) = ready.tell() {
        signals::leave(&mount);
        return Err(error);
    }
    if let Err(error) = caught.watch(mount) {
        log::warn!("{shown}: signals end it without unmounting: {error}");
    }
    Ok(())
}
