//! `polystore publish`.

use polystore_mount::control::{ControlError, PublishReply};
use serde_json::json;

use super::client::{Mount, without_path};
use super::place::{Spot, failed};
use crate::cli::PublishArgs;
use crate::{Failure, quote};

/// Runs `polystore publish`.
pub fn command(args: &PublishArgs) -> Result<(), Failure> {
    let shown = quote::path(&args.file);
    let fail =
        |error: ControlError| Failure::new(format!("{shown}: {}", quote::text(&error.message)));
    let spot = Spot::of(&args.file).map_err(failed(&args.file))?;
    let mount = match Mount::of(&spot.dir).map_err(fail)? {
        Some(mount) => Some(mount),
        None => Mount::serving(&spot.dir).map_err(failed(&args.file))?,
    };
    let Some(mount) = mount else {
        let text = format!("{shown}: it is not in a mount, nor in a directory that is mounted");
        return Err(Failure::new(text));
    };
    let path = mount.path_of(&spot.name).map_err(fail)?;
    let request = format!("{}\n", json!({"op": "publish", "path": path}));
    mount
        .ask::<PublishReply>(&request)
        .map(drop)
        .map_err(|error| fail(without_path(error, &path)))
}
