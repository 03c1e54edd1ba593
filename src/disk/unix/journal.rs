//! On which file systems waiting for the data is enough.

use std::fs::{self, File};
use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{fstat, fstatfs, fstatvfs, major, minor};

/// So many file systems are remembered; whoever writes to more of them in turn pays for looking again.
const REMEMBERED: usize = 32;

/// A device's number alone may be another file system's later, even that of one made anew.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileSystem {
    device: u64,
    id: u64,
    blocks: u64,
}

static EXT4: Mutex<Vec<(FileSystem, bool)>> = Mutex::new(Vec::new());

/// Whether the file is on a file system where it is enough that the blocks have been written, because the
/// flush of the journal's next commit covers them: xfs, and ext4 with a journal that orders data
/// (`data=ordered`), as replayed power cuts show (`scripts/powercut`). Everywhere else the file itself must be synced.
///
/// - btrfs: when somebody fsyncs the directory, its tree log takes over the new name, and the inode
///   as it was last committed: empty, or not at all.
/// - ext4 with `data=writeback` does not write the blocks of a file that is extended before its length.
/// - ext2, ext3 and ext4 look alike to statfs(2). Without a journal there is nothing that orders a name
///   after its inode, and a name whose inode was not written is lost to the next check.
pub(super) fn orders_the_rest(file: &File) -> io::Result<bool> {
    // `f_type` is signed on some systems, and narrower on others.
    #[allow(clippy::unnecessary_cast)]
    let kind = fstatfs(file)?.f_type as u32;
    if kind == libc::XFS_SUPER_MAGIC as u32 {
        return Ok(true);
    }
    if kind != libc::EXT4_SUPER_MAGIC as u32 {
        return Ok(false);
    }
    let known = fstatvfs(file)?;
    // The journal takes blocks, so that one that is added or removed shows here.
    #[allow(clippy::unnecessary_cast)]
    let device = fstat(file)?.st_dev as u64;
    let file_system = FileSystem {
        device,
        id: known.f_fsid,
        blocks: known.f_blocks,
    };
    let mut remembered = EXT4.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, orders)) = remembered.iter().find(|(other, _)| *other == file_system) {
        return Ok(*orders);
    }
    let orders = ext4_orders_data(device);
    if remembered.len() == REMEMBERED {
        remembered.clear();
    }
    remembered.push((file_system, orders));
    Ok(orders)
}

/// The options that ext4 lists for each mount name the way of journalling, if there is one. A remount
/// cannot change it. Where it cannot be seen it is safe to say no.
fn ext4_orders_data(device: u64) -> bool {
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let Ok(path) = fs::read_link(link) else {
        return false;
    };
    let Some(name) = path.file_name() else {
        return false;
    };
    let mut options = std::path::PathBuf::from("/proc/fs/ext4");
    options.push(name);
    options.push("options");
    fs::read_to_string(options)
        .is_ok_and(|options| options.lines().any(|option| option == "data=ordered"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> bool {
        Command::new(program)
            .args(arguments)
            .args(paths)
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// On images of all sorts, mounted one after the other, on what is probably the same device number.
    #[test]
    fn only_journals_that_order_data_are_relied_on() {
        let scratch = tempfile::tempdir().unwrap();
        let (image, mounted) = (scratch.path().join("image"), scratch.path().join("mounted"));
        fs::create_dir(&mounted).unwrap();
        let cases: [(&str, &[&str], &str, bool); 7] = [
            ("mkfs.ext4", &["-qF"], "loop", true),
            ("mkfs.ext4", &["-qF"], "loop,data=writeback", false),
            ("mkfs.ext4", &["-qF"], "loop,data=journal", false),
            ("mkfs.ext4", &["-qF", "-O", "^has_journal"], "loop", false),
            ("mkfs.ext2", &["-qF"], "loop", false),
            ("mkfs.xfs", &["-qf"], "loop", true),
            ("mkfs.btrfs", &["-qf"], "loop", false),
        ];
        for (make, options, how, expected) in cases {
            let _ = fs::remove_file(&image);
            File::create(&image).unwrap().set_len(400 << 20).unwrap();
            if !run(make, options, &[&image]) || !run("mount", &["-o", how], &[&image, &mounted]) {
                crate::skipped::skip(&format!("no {make} with {how}, or no loop device"));
                continue;
            }
            let file = File::create(mounted.join("file")).unwrap();
            let answers = [orders_the_rest(&file), orders_the_rest(&file)].map(Result::unwrap);
            drop(file);
            assert!(run("umount", &[], &[&mounted]));
            assert_eq!(answers, [expected; 2], "{make} {options:?} {how}");
        }
        let proc = File::open("/proc/self/status").unwrap();
        assert!(!orders_the_rest(&proc).unwrap());
    }
}
