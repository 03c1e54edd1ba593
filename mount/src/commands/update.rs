//! `polystore update`.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use polystore::disk::{Disk, SystemDisk};
use polystore_mount::control::{
    Change, Code, ControlError, MAX_DOCUMENT, MAX_REQUEST_DEPTH, Request, UpdateReply, edit, json,
    parse_request,
};
use serde_json::Value;

use super::client::{Mount, without_path};
use super::lock_file::LockFile;
use super::place::{Spot, failed};
use super::turn::{NoTurn, Turn};
use super::{NO_TURN, plain};
use crate::cli::UpdateArgs;
use crate::{Failure, output, quote};

/// The exit code of wrong usage, as clap has it.
const USAGE: u8 = 2;
/// The exit code if a `test` failed.
const TEST_FAILED: u8 = 3;

/// What is asked in a plain directory instead of the path, which may be one that no request can have.
const ANY_NAME: &str = "file";

/// Runs `polystore update`.
pub fn command(args: &UpdateArgs) -> Result<(), Failure> {
    let asked = Asked::read(args)?;
    let spot = Spot::of(&args.file).map_err(failed(&args.file))?;
    spot.known().map_err(failed(&args.file))?;
    let wrong = |error: ControlError| explain(&args.file, &error);
    let value = match Mount::of(&spot.dir).map_err(wrong)? {
        Some(mount) => {
            let path = mount.path_of(&spot.name).map_err(wrong)?;
            let reply: UpdateReply = mount
                .ask(&asked.request(&path))
                .map_err(|error| explain(&args.file, &without_path(error, &path)))?;
            reply.value.map(|exact| exact.0)
        }
        None => Some(update(&args.file, spot, &asked).map_err(wrong)?),
    };
    match value.filter(|_| args.print) {
        Some(value) => output(format!("{value}\n").as_bytes()),
        None => Ok(()),
    }
}

/// What is to be done, as JSON text that has been checked.
struct Asked {
    /// `"merge":…` or `"patch":…`.
    change: String,
    default: Option<String>,
    timeout: Duration,
    returns: bool,
}

impl Asked {
    fn read(args: &UpdateArgs) -> Result<Asked, Failure> {
        let given = [&args.merge, &args.patch, &args.default];
        let of_input = |text: &&Option<_>| text.as_deref() == Some(OsStr::new("-"));
        if given.iter().filter(|text| of_input(text)).count() > 1 {
            let text = "standard input can be only one of --merge, --patch and --default";
            return Err(Failure::with_code(text, USAGE));
        }
        let (option, change) = match (&args.merge, &args.patch) {
            (Some(merge), _) => ("merge", merge),
            (None, Some(patch)) => ("patch", patch),
            (None, None) => return Err(Failure::with_code("--merge or --patch", USAGE)),
        };
        let default = args.default.as_ref();
        let asked = Asked {
            change: format!("\"{option}\":{}", json_text(option, change)?),
            default: default.map(|text| json_text("default", text)).transpose()?,
            timeout: args.timeout,
            returns: args.print,
        };
        // Whatever is wrong with it is wrong before the file is looked at.
        parse_request(asked.request(ANY_NAME).as_bytes())
            .map_err(|error| Failure::with_code(error.message, USAGE))?;
        Ok(asked)
    }

    /// The request for the control channel.
    fn request(&self, path: &str) -> String {
        let default =
            (self.default.as_ref()).map_or(String::new(), |text| format!(",\"default\":{text}"));
        format!(
            "{{\"op\":\"update\",\"path\":{},{}{default},\"timeout\":{},\"return\":{}}}\n",
            Value::from(path),
            self.change,
            self.timeout.as_secs_f64(),
            self.returns
        )
    }
}

/// The text that an option gives: itself, that of a file, or standard input.
fn json_text(option: &str, given: &OsStr) -> Result<String, Failure> {
    let bytes = given.as_bytes();
    let (place, read) = match bytes {
        b"-" => ("standard input".to_owned(), read_input()),
        [b'@', name @ ..] => {
            let path = Path::new(OsStr::from_bytes(name));
            (quote::path(path), fs::read(path))
        }
        _ => (format!("--{option}"), Ok(bytes.to_owned())),
    };
    let text = read.map_err(|error| Failure::new(format!("{place}: {error}")))?;
    // Checked here: what is not one whole value would become another request.
    let wrong = |problem: String| Failure::with_code(format!("{place}: {problem}"), USAGE);
    json::parse(&text, MAX_REQUEST_DEPTH).map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(text).map_err(|error| wrong(error.to_string()))
}

fn read_input() -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

/// Does what a mount would do, in a directory that is none.
fn update(file: &Path, mut spot: Spot, asked: &Asked) -> Result<Value, ControlError> {
    let Request::Update {
        change,
        default,
        timeout,
        ..
    } = parse_request(asked.request(ANY_NAME).as_bytes())?
    else {
        return Err(ControlError::invalid("not an update"));
    };
    let _turn = loop {
        let turn = take(&spot.lock_file()?, timeout)?;
        // A link may lead elsewhere since it was looked at.
        let before = std::mem::replace(&mut spot, Spot::of(file)?);
        if before.is_same(&spot)? {
            break turn;
        }
    };
    apply(&spot, default.as_ref(), &change)
}

fn apply(spot: &Spot, default: Option<&Value>, change: &Change) -> Result<Value, ControlError> {
    let text = read(spot)?;
    let edited = edit(text, default, change)?;
    if let Some(bytes) = &edited.bytes {
        plain::replace(spot, bytes)?;
    }
    Ok(edited.value())
}

/// The content of a document, if there is one.
fn read(spot: &Spot) -> Result<Option<Vec<u8>>, ControlError> {
    let file = match SystemDisk.open(&spot.handle, &spot.name, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    let limit = MAX_DOCUMENT as u64 + 1; // One more, so that it is seen to be too long.
    file.take(limit).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn take(lock: &LockFile, timeout: Duration) -> Result<Turn, ControlError> {
    // In the words of a mount.
    Turn::take(lock, false, Some(timeout)).map_err(|refused| match &refused {
        NoTurn::TimedOut(time) if time.is_zero() => {
            ControlError::new(Code::Again, "somebody else has the turn")
        }
        NoTurn::TimedOut(_) => ControlError::new(Code::TimedOut, "the turn did not come in time"),
        NoTurn::Failed(error) => {
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            ControlError::new(Code::from_errno(number), refused.explain(lock))
        }
    })
}

fn explain(file: &Path, error: &ControlError) -> Failure {
    let code = match error.code {
        Code::NoMessage => TEST_FAILED,
        Code::TimedOut | Code::Again => NO_TURN,
        _ => 1,
    };
    let message = quote::text(&error.message);
    Failure::with_code(format!("{}: {message}", quote::path(file)), code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn asked(line: &[&str]) -> Result<Asked, Failure> {
        let line = ["polystore", "update", "f.json"].iter().chain(line);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Update(args) => Asked::read(&args),
            other => panic!("not an update: {other:?}"),
        }
    }

    #[test]
    fn requests() {
        let merge = asked(&[
            "--merge",
            "{\"a\": 12345678901234567890.10}",
            "--default",
            " [1]\n",
        ]);
        assert_eq!(
            merge.unwrap().request("a \"b\"\n.json"),
            "{\"op\":\"update\",\"path\":\"a \\\"b\\\"\\n.json\",\"merge\":{\"a\": \
             12345678901234567890.10},\"default\": [1]\n,\"timeout\":30,\"return\":false}\n"
        );
        let patch = asked(&["--patch", "[]", "--timeout", "500ms", "--print"]);
        assert_eq!(
            patch.unwrap().request("f"),
            "{\"op\":\"update\",\"path\":\"f\",\"patch\":[],\"timeout\":0.5,\"return\":true}\n"
        );
    }

    #[test]
    fn what_is_no_json_is_wrong_usage() {
        for (line, problem) in [
            (&["--merge", "{"][..], "--merge: "),
            (&["--merge", "1,\"path\":\"other\""], "--merge: "),
            (&["--merge", ""], "--merge: "),
            (&["--patch", "{}"], "patch"),
            (&["--merge", "1", "--default", "nul"], "--default: "),
            (&["--merge", "-", "--default", "-"], "standard input"),
        ] {
            let failure = asked(line).err().unwrap();
            let text = failure.to_string();
            assert!(text.contains(problem), "{line:?}: {text}");
        }
        let missing = asked(&["--merge", "@/none/such"])
            .err()
            .unwrap()
            .to_string();
        assert!(missing.starts_with("/none/such: No such file"), "{missing}");
    }

    #[test]
    fn files_are_called_as_people_call_them() {
        let error = ControlError::new(Code::NoEntry, "sub/c.json: no such file");
        let error = without_path(error, "sub/c.json");
        assert_eq!(
            explain(Path::new("../c.json"), &error).to_string(),
            "../c.json: no such file"
        );
    }
}
