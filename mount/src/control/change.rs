//! What a request does to a document.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::error::{Code, ControlError};
use super::json::depth;
use super::patch::Patch;
use super::{MAX_DOCUMENT, MAX_DOCUMENT_DEPTH};

/// How the new document follows from the one that is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// By a merge patch (RFC 7396).
    Merge(Value),
    /// By a list of operations (RFC 6902).
    Patch(Patch),
    /// It is this.
    Value(Value),
}

/// The document that `change` makes of `current`, or, where there is none, of `default`.
///
/// Members keep their order; new ones come last.
///
/// # Errors
/// ENOENT for a patch without anything to patch, ENOMSG for an operation `test` that failed, EINVAL
/// for one that cannot be applied, EMSGSIZE for what becomes too large or too deep.
pub fn apply(
    current: Option<&Value>,
    default: Option<&Value>,
    change: &Change,
) -> Result<Value, ControlError> {
    let base = current.or(default);
    let result = match (change, base) {
        (Change::Value(value), _) => value.clone(),
        (Change::Merge(merge), base) => merged(base.cloned().unwrap_or(Value::Null), merge),
        (Change::Patch(patch), Some(base)) => patch.apply(base.clone())?,
        (Change::Patch(_), None) => {
            return Err(ControlError::new(Code::NoEntry, "no document to patch"));
        }
    };
    match depth(&result) <= MAX_DOCUMENT_DEPTH {
        true => Ok(result),
        false => Err(too_deep()),
    }
}

/// RFC 7396, with names that are taken away found in one pass: one by one, each would move all
/// that follow.
pub(super) fn merged(target: Value, merge: &Value) -> Value {
    let Value::Object(merge) = merge else {
        return merge.clone();
    };
    let mut members = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let gone = merge.iter().filter(|(_, value)| value.is_null());
    let gone: HashSet<&String> = gone.map(|(name, _)| name).collect();
    if !gone.is_empty() {
        members.retain(|name, _| !gone.contains(name));
    }
    for (name, value) in merge {
        if value.is_null() {
            continue;
        }
        match members.get_mut(name) {
            Some(member) => *member = merged(member.take(), value),
            None => {
                members.insert(name.clone(), merged(Value::Null, value));
            }
        }
    }
    Value::Object(members)
}

pub(super) fn too_deep() -> ControlError {
    ControlError::too_large(format!(
        "a document nested deeper than {MAX_DOCUMENT_DEPTH}"
    ))
}

pub(super) fn too_long() -> ControlError {
    ControlError::too_large(format!(
        "a document of more than {} MiB",
        MAX_DOCUMENT >> 20
    ))
}
