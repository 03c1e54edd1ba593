//! `polystore salvage`.

use std::fmt::Write;
use std::path::Path;

use polystore_mount::salvage::{self, Item};

use crate::cli::{SalvageArgs, SalvageCommand};
use crate::{Failure, complain, locate, output, quote};

/// Runs `polystore salvage list` or `restore`.
pub fn command(args: SalvageArgs) -> Result<(), Failure> {
    match args.command {
        SalvageCommand::List { dir, json } => list(&dir, json),
        SalvageCommand::Restore { dir, id, to, force } => restore(&dir, &id, to.as_deref(), force),
    }
}

fn list(directory: &Path, json: bool) -> Result<(), Failure> {
    let data = locate::data(directory)?;
    let mut items = salvage::list(&data.reach).map_err(|error| {
        let error = data.explain(&error);
        Failure::new(format!("salvage of {}: {error}", quote::path(&data.shown)))
    })?;
    items.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    if json {
        return output(as_json(&items).as_bytes());
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
    let restored = salvage::restore(&data.reach, id, to.as_deref(), force).map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                " (--force replaces it, --to FILE restores elsewhere)"
            }
            _ => "",
        };
        Failure::new(format!(
            "salvage {}: {}{advice}",
            quote::text(id),
            data.explain(&error)
        ))
    })?;
    // What was reached through /proc is shown by its own name.
    let shown = match restored.strip_prefix(&data.reach) {
        Ok(below) => data.shown.join(below),
        Err(_) => data.shown.join(restored),
    };
    output(format!("{}\n", quote::path(&shown)).as_bytes())
}

const HEADINGS: [&str; 6] = ["ID", "TIME", "BYTES", "FILE", "REASON", "PROCESS"];
/// The column that is aligned to the right.
const BYTES: usize = 2;

fn as_table(items: &[Item]) -> String {
    let rows: Vec<[String; 6]> = items
        .iter()
        .map(|item| {
            [
                quote::text(&item.id),
                quote::utc(item.time),
                item.size.to_string(),
                item.path.as_deref().map_or("-".into(), quote::path),
                quote::text(&item.reason),
                item.process.as_deref().map_or("-".into(), quote::text),
            ]
        })
        .collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut table = String::new();
    let headings = HEADINGS.map(String::from);
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column == BYTES {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
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
