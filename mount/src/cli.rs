//! What can be said on the command line.

mod commands;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use commands::{LockArgs, PublishArgs, PurgeArgs, StatusArgs, UpdateArgs, WriteArgs};

/// How long a mount may be away unless `--watchdog` says otherwise.
const WATCHDOG_DEFAULT: &str = "120";

/// Bytes of dropped drafts that are kept unless `--salvage` says otherwise.
const SALVAGE_DEFAULT: &str = "1G";

#[derive(Debug, Parser)]
#[command(
    name = "polystore",
    version,
    about = "Makes a directory in which every program writes files safely, unchanged",
    long_about = "Makes a directory in which every program writes files safely, unchanged.\n\n\
        A file that is being written in the mount is seen by others in its old version until \
        the writer closes it; then the new version appears in one step. A writer that is killed \
        changes nothing.",
    after_help = "Example:\n  \
        polystore mount --daemon ./data ./safe\n  \
        sort ./safe/names.txt > ./safe/names.txt\n  \
        polystore unmount ./safe",
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Mount(MountArgs),
    Unmount(UnmountArgs),
    Status(StatusArgs),
    Lock(LockArgs),
    Write(WriteArgs),
    Update(UpdateArgs),
    Publish(PublishArgs),
    Salvage(SalvageArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  \
        polystore completions bash > ~/.local/share/bash-completion/completions/polystore")]
    Completions {
        /// The shell to write it for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[command(
    about = "Mount a directory so that programs write safely in it",
    long_about = "Mount the directory DATA at MOUNTPOINT, so that programs write safely there.\n\n\
        With one directory, mount it over itself: its files are then reached through polystore \
        only, until it is unmounted.\n\n\
        DATA stays an ordinary directory, readable without polystore. Runs in the foreground \
        until it is unmounted or gets SIGINT, SIGTERM or SIGHUP; a second signal ends it at once. \
        A MOUNTPOINT that does not exist is made, and stays; one that a dead mount was left on \
        is cleared first.",
    after_help = "Examples:\n  \
        polystore mount ./data ./safe               until Ctrl-C, or `polystore unmount ./safe`\n  \
        polystore mount --daemon ./data ./safe      returns as soon as ./safe can be used\n  \
        polystore mount --direct 'pgdata/' ~/work   over itself, ~/work/pgdata written in place"
)]
pub struct MountArgs {
    /// The directory that holds the files
    #[arg(value_name = "DATA")]
    pub data: PathBuf,

    /// Where programs are to find them: an empty directory, or DATA itself [default: DATA]
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: Option<PathBuf>,

    /// Return once the mount can be used, and serve it in the background
    #[arg(short, long)]
    pub daemon: bool,

    /// What a power cut may do to a file that was closed
    #[arg(long, value_enum, default_value_t = Durability::Ordered, value_name = "LEVEL")]
    pub durability: Durability,

    /// Write files that match PATTERN in place, as without polystore (repeatable)
    ///
    /// The pattern is one line of a .gitignore file, relative to DATA: `*.db`, `pgdata/`.
    /// It adds to the defaults: *.log, nohup.out, *.pid, .*.sw[a-p]
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new())]
    pub direct: Vec<String>,

    /// Leave out the default patterns of --direct
    #[arg(long)]
    pub no_default_direct: bool,

    /// Have the writers of files that match PATTERN take turns (repeatable)
    ///
    /// Whoever opens such a file for writing waits until nobody else has it open for writing. The
    /// pattern is one line of a .gitignore file, relative to DATA; `!node_modules/**` takes files out.
    /// It adds to the defaults: *.lock, *.json
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new())]
    pub turns: Vec<String>,

    /// Leave out the default patterns of --turns
    #[arg(long)]
    pub no_default_turns: bool,

    /// How long opening a .lock file waits for its turn: 10, 0.5, 500ms, 2m [default: for ever]
    ///
    /// Then open() fails with ETIMEDOUT. Other turn-taking files wait 30 seconds.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub lock_timeout: Option<Duration>,

    /// How long the mount may answer nobody before it is ended, with an error for all who wait: 90, 2m; 0 for ever
    ///
    /// It waits for the disk of DATA where that hangs; the log says so after 10 seconds.
    #[arg(long, value_name = "TIME", default_value = WATCHDOG_DEFAULT, value_parser = parse_time)]
    pub watchdog: Duration,

    /// How much to keep of what was written but never became a version: 500M, 1G; 0 keeps nothing
    #[arg(long, value_name = "SIZE", default_value = SALVAGE_DEFAULT, value_parser = parse_size)]
    pub salvage: u64,

    /// Let other users into the mount, with the rights they have in DATA
    #[arg(long)]
    pub allow_other: bool,

    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,

    /// What to report on standard error, or in --log-file
    #[arg(long, value_enum, default_value_t = LogLevel::Warn, value_name = "LEVEL")]
    pub log: LogLevel,

    /// Append the log to FILE; with --daemon and without this, nothing is logged once it runs
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    about = "Unmount, and wait until everything that was being published is in place",
    long_about = "Unmount, and wait until everything that was being published is in place.\n\n\
        Fails if a program still uses the mount, and says which. An ordinary user can unmount \
        his own mounts.",
    after_help = "Example:\n  polystore unmount ./safe"
)]
pub struct UnmountArgs {
    /// The directory that `polystore mount` was given
    pub mountpoint: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    about = "List, restore and remove what was written but never became a version",
    long_about = "List, restore and remove what was written but never became a version: drafts of writers \
        that were killed, and drafts that could not be written to the end.\n\n\
        It is kept in DATA/.polystore/salvage, up to the size that `polystore mount --salvage` \
        was given.",
    after_help = "Example:\n  polystore salvage list ./safe\n  \
        polystore salvage restore ./safe ID --to rescued.txt\n  \
        polystore salvage purge ./safe --older-than 7d"
)]
pub struct SalvageArgs {
    #[command(subcommand)]
    pub command: SalvageCommand,
}

#[derive(Debug, Subcommand)]
pub enum SalvageCommand {
    /// Show what is kept, with the ID that `restore` wants
    List {
        /// The data directory, or where it is mounted
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Print a JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Put one of them back as a file
    Restore {
        /// The data directory, or where it is mounted
        dir: PathBuf,
        /// Which one: an ID that `polystore salvage list` shows
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// Restore to FILE instead of the place it was written for
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Replace a file that is there already
        #[arg(long)]
        force: bool,
    },
    /// Remove some or all of them
    #[command(after_help = "Examples:\n  \
        polystore salvage purge ./safe ID\n  \
        polystore salvage purge ./safe --older-than 7d")]
    Purge(PurgeArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Nothing is waited for; a power cut may tear files
    None,
    /// After a power cut each file is whole, old or new
    Ordered,
    /// close() returns when the new version is on the disk
    Full,
}

impl From<Durability> for polystore::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::None => polystore::Durability::None,
            Durability::Ordered => polystore::Durability::Ordered,
            Durability::Full => polystore::Durability::Full,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => log::LevelFilter::Off,
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}

/// Reads a number of bytes: digits, and K, M, G or T (powers of 1024), optionally as KiB, MiB ...
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err("expected a number of bytes, such as 0, 4096, 500M or 1G".into());
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => {
            return Err(format!(
                "unknown unit '{unit}': use K, M, G or T (powers of 1024)"
            ));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "too large".into())
}

/// Reads a time: seconds, or a number with ms, s, m or h. Fractions are allowed.
fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unknown unit '{unit}': use ms, s, m or h")),
    };
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = number.parse::<f64>().ok().filter(|_| plain);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds * unit).ok())
        .ok_or_else(|| "expected a time, such as 10, 0.5 or 2m".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn mount(args: &[&str]) -> Result<MountArgs, clap::Error> {
        let line = ["polystore", "mount"].iter().chain(args);
        match Cli::try_parse_from(line)?.command {
            Command::Mount(args) => Ok(args),
            other => panic!("not a mount: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("3k"), Ok(3 << 10));
        assert_eq!(parse_size("500M"), Ok(500 << 20));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("2TiB"), Ok(2 << 40));
        for bad in [
            "", "M", "-1", "+1", "1.5G", "1KB", "1 G", "1GG", " 1", "0x10", "١",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        assert!(parse_size("16777216T").is_err());
        assert!(parse_size("18446744073709551616").is_err());
    }

    #[test]
    fn times() {
        let millis = |text| parse_time(text).map(|time| time.as_millis());
        assert_eq!(millis("0"), Ok(0));
        assert_eq!(millis("10"), Ok(10_000));
        assert_eq!(millis("0.5"), Ok(500));
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("2m"), Ok(120_000));
        assert_eq!(millis("1h"), Ok(3_600_000));
        for bad in [
            "", "s", "-1", "+1", "1e3", "inf", "nan", "1d", "1 s", "1.2.3", "1M", "9e99h",
        ] {
            assert!(parse_time(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(parse_time(&"9".repeat(40)).is_err());
    }

    #[test]
    fn mount_defaults() {
        let args = mount(&["data"]).unwrap();
        assert_eq!(args.mountpoint, None);
        assert_eq!(args.salvage, 1 << 30);
        assert_eq!(args.durability, Durability::Ordered);
        assert_eq!(args.log, LogLevel::Warn);
        assert!(!args.daemon && !args.allow_other && !args.read_only && !args.no_default_direct);
    }

    #[test]
    fn mount_options_anywhere() {
        let args = mount(&[
            "data",
            "-d",
            "--direct",
            "*.db",
            "safe",
            "--direct=pgdata/",
            "--durability",
            "full",
        ])
        .unwrap();
        assert_eq!(args.mountpoint, Some("safe".into()));
        assert_eq!(args.direct, ["*.db", "pgdata/"]);
        assert_eq!(args.durability, Durability::Full);
        assert!(args.daemon);
    }

    #[test]
    fn mount_refuses() {
        for bad in [
            &["data", "safe", "third"][..],
            &[],
            &["data", "--durability", "some"],
            &["data", "--salvage", "lots"],
            &["data", "--direct", ""],
            &["data", "--log", "loud"],
            &["", "safe"],
            &["data", ""],
        ] {
            assert!(mount(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
