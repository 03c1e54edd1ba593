//! The commands that work on a mount and on a plain directory alike.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser};

use super::parse_time;

/// The longest that an update may wait, here and in a mount.
const LONGEST_WAIT: Duration = polystore_mount::control::MAX_TIMEOUT;

#[derive(Debug, Args)]
#[command(
    about = "Run a command while holding the turn at a file",
    long_about = "Wait for the turn at FILE, run COMMAND, and give the turn up when it has ended.\n\n\
        Whoever else takes the turn at FILE waits meanwhile: this command, `flock FILE` and flock(2), \
        the library's file_lock and atomic_update_json, and in a mount every program that opens \
        FILE for writing. COMMAND, and what it starts, may do that, and use `polystore lock`, \
        `write` and `update` on FILE.\n\n\
        What is locked is FILE itself, if its name ends in .lock, and else FILE.lock beside it \
        (symbolic links followed). It is made if it is missing, and never removed.\n\n\
        Ctrl-C ends the waiting; while COMMAND runs it is for COMMAND, and the turn is kept \
        until that has ended. SIGTERM and SIGHUP are passed on to it. If this process is killed \
        with SIGKILL, the turn lasts until COMMAND, and what it has started, has ended.",
    after_help = "Examples:\n  \
        polystore lock backup.lock -- rsync -a ./safe/ /backup/\n  \
        polystore lock --timeout 10 hits.json -- sh -c 'jq .n+=1 hits.json | polystore write hits.json'\n  \
        polystore lock -n job.lock -- ./job || echo 'it runs already, or failed'\n\n\
        Exit codes:\n  \
        that of COMMAND, or 128 + N if signal N ended it; besides\n  \
        2    wrong usage\n  \
        75   the turn did not come in time\n  \
        125  the file could not be locked\n  \
        126  COMMAND cannot be run\n  \
        127  COMMAND was not found"
)]
pub struct LockArgs {
    /// How long to wait for the turn: 10, 0.5, 500ms, 2m; 0 tries once [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,

    /// Do not wait: the same as --timeout 0
    #[arg(short, long, conflicts_with = "timeout")]
    pub nonblock: bool,

    /// Hold it together with others who ask for it with --shared
    #[arg(long)]
    pub shared: bool,

    /// The file to take the turn at
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,

    /// What to run, and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(
    about = "Write standard input to a file, in one step",
    long_about = "Read standard input to its end, then replace FILE by it, in one step.\n\n\
        Until then nothing changes, so that FILE may be read by what produces its new content. \
        If standard input cannot be read to the end, or this process is killed, nothing changes \
        at all. Mode, owner, extended attributes and ACLs stay; symbolic links are followed.\n\n\
        The turn is taken at .json and .lock files. In a mount, this is a program that \
        writes FILE like any other. In a plain directory, a .json file is replaced \
        under the lock of FILE.lock, if that exists; a .lock file is written in place, because others \
        hold locks on it; other names of a file with several hard links keep the old version.",
    after_help = "Examples:\n  \
        sort names.txt | uniq | polystore write names.txt\n  \
        jq .debug=true config.json | polystore write config.json\n\n\
        It cannot tell whether what was before it in the pipe failed. Where that matters:\n  \
        jq .debug=true config.json > /tmp/new && polystore write config.json < /tmp/new\n\n\
        Exit codes:\n  \
        0   FILE is replaced\n  \
        1   it is as it was\n  \
        2   wrong usage\n  \
        75  the turn did not come in time"
)]
pub struct WriteArgs {
    /// How long to wait for the turn: 10, 0.5, 500ms, 2m; 0 tries once [default: 30 s for .json files, for ever for .lock files]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,

    /// The file to replace, or to make
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    about = "Change a JSON file under its turn, in one step",
    long_about = "Take the turn at FILE, read it, change it, replace it in one step, and give the turn up.\n\n\
        However many do that at once, no change is lost: they exclude each other, the library's \
        atomic_update_json, and in a mount every program that opens FILE for writing. The order of members, \
        the indentation and the digits of numbers stay as they are. A file that is not JSON is \
        left alone; nothing is written where the change changes nothing.\n\n\
        JSON is the text itself, or @NAME for the content of the file NAME, or - for \
        standard input.",
    after_help = "Examples:\n  \
        polystore update config.json --merge '{\"debug\": true, \"old\": null}'\n  \
        polystore update hits.json --merge '{\"n\": 1}' --default '{}'\n  \
        polystore update list.json --patch '[{\"op\": \"add\", \"path\": \"/-\", \"value\": 7}]' --print\n  \
        polystore update job.json --patch '[\n    \
        {\"op\": \"test\", \"path\": \"/state\", \"value\": \"free\"},\n    \
        {\"op\": \"replace\", \"path\": \"/state\", \"value\": \"taken\"}]' || echo 'taken already'\n\n\
        Exit codes:\n  \
        0   FILE is what it is to be\n  \
        1   it is as it was, because of an error\n  \
        2   wrong usage\n  \
        3   it is as it was, because a `test` of the patch failed\n  \
        75  the turn did not come in time"
)]
#[command(group = clap::ArgGroup::new("change").required(true))]
pub struct UpdateArgs {
    /// A merge patch (RFC 7396): what is to be different; null takes a member away
    #[arg(
        long,
        value_name = "JSON",
        group = "change",
        allow_hyphen_values = true
    )]
    pub merge: Option<OsString>,

    /// A list of operations (RFC 6902), done all or not at all
    #[arg(
        long,
        value_name = "JSON",
        group = "change",
        allow_hyphen_values = true
    )]
    pub patch: Option<OsString>,

    /// What to start from if FILE does not exist or is empty
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub default: Option<OsString>,

    /// How long to wait for the turn: 10, 0.5, 500ms, 2m; 0 tries once
    #[arg(long, value_name = "TIME", default_value = "30", value_parser = parse_wait)]
    pub timeout: Duration,

    /// Print what FILE holds then, in one line
    #[arg(long)]
    pub print: bool,

    /// The file to change, or to make
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    about = "Show what a mount is doing: open drafts, turns, failures",
    long_about = "Show what the mount that DIR is in is doing: drafts that are being written, turns and \
        locks with who holds them and who waits, failures that close() could not report, and \
        counters. The owner of the mount sees everything, others see what is theirs.\n\n\
        Of a directory that is not a mount it shows what lies in its .polystore, and where it is \
        mounted, as far as that can be found out.",
    after_help = "Examples:\n  \
        polystore status ./safe\n  \
        polystore status --watch ./safe\n  \
        polystore status --json ./safe | jq '.drafts[] | select(.age > 3600)'"
)]
pub struct StatusArgs {
    /// Print a JSON object, in one line, instead of tables
    #[arg(long)]
    pub json: bool,

    /// Show it again every SECONDS, until Ctrl-C or until the mount is gone
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
        default_missing_value = "2", value_parser = parse_interval)]
    pub watch: Option<Duration>,

    /// The mount, or a directory in it, or a data directory
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    about = "Publish a draft that its writer does not close",
    long_about = "Publish the draft of FILE as it is now, although the programs that write it still \
        have it open. What they write afterwards goes to the published file in place.\n\n\
        For the owner of the mount, and for whose draft it is. FILE may be named in the mount or in \
        the data directory.",
    after_help = "Example:\n  \
        polystore status ./safe               shows which drafts there are\n  \
        polystore publish ./safe/report.csv"
)]
pub struct PublishArgs {
    /// The file that is being written
    #[arg(value_name = "FILE", value_parser = path())]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(false))]
pub struct PurgeArgs {
    /// The data directory, or where it is mounted
    pub dir: PathBuf,

    /// Which ones: IDs that `polystore salvage list` shows
    #[arg(value_name = "ID", group = "which", value_parser = NonEmptyStringValueParser::new())]
    pub ids: Vec<String>,

    /// All of them
    #[arg(long, group = "which")]
    pub all: bool,

    /// Those that were dropped longer ago than TIME: 90m, 12h, 7d
    #[arg(long, value_name = "TIME", group = "which", value_parser = parse_age)]
    pub older_than: Option<Duration>,
}

/// A path that is not empty.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| match text.is_empty() {
        true => Err("a file has a name"),
        false => Ok(PathBuf::from(text)),
    })
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        time if time > LONGEST_WAIT => Err("an hour at most".into()),
        time => Ok(time),
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        time if time < Duration::from_millis(100) => Err("a tenth of a second at least".into()),
        time => Ok(time),
    }
}

/// A time, for which days may be said, too.
fn parse_age(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d') else {
        return parse_time(text).map_err(|error| match error.contains("unit") {
            true => error.replace("m or h", "m, h or d"),
            false => error,
        });
    };
    let plain = days.bytes().all(|byte| byte.is_ascii_digit());
    let days = days.parse::<u32>().ok().filter(|_| plain);
    days.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60))
        .ok_or_else(|| "expected a whole number of days, such as 7d".into())
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        let line = ["polystore"].iter().chain(line);
        Cli::try_parse_from(line).map(|cli| cli.command)
    }

    #[test]
    fn ages() {
        assert_eq!(parse_age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_age("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_age("0"), Ok(Duration::ZERO));
        for bad in ["d", "1.5d", "-1d", "+1d", "", "1w", "99999999999d"] {
            assert!(parse_age(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(parse_age("1w").unwrap_err().contains("h or d"));
    }

    #[test]
    fn a_command_keeps_its_options() {
        let line = [
            "lock",
            "--timeout",
            "2",
            "x.lock",
            "--",
            "sh",
            "-c",
            "true",
            "--shared",
        ];
        let Ok(Command::Lock(args)) = parse(&line) else {
            panic!("not a lock");
        };
        assert_eq!(args.command, ["sh", "-c", "true", "--shared"]);
        assert_eq!(args.timeout, Some(Duration::from_secs(2)));
        assert!(!args.shared && !args.nonblock);
    }

    #[test]
    fn watching_needs_no_number() {
        for (line, expected) in [
            (&["status"][..], None),
            (&["status", "--watch"], Some(2000)),
            (&["status", "--watch=0.5"], Some(500)),
        ] {
            let Ok(Command::Status(args)) = parse(line) else {
                panic!("not a status: {line:?}");
            };
            assert_eq!(args.watch, expected.map(Duration::from_millis));
            assert_eq!(args.dir, PathBuf::from("."));
        }
        let Ok(Command::Status(args)) = parse(&["status", "--watch", "dir"]) else {
            panic!("not a status");
        };
        assert_eq!(args.dir, PathBuf::from("dir"));
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            &["lock", "x.lock"][..],
            &["lock", "x.lock", "true"],
            &["lock", "--", "true"],
            &["lock", "", "--", "true"],
            &["lock", "-n", "--timeout", "3", "x", "--", "true"],
            &["write"],
            &["write", "a", "b"],
            &["update", "f.json"],
            &["update", "f.json", "--merge", "1", "--patch", "[]"],
            &["update", "f.json", "--merge", "1", "--timeout", "2h"],
            &["update", "--merge", "1"],
            &["status", "--watch=0"],
            &["status", "--watch=x"],
            &["publish"],
            &["salvage", "purge", "."],
            &["salvage", "purge", ".", "ID", "--all"],
            &["salvage", "purge", ".", "--all", "--older-than", "7d"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(parse(&["update", "f.json", "--merge", "-1"]).is_ok());
        assert!(parse(&["salvage", "purge", ".", "a", "b"]).is_ok());
    }
}
