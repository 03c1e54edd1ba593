//! What is put on the simulated disk and found there.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use polystore::disk::{Disk, Kind};

use crate::sim_disk::{Attributes, SimDisk, SimFile};

/// What is in salvage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Salvaged {
    pub path: Option<String>,
    pub reason: String,
    pub content: Vec<u8>,
}

/// Makes a durable file of user and group `owner` in the root.
pub fn plant(disk: &SimDisk, name: &str, content: &str, owner: u32) {
    let attributes = Attributes {
        mode: 0o644,
        uid: owner,
        gid: owner,
        ..Attributes::default()
    };
    disk.plant(name, content.as_bytes(), attributes);
}

/// Makes a directory.
pub fn make_dir(disk: &SimDisk, name: &str) {
    let root = disk.open_dir(Path::new("/")).expect("a root");
    disk.make_dir(&root, OsStr::new(name), 0o755)
        .expect("a directory");
}

pub fn salvaged(disk: &SimDisk) -> Vec<Salvaged> {
    let dir = ".polystore/salvage";
    let names = disk.names(dir);
    let mut items: Vec<Salvaged> = names
        .iter()
        .filter(|name| !name.ends_with(".json"))
        .map(|name| {
            let content = disk
                .content(&format!("{dir}/{name}"))
                .expect("it is listed");
            let note = disk.content(&format!("{dir}/{name}.json"));
            let note: serde_json::Value = note
                .and_then(|note| serde_json::from_slice(&note).ok())
                .unwrap_or_default();
            Salvaged {
                path: note["path"].as_str().map(str::to_owned),
                reason: note["reason"].as_str().unwrap_or_default().to_owned(),
                content,
            }
        })
        .collect();
    items.sort();
    items
}

pub(super) fn content(disk: &SimDisk, file: &SimFile) -> Vec<u8> {
    let stat = disk.stat_file(file).expect("a healthy disk");
    assert_eq!(stat.kind, Kind::File);
    let mut content = vec![0; stat.len as usize];
    let read = disk.read_at(file, &mut content, 0).expect("a healthy disk");
    assert_eq!(read, content.len());
    content
}

pub(super) fn write_all(
    disk: &SimDisk,
    file: &SimFile,
    mut data: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !data.is_empty() {
        let written = disk.write_at(file, data, offset)?;
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}
