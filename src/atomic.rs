//! Files that are replaced whole or not at all.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Durability;
use crate::disk::{Disk, Kind, Ownership, Stat, SystemDisk};
use crate::error::FileError;
use crate::stage::{Place, Staged};
use crate::target::Target;

/// How much is gathered before it is written.
const BUFFER: usize = 16 << 10;

/// How often a file that vanishes while it is looked at is looked for again.
const MAX_ATTEMPTS: u32 = 32;

/// How [`atomic_write`] and its relatives write.
///
/// ```
/// use polystore::{AtomicWriteOptions, Durability};
///
/// let options = AtomicWriteOptions::new().durability(Durability::Full).mode(0o600);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct AtomicWriteOptions {
    pub(crate) durability: Durability,
    pub(crate) ensure_directory: bool,
    mode: Option<u32>,
}

impl AtomicWriteOptions {
    /// [`Durability::Ordered`], missing directories are made, permission bits as the
    /// file that is replaced has them, or as the umask gives them to a new one.
    pub fn new() -> AtomicWriteOptions {
        AtomicWriteOptions {
            durability: Durability::default(),
            ensure_directory: true,
            mode: None,
        }
    }

    /// What the new version survives.
    pub fn durability(mut self, durability: Durability) -> AtomicWriteOptions {
        self.durability = durability;
        self
    }

    /// Whether missing parent directories are made.
    pub fn ensure_directory(mut self, ensure: bool) -> AtomicWriteOptions {
        self.ensure_directory = ensure;
        self
    }

    /// The permission bits of the new version, just these: neither those of the file that
    /// is replaced nor the umask count. Windows knows only whether the owner may write.
    pub fn mode(mut self, mode: u32) -> AtomicWriteOptions {
        self.mode = Some(mode & 0o7777);
        self
    }
}

impl Default for AtomicWriteOptions {
    fn default() -> AtomicWriteOptions {
        AtomicWriteOptions::new()
    }
}

/// A new version of a file, seen by nobody until [`commit`](AtomicFile::commit).
///
/// Dropped without it, by an early return or a panic, it leaves the file as it
/// was and nothing beside it. Writes are gathered in a small buffer. After a write that
/// failed there is no commit: it returns the error again.
///
/// The new version has the owner (where permitted), permission bits, extended
/// attributes and ACLs that the old one had when the `AtomicFile` was opened.
///
/// ```
/// use std::io::Write;
/// use polystore::{AtomicFile, AtomicWriteOptions};
///
/// # fn main() -> std::io::Result<()> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("names.txt");
/// let mut file = AtomicFile::open(&path, &AtomicWriteOptions::new())?;
/// writeln!(file, "Ada")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read_to_string(&path)?, "Ada\n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    staged: Staged<SystemDisk>,
    target: Target,
    durability: Durability,
    mode: Option<u32>,
    /// As the caller gave it.
    path: PathBuf,
    /// Written by the caller, not yet to the file; belongs at the file's position.
    buffer: Vec<u8>,
}

impl AtomicFile {
    /// Starts a new, empty version of the file at `path`.
    ///
    /// Symbolic links are followed: what they lead to is replaced, or made.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::IsADirectory`] and [`io::ErrorKind::InvalidInput`] if there is something
    /// that is not a file; and what the system says when it refuses a file in that
    /// directory. The permissions of the file itself are not asked.
    pub fn open(path: impl AsRef<Path>, options: &AtomicWriteOptions) -> io::Result<AtomicFile> {
        let path = path.as_ref();
        AtomicFile::stage(path, options)
            .map_err(|error| FileError::new("stage a new version of", path, error).into())
    }

    fn stage(path: &Path, options: &AtomicWriteOptions) -> io::Result<AtomicFile> {
        let target = Target::find(path, options.ensure_directory, options.durability)?;
        AtomicFile::at(target, path, options)
    }

    /// Starts a new version of a file that has been found already.
    pub(crate) fn at(
        mut target: Target,
        path: &Path,
        options: &AtomicWriteOptions,
    ) -> io::Result<AtomicFile> {
        let mut attempts = 0;
        let staged = loop {
            match stage(&target, options) {
                // Somebody removed or replaced the file between the two looks at it.
                Err(StageError::Inherit(error))
                    if error.kind() == io::ErrorKind::NotFound && attempts < MAX_ATTEMPTS =>
                {
                    attempts += 1;
                    target.look_again()?;
                }
                other => break other?,
            }
        };
        Ok(AtomicFile {
            staged,
            target,
            durability: options.durability,
            mode: options.mode,
            path: path.to_owned(),
            buffer: Vec::new(),
        })
    }

    /// Puts the new version in the place of the old one, in one step.
    ///
    /// # Errors
    ///
    /// An error leaves the old version, with one exception: under
    /// [`Durability::Full`] the sync of the directory may fail when the new version is
    /// already there ([`FileError::operation`] then is `"sync the directory of"`).
    pub fn commit(self) -> io::Result<()> {
        Ok(self.finish()?)
    }

    pub(crate) fn finish(mut self) -> Result<(), FileError> {
        let done = self.publish();
        let operation = if self.staged.is_placed() {
            "sync the directory of"
        } else {
            "replace"
        };
        done.map_err(|error| FileError::new(operation, &self.path, error))
    }

    /// Drops the new version; the same as dropping the `AtomicFile`.
    pub fn discard(self) {}

    /// The file itself, with everything that was written so far.
    ///
    /// What other code writes to it becomes part of the new version. It is not a
    /// place to keep a copy of: writes after the commit change what everybody sees.
    pub fn as_file(&mut self) -> io::Result<&File> {
        self.write_out()?;
        Ok(self.staged.file())
    }

    /// Where the new version will be, symbolic links followed.
    pub fn target(&self) -> &Path {
        &self.target.path
    }

    fn publish(&mut self) -> io::Result<()> {
        self.write_out()?;
        // Writing takes set-user-id and set-group-id away.
        set_mode(&self.staged, self.mode.filter(|mode| mode & 0o6000 != 0))?;
        self.staged.publish(
            &self.target.dir,
            &self.target.name,
            Place::Any,
            self.durability,
        )
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.staged.file().write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|error| self.staged.fail(error))
    }
}

enum StageError {
    Create(io::Error),
    Inherit(io::Error),
}

impl From<StageError> for io::Error {
    fn from(error: StageError) -> io::Error {
        match error {
            StageError::Create(error) | StageError::Inherit(error) => error,
        }
    }
}

fn stage(target: &Target, options: &AtomicWriteOptions) -> Result<Staged<SystemDisk>, StageError> {
    // Until it has its final owner and bits, nobody else may open it.
    let made_private = target.old.is_some() || options.mode.is_some();
    let mode = if made_private { 0o600 } else { 0o666 };
    let disk = Arc::new(SystemDisk);
    let staged = Staged::create(&disk, &target.dir, mode).map_err(StageError::Create)?;
    if let Some(old) = &target.old {
        inherit(&staged, target, *old).map_err(StageError::Inherit)?;
    }
    set_mode(&staged, options.mode).map_err(StageError::Create)?;
    Ok(staged)
}

/// How often the file that is replaced is looked at again because others replace it meanwhile.
const INHERIT_TRIES: usize = 1000;

/// Takes over what belongs to the file that is replaced: to the one that is there now, if another has
/// taken the place of `old`.
fn inherit(staged: &Staged<SystemDisk>, target: &Target, mut old: Stat) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match staged.inherit(&target.dir, &target.name, &old) {
            Err(error)
                if error.kind() == io::ErrorKind::StaleNetworkFileHandle
                    && tries < INHERIT_TRIES =>
            {
                tries += 1;
                let now = SystemDisk.stat(&target.dir, &target.name)?;
                old = now.filter(|now| now.kind == Kind::File).ok_or(error)?;
            }
            other => return other,
        }
    }
}

fn set_mode(staged: &Staged<SystemDisk>, mode: Option<u32>) -> io::Result<()> {
    match mode {
        Some(mode) => SystemDisk.set_ownership(
            staged.file(),
            Ownership {
                uid: None,
                gid: None,
            },
            mode,
        ),
        None => Ok(()),
    }
}

impl Write for AtomicFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + data.len() > BUFFER {
            self.write_out()?;
        }
        if data.len() < BUFFER {
            self.buffer.extend_from_slice(data);
            return Ok(data.len());
        }
        match self.staged.file().write(data) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(self.staged.fail(error))
            }
            other => other,
        }
    }

    /// Hands everything to the system, so that `as_file` and readers of it see it. Not a sync.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.write_out()?;
        self.staged.file().seek(position)
    }
}

impl Read for AtomicFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.write_out()?;
        self.staged.file().read(buffer)
    }
}

/// Replaces the file at `path` by what `write` writes.
///
/// Readers see the old version or the new one, never a part. If `write` fails or
/// panics the file stays as it was, nothing is left beside it, and the error comes back as it
/// is. The new version appears when `write` has returned `Ok`.
///
/// What the file was is kept: symbolic links are followed, owner (where permitted),
/// permission bits, extended attributes and ACLs stay. A file that did not exist gets what the
/// umask or the directory's default ACL give. Two things do change:
/// the file is another one than before, so that programs that have it open go on
/// with the old version, and *other hard links* of it keep the old version, too.
///
/// # Errors
///
/// Those of [`AtomicFile::open`] and [`AtomicFile::commit`], and those of `write`.
///
/// ```
/// use std::io::{self, Write};
/// use polystore::{AtomicWriteOptions, atomic_write};
///
/// # fn main() -> io::Result<()> {
/// # let scratch = tempfile::tempdir()?;
/// # let path = scratch.path().join("report/today.txt");
/// let lines = atomic_write(&path, &AtomicWriteOptions::new(), |file| -> io::Result<u32> {
///     for line in 0..3 {
///         writeln!(file, "line {line}")?;
///     }
///     Ok(3)
/// })?;
/// assert_eq!(lines, 3);
///
/// let failed = atomic_write(&path, &AtomicWriteOptions::new(), |file| {
///     writeln!(file, "half of it")?;
///     Err::<(), _>(io::Error::other("the source went away"))
/// });
/// assert_eq!(failed.unwrap_err().to_string(), "the source went away");
/// assert_eq!(std::fs::read_to_string(&path)?, "line 0\nline 1\nline 2\n");
/// # Ok(())
/// # }
/// ```
pub fn atomic_write<T, E: From<io::Error>>(
    path: impl AsRef<Path>,
    options: &AtomicWriteOptions,
    write: impl FnOnce(&mut AtomicFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = AtomicFile::open(path, options)?;
    let result = write(&mut file)?;
    file.commit()?;
    Ok(result)
}

/// Replaces the file at `path` by `bytes`; see [`atomic_write`].
pub fn atomic_write_bytes(
    path: impl AsRef<Path>,
    bytes: impl AsRef<[u8]>,
    options: &AtomicWriteOptions,
) -> io::Result<()> {
    let path = path.as_ref();
    atomic_write(path, options, |file| {
        let written = file.write_all(bytes.as_ref()).and_then(|()| file.flush());
        written.map_err(|error| FileError::new("write", path, error).into())
    })
}

/// Replaces the file at `path` by `text`, in UTF-8 and with line ends as they are; see [`atomic_write`].
pub fn atomic_write_str(
    path: impl AsRef<Path>,
    text: impl AsRef<str>,
    options: &AtomicWriteOptions,
) -> io::Result<()> {
    atomic_write_bytes(path, text.as_ref(), options)
}
