//! What a reply says that is not ok.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// Why a request failed, as `CONTROL.md` lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// EINVAL: not a request, or a change that cannot be applied.
    Invalid,
    /// ENOMSG: an operation `test` of a patch failed.
    NoMessage,
    /// EMSGSIZE: longer or deeper than the limits.
    MessageSize,
    /// EBADMSG: the file is not a JSON document.
    BadMessage,
    /// ENOENT: there is no such file.
    NoEntry,
    /// EPERM: not the owner.
    NotPermitted,
    /// EXDEV: a symbolic link leads out of the mount.
    CrossesDevices,
    /// ETIMEDOUT: the turn did not come in time.
    TimedOut,
    /// EAGAIN: it is not one's turn now.
    Again,
    /// EINTR: a signal ended the waiting.
    Interrupted,
    /// EBUSY: the handle has a transaction, or too many requests wait.
    Busy,
    /// ESRCH: the handle has no transaction.
    NoTransaction,
    /// EPROTONOSUPPORT: a version that is not spoken here.
    Version,
    /// Any other number of the system's. Make it with [`Code::from_errno`]; a number without a
    /// name there counts as EIO.
    System(i32),
}

/// The numbers that a system call may give for a file and that have no variant of their own.
const SYSTEM: &[(i32, &str)] = &[
    // First, because it stands for those that are not here.
    (libc::EIO, "EIO"),
    (libc::E2BIG, "E2BIG"),
    (libc::EACCES, "EACCES"),
    (libc::EBADF, "EBADF"),
    (libc::ECANCELED, "ECANCELED"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::EDEADLK, "EDEADLK"),
    #[cfg(unix)]
    (libc::EDQUOT, "EDQUOT"),
    (libc::EEXIST, "EEXIST"),
    (libc::EFAULT, "EFAULT"),
    (libc::EFBIG, "EFBIG"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::EILSEQ, "EILSEQ"),
    (libc::EISDIR, "EISDIR"),
    #[cfg(target_os = "linux")]
    (libc::EKEYEXPIRED, "EKEYEXPIRED"),
    (libc::ELOOP, "ELOOP"),
    (libc::EMFILE, "EMFILE"),
    (libc::EMLINK, "EMLINK"),
    (libc::ENAMETOOLONG, "ENAMETOOLONG"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENFILE, "ENFILE"),
    (libc::ENODATA, "ENODATA"),
    (libc::ENODEV, "ENODEV"),
    #[cfg(target_os = "linux")]
    (libc::ENOKEY, "ENOKEY"),
    (libc::ENOLCK, "ENOLCK"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::ENOTCONN, "ENOTCONN"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::ENOTEMPTY, "ENOTEMPTY"),
    (libc::ENOTTY, "ENOTTY"),
    (libc::ENXIO, "ENXIO"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EOVERFLOW, "EOVERFLOW"),
    (libc::EPIPE, "EPIPE"),
    (libc::EPROTO, "EPROTO"),
    (libc::ERANGE, "ERANGE"),
    #[cfg(unix)]
    (libc::EREMOTE, "EREMOTE"),
    (libc::EROFS, "EROFS"),
    (libc::ESPIPE, "ESPIPE"),
    #[cfg(unix)]
    (libc::ESTALE, "ESTALE"),
    (libc::ETXTBSY, "ETXTBSY"),
    #[cfg(target_os = "linux")]
    (libc::EUCLEAN, "EUCLEAN"),
];

impl Code {
    /// Those that are not [`Code::System`].
    const OWN: [Code; 13] = [
        Code::Invalid,
        Code::NoMessage,
        Code::MessageSize,
        Code::BadMessage,
        Code::NoEntry,
        Code::NotPermitted,
        Code::CrossesDevices,
        Code::TimedOut,
        Code::Again,
        Code::Interrupted,
        Code::Busy,
        Code::NoTransaction,
        Code::Version,
    ];

    /// The number that makes a system call fail.
    pub fn errno(self) -> i32 {
        match self {
            Code::Invalid => libc::EINVAL,
            Code::NoMessage => libc::ENOMSG,
            Code::MessageSize => libc::EMSGSIZE,
            Code::BadMessage => libc::EBADMSG,
            Code::NoEntry => libc::ENOENT,
            Code::NotPermitted => libc::EPERM,
            Code::CrossesDevices => libc::EXDEV,
            Code::TimedOut => libc::ETIMEDOUT,
            Code::Again => libc::EAGAIN,
            Code::Interrupted => libc::EINTR,
            Code::Busy => libc::EBUSY,
            Code::NoTransaction => libc::ESRCH,
            Code::Version => libc::EPROTONOSUPPORT,
            Code::System(number) => system(number).0,
        }
    }

    /// The name of [`Code::errno`], as `"EINVAL"`.
    pub fn name(self) -> &'static str {
        match self {
            Code::Invalid => "EINVAL",
            Code::NoMessage => "ENOMSG",
            Code::MessageSize => "EMSGSIZE",
            Code::BadMessage => "EBADMSG",
            Code::NoEntry => "ENOENT",
            Code::NotPermitted => "EPERM",
            Code::CrossesDevices => "EXDEV",
            Code::TimedOut => "ETIMEDOUT",
            Code::Again => "EAGAIN",
            Code::Interrupted => "EINTR",
            Code::Busy => "EBUSY",
            Code::NoTransaction => "ESRCH",
            Code::Version => "EPROTONOSUPPORT",
            Code::System(number) => system(number).1,
        }
    }

    /// The code of the system's error `number`; one without a name here is EIO.
    pub fn from_errno(number: i32) -> Code {
        let own = Code::OWN.into_iter().find(|code| code.errno() == number);
        own.unwrap_or(Code::System(system(number).0))
    }

    /// The code called `name`; `None` for one that is not known here.
    pub fn from_name(name: &str) -> Option<Code> {
        let own = Code::OWN.into_iter().find(|code| code.name() == name);
        own.or_else(|| {
            let found = SYSTEM.iter().find(|(_, known)| *known == name);
            found.map(|(number, _)| Code::System(*number))
        })
    }
}

fn system(number: i32) -> (i32, &'static str) {
    let found = SYSTEM.iter().find(|(known, _)| *known == number);
    *found.unwrap_or(&SYSTEM[0])
}

/// A request that failed: the code for programs, the message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlError {
    /// What programs tell errors apart by.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
}

impl ControlError {
    /// An error of this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> ControlError {
        ControlError {
            code,
            message: message.into(),
        }
    }

    /// [`Code::Invalid`], because of what `message` says.
    pub fn invalid(message: impl Into<String>) -> ControlError {
        ControlError::new(Code::Invalid, message)
    }

    /// [`Code::MessageSize`], because of what `message` says.
    pub fn too_large(message: impl Into<String>) -> ControlError {
        ControlError::new(Code::MessageSize, message)
    }

    /// The same error, saying that it is about `subject`: `subject: message`.
    pub fn about(mut self, subject: impl fmt::Display) -> ControlError {
        self.message = format!("{subject}: {}", self.message);
        self
    }
}

/// What a message quotes of `text`: the start of it will do.
pub(super) fn shown(text: &str) -> String {
    const ENOUGH: usize = 80;
    match text.char_indices().nth(ENOUGH) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.message, self.code.name())
    }
}

impl Error for ControlError {}

impl From<io::Error> for ControlError {
    fn from(error: io::Error) -> ControlError {
        let code = match raw_of(&error) {
            Some(number) => Code::from_errno(number),
            None => of_kind(error.kind()),
        };
        // The number that the standard library puts behind the text is told by the code.
        let text = error.to_string();
        let text = match text.rfind(" (os error ") {
            Some(at) if text.ends_with(')') => &text[..at],
            _ => &text,
        };
        ControlError::new(code, text)
    }
}

/// The system's number in `error` or in what it was made of: an error that tells of the file keeps
/// that of the system inside.
fn raw_of(error: &io::Error) -> Option<i32> {
    if let Some(number) = error.raw_os_error() {
        return Some(number);
    }
    let mut inner: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = inner {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return raw_of(error);
        }
        inner = error.source();
    }
    None
}

fn of_kind(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NoEntry,
        ErrorKind::PermissionDenied => Code::System(libc::EACCES),
        ErrorKind::AlreadyExists => Code::System(libc::EEXIST),
        ErrorKind::WouldBlock => Code::Again,
        ErrorKind::NotADirectory => Code::System(libc::ENOTDIR),
        ErrorKind::IsADirectory => Code::System(libc::EISDIR),
        ErrorKind::ReadOnlyFilesystem => Code::System(libc::EROFS),
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Code::Invalid,
        ErrorKind::TimedOut => Code::TimedOut,
        ErrorKind::StorageFull | ErrorKind::WriteZero => Code::System(libc::ENOSPC),
        ErrorKind::FileTooLarge => Code::System(libc::EFBIG),
        ErrorKind::ResourceBusy => Code::Busy,
        ErrorKind::CrossesDevices => Code::CrossesDevices,
        ErrorKind::Interrupted => Code::Interrupted,
        ErrorKind::Unsupported => Code::System(libc::EOPNOTSUPP),
        ErrorKind::OutOfMemory => Code::System(libc::ENOMEM),
        // `ErrorKind` may grow: what is not named above has no number of its own.
        _ => Code::System(libc::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_belong_together() {
        for number in 1..200 {
            let code = Code::from_errno(number);
            assert!([number, libc::EIO].contains(&code.errno()));
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
        assert_eq!(Code::from_errno(libc::ENOENT), Code::NoEntry);
        assert_eq!(Code::from_errno(libc::ENOSPC).name(), "ENOSPC");
        assert_eq!(Code::from_name("EWHATEVER"), None);
    }

    #[test]
    fn a_number_is_found_in_what_an_error_was_made_of() {
        let inner = io::Error::from_raw_os_error(libc::EROFS);
        let outer = io::Error::other(io::Error::other(inner));
        assert_eq!(ControlError::from(outer).code.name(), "EROFS");
        let kind = io::Error::new(ErrorKind::NotFound, "gone");
        assert_eq!(
            ControlError::from(kind).about("c.json").to_string(),
            "c.json: gone (ENOENT)"
        );
    }
}
