//! Requests, checked.

use std::time::Duration;

use serde_json::{Map, Value};

use super::change::Change;
use super::error::{Code, ControlError, shown};
use super::json::{JsonError, parse};
use super::patch::Patch;
use super::path::ControlPath;
use super::{DEFAULT_TIMEOUT, MAX_REQUEST, MAX_REQUEST_DEPTH, MAX_TIMEOUT, VERSION};

/// What a client asks for; `CONTROL.md` says what each means.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Takes the turn, changes the document, and ends the turn.
    Update {
        /// The document.
        path: ControlPath,
        /// A merge or a patch.
        change: Change,
        /// What to start from where there is no document.
        default: Option<Value>,
        /// How long to wait for the turn; zero tries once.
        timeout: Duration,
        /// Whether the reply has the new value.
        returns: bool,
    },
    /// Takes the turn.
    Begin {
        /// The document.
        path: ControlPath,
        /// What to start from where there is no document.
        default: Option<Value>,
        /// How long to wait for the turn; zero tries once.
        timeout: Duration,
    },
    /// Publishes a change, and ends the turn.
    Commit {
        /// How the document follows from what `begin` found.
        change: Change,
        /// Whether the reply has the new value.
        returns: bool,
    },
    /// Ends the turn.
    Abort,
    /// Publishes the draft of a file.
    Publish {
        /// The file.
        path: ControlPath,
    },
    /// Ends all turns and locks at a file.
    Break {
        /// The file.
        path: ControlPath,
    },
    /// Lists turns and locks.
    Locks,
    /// Lists drafts.
    Drafts,
    /// Lists failures that close() could not report.
    Failures,
    /// Lists what is in salvage.
    Salvage,
    /// Counts.
    Stats,
    /// All lists and counts.
    Status,
}

/// The request that `text` is.
///
/// # Errors
/// EINVAL for what is not one, EPROTONOSUPPORT for a version other than [`VERSION`], EMSGSIZE for
/// what is longer than [`MAX_REQUEST`] or deeper than [`MAX_REQUEST_DEPTH`].
pub fn parse_request(text: &[u8]) -> Result<Request, ControlError> {
    if text.len() > MAX_REQUEST {
        return Err(ControlError::too_large("a request of more than 4 MiB"));
    }
    let value = parse(text, MAX_REQUEST_DEPTH).map_err(|error| match error {
        JsonError::TooDeep => ControlError::too_large("a request nested deeper than 64"),
        error => ControlError::invalid(format!("not a request: {error}")),
    })?;
    let Value::Object(members) = value else {
        return Err(ControlError::invalid("a request is a JSON object"));
    };
    let mut members = Members(members);
    // Before anything else: another version may have other operations and members.
    members.version()?;
    let op = members.required("op", Members::string)?;
    let request = request(&op, &mut members)?;
    members.finish(&op)?;
    Ok(request)
}

fn request(op: &str, members: &mut Members) -> Result<Request, ControlError> {
    Ok(match op {
        "update" => Request::Update {
            path: members.path()?,
            change: members.change(&["merge", "patch"])?,
            default: members.take("default"),
            timeout: members.timeout()?,
            returns: members.flag("return")?,
        },
        "begin" => Request::Begin {
            path: members.path()?,
            default: members.take("default"),
            timeout: members.timeout()?,
        },
        "commit" => Request::Commit {
            change: members.change(&["value", "merge", "patch"])?,
            returns: members.flag("return")?,
        },
        "abort" => Request::Abort,
        "publish" => Request::Publish {
            path: members.path()?,
        },
        "break" => Request::Break {
            path: members.path()?,
        },
        "locks" => Request::Locks,
        "drafts" => Request::Drafts,
        "failures" => Request::Failures,
        "salvage" => Request::Salvage,
        "stats" => Request::Stats,
        "status" => Request::Status,
        _ => return Err(ControlError::invalid(format!("no op {}", shown(op)))),
    })
}

/// The members of a request that have not been looked at. They are taken out by hand, not by
/// serde: a null is a value here, and values keep the digits of their numbers.
struct Members(Map<String, Value>);

impl Members {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    fn required<T>(
        &mut self,
        name: &str,
        take: impl Fn(&mut Members, &str) -> Result<Option<T>, ControlError>,
    ) -> Result<T, ControlError> {
        take(self, name)?.ok_or_else(|| ControlError::invalid(format!("`{name}` is missing")))
    }

    fn string(&mut self, name: &str) -> Result<Option<String>, ControlError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(string)) => Ok(Some(string)),
            Some(_) => Err(ControlError::invalid(format!(
                "`{name}` has to be a string"
            ))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, ControlError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(ControlError::invalid(format!(
                "`{name}` has to be true or false"
            ))),
        }
    }

    fn path(&mut self) -> Result<ControlPath, ControlError> {
        self.required("path", Members::string)
            .and_then(ControlPath::new)
    }

    fn version(&mut self) -> Result<(), ControlError> {
        match self.take("version") {
            None => Ok(()),
            Some(Value::Number(number)) if number.as_u64() == Some(VERSION) => Ok(()),
            Some(Value::Number(_)) => {
                let message = format!("the version spoken here is {VERSION}");
                Err(ControlError::new(Code::Version, message))
            }
            Some(_) => Err(ControlError::invalid("`version` has to be a number")),
        }
    }

    fn timeout(&mut self) -> Result<Duration, ControlError> {
        let Some(value) = self.take("timeout") else {
            return Ok(DEFAULT_TIMEOUT);
        };
        let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
        let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        timeout
            .filter(|timeout| *timeout <= MAX_TIMEOUT)
            .ok_or_else(|| {
                let most = MAX_TIMEOUT.as_secs();
                ControlError::invalid(format!("`timeout` has to be a number from 0 to {most}"))
            })
    }

    /// The one of `names` that is there.
    fn change(&mut self, names: &[&str]) -> Result<Change, ControlError> {
        let given: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| self.0.contains_key(*name))
            .collect();
        let one = || ControlError::invalid(format!("one of `{}` is needed", names.join("`, `")));
        let [name] = given[..] else {
            return Err(one());
        };
        let value = self.take(name).ok_or_else(one)?;
        match name {
            "merge" => Ok(Change::Merge(value)),
            "patch" => match Patch::parse(value) {
                Ok(patch) => Ok(Change::Patch(patch)),
                Err(error) => Err(error.about("patch")),
            },
            _ => Ok(Change::Value(value)),
        }
    }

    /// Refuses what is left.
    fn finish(self, op: &str) -> Result<(), ControlError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ControlError::invalid(format!(
                "`{op}` has no member {}",
                shown(name)
            ))),
        }
    }
}
