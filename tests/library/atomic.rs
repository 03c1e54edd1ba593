//! `atomic_write` and `AtomicFile` on the computer's own disk.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic;
use std::path::Path;

use polystore::{
    AtomicFile, AtomicWriteOptions, Durability, FileError, atomic_write, atomic_write_bytes,
    atomic_write_str,
};

use crate::scratch::{Scratch, read};

fn options() -> AtomicWriteOptions {
    AtomicWriteOptions::new()
}

#[test]
fn writes_new_files_and_replaces_old_ones() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    for durability in [Durability::None, Durability::Ordered, Durability::Full] {
        let options = options().durability(durability);
        for text in ["first", "second, and longer", ""] {
            atomic_write_str(&path, text, &options).unwrap();
            assert_eq!(read(&path), text);
        }
        atomic_write_bytes(&path, [0, 255, 10], &options).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0, 255, 10]);
        assert_eq!(scratch.names(), ["f"]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn nothing_is_seen_before_the_end() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    atomic_write(&path, &options(), |file| {
        file.write_all(&[b'n'; 100_000])?;
        file.flush()?;
        assert_eq!(read(&path), "old");
        Ok::<_, io::Error>(())
    })
    .unwrap();
    assert_eq!(read(&path).len(), 100_000);
}

#[test]
fn a_reader_keeps_the_version_it_opened() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let mut reader = fs::File::open(&path).unwrap();
    atomic_write_str(&path, "new", &options()).unwrap();
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!((seen.as_str(), read(&path).as_str()), ("old", "new"));
}

#[test]
fn an_error_comes_back_as_it_was_and_changes_nothing() {
    #[derive(Debug)]
    enum Mine {
        Refused(u32),
        #[expect(dead_code, reason = "shown if the test fails")]
        Io(io::Error),
    }
    impl From<io::Error> for Mine {
        fn from(error: io::Error) -> Mine {
            Mine::Io(error)
        }
    }
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let result = atomic_write(&path, &options(), |file| {
        file.write_all(b"half")?;
        Err::<(), _>(Mine::Refused(17))
    });
    assert!(matches!(result, Err(Mine::Refused(17))));
    let result = atomic_write(scratch.join("new"), &options(), |_| {
        Err::<(), _>(Mine::Refused(18))
    });
    assert!(matches!(result, Err(Mine::Refused(18))));
    assert_eq!(read(&path), "old");
    assert_eq!(scratch.names(), ["f"]);
}

#[test]
fn a_panic_changes_nothing() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let caught = panic::catch_unwind(|| {
        atomic_write(&path, &options(), |file| {
            file.write_all(&[b'n'; 50_000])?;
            if file.target().exists() {
                panic::resume_unwind(Box::new("on purpose"));
            }
            Ok::<_, io::Error>(())
        })
    });
    assert!(caught.is_err());
    assert_eq!(read(&path), "old");
    assert_eq!(scratch.names(), ["f"]);
}

#[test]
fn dropped_is_discarded() {
    let scratch = Scratch::new();
    let path = scratch.file("f", "old");
    let mut file = AtomicFile::open(&path, &options()).unwrap();
    file.write_all(b"new").unwrap();
    file.flush().unwrap();
    drop(file);
    AtomicFile::open(&path, &options()).unwrap().discard();
    assert_eq!(read(&path), "old");
    assert_eq!(scratch.names(), ["f"]);
}

#[test]
fn seeks_and_reads_what_was_written() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    let mut file = AtomicFile::open(&path, &options()).unwrap();
    file.write_all(b"hello world").unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    file.write_all(b"W").unwrap();
    assert_eq!(file.stream_position().unwrap(), 7);
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "orld");
    file.rewind().unwrap();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "orldhello World");
    assert_eq!(file.as_file().unwrap().metadata().unwrap().len(), 11);
    file.commit().unwrap();
    assert_eq!(read(&path), "hello World");
}

#[test]
fn pieces_of_all_sizes_keep_their_order() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    let mut expected = Vec::new();
    atomic_write(&path, &options(), |file| {
        for (index, size) in [1, 16_383, 1, 16_384, 5, 100_000, 3, 16_385, 0, 7]
            .into_iter()
            .enumerate()
        {
            let piece = vec![index as u8; size];
            file.write_all(&piece)?;
            expected.extend(piece);
        }
        Ok::<_, io::Error>(())
    })
    .unwrap();
    assert_eq!(fs::read(&path).unwrap(), expected);
}

#[test]
fn makes_directories_unless_told_not_to() {
    let scratch = Scratch::new();
    let path = scratch.join("a/b/f");
    let error = atomic_write_str(&path, "x", &options().ensure_directory(false)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert_eq!(scratch.names(), [""; 0]);
    for durability in [Durability::Ordered, Durability::Full] {
        atomic_write_str(&path, "x", &options().durability(durability)).unwrap();
        assert_eq!(read(&path), "x");
        fs::remove_dir_all(scratch.join("a")).unwrap();
    }
}

#[test]
fn errors_say_what_and_where_and_keep_their_kind() {
    let scratch = Scratch::new();
    let path = scratch.join("none/f");
    let error = atomic_write_str(&path, "x", &options().ensure_directory(false)).unwrap_err();
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<FileError>())
        .unwrap();
    assert_eq!((inner.path(), inner.kind()), (path.as_path(), error.kind()));
    assert_eq!(inner.raw_os_error(), Some(2));
    assert!(
        error.to_string().starts_with(&format!(
            "cannot stage a new version of {}: ",
            path.display()
        )),
        "{error}"
    );
}

#[test]
fn paths_of_directories_are_refused() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.join("dir")).unwrap();
    scratch.file("f", "old");
    for path in [
        "dir", "dir/", "dir/.", "dir/..", "f/", "f/.", "new/", "new/.",
    ] {
        let error = atomic_write_str(scratch.join(path), "x", &options()).unwrap_err();
        let expected = [io::ErrorKind::IsADirectory, io::ErrorKind::NotADirectory];
        assert!(expected.contains(&error.kind()), "{path}: {error}");
    }
    let error = atomic_write_str("", "x", &options()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = atomic_write_str(Path::new("/"), "x", &options()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    assert_eq!(scratch.names(), ["dir", "f"]);
    assert_eq!(read(scratch.join("f")), "old");
}

/// A file under a directory's name: neither made nor looked for.
#[test]
fn a_file_is_not_taken_for_a_directory() {
    let scratch = Scratch::new();
    scratch.file("f", "old");
    assert!(atomic_write_str(scratch.join("f/below"), "x", &options()).is_err());
    assert_eq!(read(scratch.join("f")), "old");
}

/// Many writers of one file: every reader sees one version whole.
#[test]
fn readers_never_see_a_part() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    atomic_write_bytes(&path, vec![b'0'; 60_000], &options()).unwrap();
    std::thread::scope(|scope| {
        for writer in b'1'..b'4' {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..100 {
                    let options = AtomicWriteOptions::new().durability(Durability::None);
                    atomic_write_bytes(path, vec![writer; 60_000], &options).unwrap();
                }
            });
        }
        for _ in 0..1000 {
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len(), 60_000);
            assert!(content.iter().all(|byte| *byte == content[0]));
        }
    });
    assert_eq!(scratch.names(), ["f"]);
}

/// Somebody removes the file all the time, also between two looks of the writer: then it is a new file.
#[test]
fn a_file_that_vanishes_meanwhile_is_a_new_one() {
    let scratch = Scratch::new();
    let path = scratch.join("f");
    let options = options().durability(Durability::None);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::remove_file(&path);
            }
        });
        let results: Vec<_> = (0..1500)
            .map(|_| atomic_write_str(&path, "x", &options))
            .collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for result in results {
            result.unwrap();
        }
    });
}
