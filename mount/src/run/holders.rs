//! Who keeps a mount busy.

use std::fs;
use std::path::Path;

use super::mountinfo;
use crate::quote;

/// How many of them are named.
const NAMED: usize = 5;

/// The processes that have a file or a directory of the mount open, as `vim (pid 12), sh (pid 9)`;
/// `None` where none can be seen. An ordinary user sees his own only.
pub fn of(mount_id: u64) -> Option<String> {
    let mut found = Vec::new();
    let mut more = 0;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if !holds(&entry.path(), mount_id) {
            continue;
        }
        if found.len() < NAMED {
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid})", quote::text(command.trim_end())));
        } else {
            more += 1;
        }
    }
    if found.is_empty() {
        return None;
    }
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Some(found.join(", ") + &more)
}

fn holds(process: &Path, mount_id: u64) -> bool {
    let is_there = |link: &Path| mountinfo::mount_id(link).is_ok_and(|id| id == mount_id);
    ["cwd", "root", "exe"]
        .iter()
        .any(|link| is_there(&process.join(link)))
        || fs::read_dir(process.join("fd"))
            .is_ok_and(|files| files.flatten().any(|file| is_there(&file.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_where_it_stands() {
        let here = mountinfo::mount_id(Path::new(".")).unwrap();
        assert!(holds(Path::new("/proc/self"), here));
        assert!(!holds(Path::new("/proc/self"), u64::MAX));
        assert_eq!(of(u64::MAX), None);
    }
}
