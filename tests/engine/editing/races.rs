//! What else happens to a name while its edit makes a draft: that claims the edit, not the name.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use polystore::Durability;
use polystore::disk::Disk;
use polystore_mount::engine::draft::Writer;
use polystore_mount::engine::editing::{Content, Editor};
use polystore_mount::engine::opening::{Access, Existing, Plan};
use polystore_mount::engine::policy::{Direct, Turns};
use polystore_mount::engine::salvage::Salvage;
use polystore_mount::engine::slot::{Place, SlotKey};
use polystore_mount::engine::staging::Session;
use polystore_mount::engine::visibility::View;
use polystore_mount::engine::{Engine, Settings};

use super::{REPLACED, TAKEN};
use crate::interleaved::Interleaved;
use crate::processes::{Pid, Tree};
use crate::sim_disk::SimDisk;
use crate::world::{AMPLE, EDIT, REWRITE, plant, salvaged};

/// An engine whose disk lets something happen before one of its operations.
struct Racing {
    disk: SimDisk,
    engine: Arc<Engine<Interleaved, Tree>>,
    tree: Tree,
}

type Happening = fn(&Stranger);

/// What somebody else does it with.
struct Stranger {
    engine: Arc<Engine<Interleaved, Tree>>,
    tree: Tree,
    pid: Pid,
    /// Another's rewrite of "f" that is written and about to be released.
    rewrite: Mutex<Option<Writer<Interleaved>>>,
}

fn place(disk: &Interleaved, name: &str) -> Place<Interleaved> {
    let dir = disk.open_dir(Path::new("/")).expect("a root");
    let slot = SlotKey {
        dir: disk.stat_dir(&dir).expect("a root").id,
        name: name.into(),
    };
    Place {
        slot,
        dir: Arc::new(dir),
    }
}

impl Stranger {
    fn place(&self, name: &str) -> Place<Interleaved> {
        place(&self.engine.disk, name)
    }

    fn unlinks(&self) {
        let caller = self.tree.caller(self.pid);
        let done = self.engine.unlink(caller, &self.place("f"));
        done.expect("unlinked");
    }

    fn renames(&self, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        let caller = self.tree.caller(self.pid);
        let done = self.engine.rename(caller, &from, &to, true);
        done.expect("renamed");
    }

    fn publishes(&self) {
        let rewrite = self.rewrite.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &*rewrite {
            assert!(self.engine.detach(writer));
            self.engine.settle(&writer.draft);
        }
    }
}

impl Racing {
    /// "f" is "old", and "other" lies beside it.
    fn new() -> Racing {
        let disk = SimDisk::new();
        plant(&disk, "f", "old", 0);
        plant(&disk, "other", "other", 0);
        let tree = Tree::new();
        let shared = Arc::new(Interleaved::idle(&disk));
        let root = shared.open_dir(Path::new("/")).expect("a root");
        let session = Session::start(&shared, &root, "one", 0).expect("a healthy disk");
        let salvage = Salvage::new(&shared, session.own_dir(), AMPLE, session.id());
        let settings = Settings {
            durability: Durability::Ordered,
            direct: Direct::new(&[], true).expect("good patterns"),
            turns: Turns::new(&[], true).expect("good patterns"),
            uid: 0,
        };
        let session = Some(session);
        let engine = Engine::new(shared, tree.clone(), settings, session, Some(salvage));
        Racing {
            disk,
            engine: Arc::new(engine),
            tree,
        }
    }

    fn stranger(&self) -> Stranger {
        let pid = self.tree.spawn();
        let Plan::Draft(draft) = self.plan(pid, REWRITE) else {
            panic!("a rewrite");
        };
        let writer = self.engine.attach(&draft, self.tree.caller(pid), false);
        self.change(&Content::Draft(draft), "new");
        Stranger {
            engine: self.engine.clone(),
            tree: self.tree.clone(),
            pid: self.tree.spawn(),
            rewrite: Mutex::new(Some(writer)),
        }
    }

    fn plan(&self, pid: Pid, access: Access) -> Plan<Interleaved> {
        let disk = &self.engine.disk;
        let place = place(disk, "f");
        let stat = disk.stat(&place.dir, place.name());
        let existing = Existing {
            path: Path::new("f"),
            stat: stat.expect("a healthy disk").expect("a file"),
            dir: disk.stat_dir(&place.dir).expect("a healthy disk"),
            flagged: false,
        };
        let caller = self.tree.caller(pid);
        let plan = self.engine.plan_existing(caller, &place, &existing, access);
        plan.expect("a healthy disk")
    }

    fn change(&self, content: &Content<Interleaved>, text: &str) {
        let disk = &self.engine.disk;
        let len = disk.stat_file(content.file()).expect("a healthy disk").len;
        let written = disk.write_at(content.file(), text.as_bytes(), len);
        assert_eq!(written.ok(), Some(text.len()));
        if let Content::Draft(draft) = content {
            self.engine.wrote(draft, len + text.len() as u64);
        }
    }

    /// `pid` edits "f". Before the operation with number `at` that its first write asks of the disk
    /// `happens`; whether it did.
    fn edit(
        &self,
        pid: Pid,
        at: usize,
        prepare: impl Fn(&Racing),
        happens: Happening,
    ) -> (Editor<Interleaved>, bool) {
        let stranger = self.stranger();
        let Plan::Edit(edit) = self.plan(pid, EDIT) else {
            panic!("an edit");
        };
        let caller = self.tree.caller(pid);
        let editor = self.engine.attach_edit(&edit, caller, EDIT, false);
        prepare(self);
        let disk = &self.engine.disk;
        disk.arm(at, Box::new(move || happens(&stranger)));
        let content = self.engine.begin_write(&editor, u64::MAX);
        let happened = disk.disarm();
        self.change(&content.expect("a healthy disk"), "+");
        (editor, happened)
    }

    fn close(&self, pid: Pid, editor: &Editor<Interleaved>) {
        if self.engine.closing_edit(editor, self.tree.caller(pid)) {
            let draft = editor.written().expect("it wrote");
            self.engine
                .seal(&draft, &draft.place)
                .expect("a healthy disk");
        }
        if self.engine.detach_edit(editor) {
            self.engine.settle_edit(&editor.edit);
        }
    }

    fn content(&self, name: &str) -> Option<String> {
        let content = self.disk.content(name)?;
        Some(String::from_utf8_lossy(&content).into_owned())
    }

    fn kept(&self) -> Vec<(String, String)> {
        let items = salvaged(&self.disk).into_iter();
        let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
        items
            .map(|item| (item.reason, text(&item.content)))
            .collect()
    }
}

/// Who edits "f" is to write it in place: somebody has it open for append.
fn appended(racing: &Racing) {
    let disk = &racing.engine.disk;
    let place = place(disk, "f");
    let stat = disk.stat(&place.dir, place.name());
    let stat = stat.expect("a healthy disk").expect("a file");
    racing.engine.append_opened(stat.id);
}

/// Lets `happens` happen before each operation of the first write, and looks at what is there
/// before and after the close.
fn race(happens: Happening, before: impl Fn(&Racing), after: impl Fn(&Racing)) {
    race_in(|_| {}, happens, before, after);
}

fn race_in(
    prepare: impl Fn(&Racing),
    happens: Happening,
    before: impl Fn(&Racing),
    after: impl Fn(&Racing),
) {
    for at in 0.. {
        let racing = Racing::new();
        let pid = racing.tree.spawn();
        let (editor, happened) = racing.edit(pid, at, &prepare, happens);
        if !happened {
            assert!(at > 0, "it has some operations");
            break;
        }
        before(&racing);
        racing.close(pid, &editor);
        after(&racing);
    }
}

#[test]
fn a_file_that_is_renamed_meanwhile_is_not_changed_before_the_close() {
    race(
        |stranger| stranger.renames("f", "g"),
        |racing| {
            assert_eq!(racing.content("g").as_deref(), Some("old"));
            assert_eq!(racing.content("f"), None);
        },
        |racing| {
            assert_eq!(racing.content("g").as_deref(), Some("old+"));
            assert_eq!(racing.kept(), []);
        },
    );
}

#[test]
fn a_file_that_takes_the_name_meanwhile_is_left_alone() {
    race(
        |stranger| stranger.renames("other", "f"),
        |racing| assert_eq!(racing.content("f").as_deref(), Some("other")),
        |racing| {
            assert_eq!(racing.content("f").as_deref(), Some("other"));
            let taken = vec![(TAKEN.to_owned(), "old+".to_owned())];
            assert!([Vec::new(), taken].contains(&racing.kept()));
        },
    );
}

#[test]
fn a_file_that_is_removed_meanwhile_stays_removed() {
    race(
        Stranger::unlinks,
        |racing| assert_eq!(racing.content("f"), None),
        |racing| {
            assert_eq!(racing.content("f"), None);
            let taken = vec![(TAKEN.to_owned(), "old+".to_owned())];
            assert!([Vec::new(), taken].contains(&racing.kept()));
        },
    );
}

#[test]
fn a_version_that_is_published_meanwhile_is_edited_or_kept() {
    race(
        Stranger::publishes,
        |racing| assert_eq!(racing.content("f").as_deref(), Some("new")),
        |racing| match racing.content("f").as_deref() {
            Some("new+") => assert_eq!(racing.kept(), []),
            Some("old+") => {
                let kept = vec![(REPLACED.to_owned(), "new".to_owned())];
                assert_eq!(racing.kept(), kept);
            }
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn a_version_that_is_published_over_a_file_in_place_is_the_one_that_is_found() {
    let found = |racing: &Racing| {
        let disk = &racing.engine.disk;
        let place = place(disk, "f");
        let caller = racing.tree.caller(racing.tree.spawn());
        if let View::Edit(edit) = racing.engine.view(caller, &place.slot) {
            let stat = disk.stat(&place.dir, place.name());
            let stat = stat.expect("a healthy disk").expect("a file");
            assert_eq!(edit.version(), stat.id);
        }
        let content = racing.content("f").expect("a file");
        assert!(["new", "new+"].contains(&content.as_str()), "{content}");
    };
    race_in(appended, Stranger::publishes, found, found);
}
