//! `polystore salvage`.

use std::path::Path;
use std::time::SystemTime;

use polystore_mount::salvage::{self, Item, Removed};

use super::table::table;
use crate::cli::{PurgeArgs, SalvageArgs, SalvageCommand};
use crate::{Failure, complain, locate, output, quote};

/// Runs `polystore salvage list`, `restore` or `purge`.
pub fn command(args: SalvageArgs) -> Result<(), Failure> {
    match args.command {
        SalvageCommand::List { dir, json } => list(&dir, json),
        SalvageCommand::Restore { dir, id, to, force } => restore(&dir, &id, to.as_deref(), force),
        SalvageCommand::Purge(args) => purge(&args),
    }
}

fn list(directory: &Path, json: bool) -> Result<(), Failure> {
    let data = locate::data(directory)?;
    let mut items = salvage::list(&data.dir).map_err(|error| {
        Failure::new(format!("salvage of {}: {error}", quote::path(&data.shown)))
    })?;
    items.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    if json {
        return output(quote::json(&as_json(&items)).as_bytes());
    }
    if items.is_empty() {
        complain(&format!(
            "nothing in the salvage of {}",
            quote::path(&data.shown)
        ));
        return Ok(());
    }
    output(as_table(&items).as_bytes())
}

fn restore(directory: &Path, id: &str, to: Option<&Path>, force: bool) -> Result<(), Failure> {
    let data = locate::data(directory)?;
    // Relative to where the command was given, not to the data directory.
    let to = to
        .map(std::path::absolute)
        .transpose()
        .map_err(|error| Failure::new(format!("--to: {error}")))?;
    let restored = salvage::restore(&data.dir, id, to.as_deref(), force).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                " (--force replaces it, --to FILE restores elsewhere)"
            }
            _ => "",
        };
        let place = quote::path(&data.shown);
        let id = quote::text(id);
        Failure::new(format!("salvage of {place}: {id}: {error}{advice}"))
    })?;
    let shown = data.shown.join(restored);
    output(format!("{}\n", quote::path(&shown)).as_bytes())
}

fn purge(args: &PurgeArgs) -> Result<(), Failure> {
    let data = locate::data(&args.dir)?;
    let place = format!("salvage of {}", quote::path(&data.shown));
    let limit = args.older_than.map(|age| {
        SystemTime::now()
            .checked_sub(age)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    });
    let wanted = |item: &Item| match limit {
        Some(limit) => item.time < limit,
        None => args.all || args.ids.contains(&item.id),
    };
    let removed = salvage::purge(&data.dir, wanted)
        .map_err(|error| Failure::new(format!("{place}: {error}")))?;
    let unknown = (args.ids.iter())
        .filter(|id| !removed.iter().any(|removed| removed.item.id == **id))
        .map(|id| format!("{place}: no {} in it", quote::text(id)));
    let failed = removed.iter().filter_map(|removed| {
        let error = removed.result.as_ref().err()?;
        let id = quote::text(&removed.item.id);
        Some(format!("{place}: {id}: {error}"))
    });
    let problems: Vec<String> = unknown.chain(failed).collect();
    output(said_of(&removed).as_bytes())?;
    match problems.split_last() {
        None => Ok(()),
        Some((last, others)) => {
            others.iter().for_each(|problem| complain(problem));
            Err(Failure::new(last))
        }
    }
}

/// How much was removed.
fn said_of(removed: &[Removed]) -> String {
    let done = || removed.iter().filter(|removed| removed.result.is_ok());
    let bytes: u64 = done().map(|removed| removed.item.size).sum();
    format!("{} removed, {bytes} bytes\n", done().count())
}

const HEADINGS: [&str; 6] = ["ID", "TIME", "BYTES", "FILE", "REASON", "PROCESS"];
/// The column that is aligned to the right.
const BYTES: usize = 2;

fn as_table(items: &[Item]) -> String {
    let row = |item: &Item| {
        [
            quote::text(&item.id),
            quote::utc(item.time),
            item.size.to_string(),
            item.path.as_deref().map_or("-".into(), quote::path),
            quote::text(&item.reason),
            item.process.as_deref().map_or("-".into(), quote::text),
        ]
    };
    let rows: Vec<[String; 6]> = items.iter().map(row).collect();
    table(HEADINGS, &[BYTES], &rows)
}

/// An array with one object for each item. A path that is not UTF-8 is shown with U+FFFD.
fn as_json(items: &[Item]) -> String {
    let items: Vec<serde_json::Value> = items
        .iter()
        .map(|item| {
            serde_json::json!({
                "id": item.id,
                "path": item.path.as_ref().map(|path| path.to_string_lossy()),
                "reason": item.reason,
                "size": item.size,
                "time": quote::utc(item.time),
                "process": item.process,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(items))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn items() -> Vec<Item> {
        let time = UNIX_EPOCH + Duration::from_secs(951_782_400);
        vec![
            Item {
                id: "a1".into(),
                path: Some("dir/na\nme".into()),
                reason: "killed".into(),
                size: 1_000_000,
                time,
                process: Some("sort (pid 12)".into()),
            },
            Item {
                id: "long-id-2".into(),
                path: None,
                reason: "no space".into(),
                size: 7,
                time,
                process: None,
            },
        ]
    }

    #[test]
    fn tables_line_up_and_keep_their_lines() {
        assert_eq!(
            as_table(&items()),
            "ID         TIME                    BYTES  FILE          REASON    PROCESS\n\
             a1         2000-02-29T00:00:00Z  1000000  dir/na\\x0ame  killed    sort (pid 12)\n\
             long-id-2  2000-02-29T00:00:00Z        7  -             no space  -\n"
        );
    }

    #[test]
    fn json_is_whole() {
        let json: serde_json::Value = serde_json::from_str(&as_json(&items())).unwrap();
        assert_eq!(json[0]["path"], "dir/na\nme");
        assert_eq!(json[0]["size"], 1_000_000);
        assert_eq!(json[1]["process"], serde_json::Value::Null);
        assert_eq!(as_json(&[]), "[]\n");
    }
}
