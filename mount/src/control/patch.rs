//! Lists of operations (RFC 6902) on the parts of a document (RFC 6901).
//!
//! Own code, because the crates that do this move the last member to where one was taken away, and
//! compare numbers as floats.

use std::cell::Cell;
use std::fmt;

use serde_json::{Map, Number, Value};

use super::change::{too_deep, too_long};
use super::error::{Code, ControlError, shown};
use super::json::{depth, same_number, same_value};
use super::{MAX_DOCUMENT, MAX_DOCUMENT_DEPTH};

/// How many values a patch may move, or digits compare: some seconds of work. Without it, one of
/// 4 MiB could keep a core for days.
const MAX_MOVES: usize = 1 << 30;

/// A list of operations, done all or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    operations: Vec<Operation>,
}

#[derive(Clone, Debug, PartialEq)]
struct Operation {
    action: Action,
    path: Pointer,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Add(Value),
    Remove,
    Replace(Value),
    Move(Pointer),
    Copy(Pointer),
    Test(Value),
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Action::Add(_) => "add",
            Action::Remove => "remove",
            Action::Replace(_) => "replace",
            Action::Move(_) => "move",
            Action::Copy(_) => "copy",
            Action::Test(_) => "test",
        }
    }
}

/// Names and positions that lead to a part of a document; none for all of it.
#[derive(Clone, Debug, PartialEq)]
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Result<Pointer, ControlError> {
        let Some(rest) = text.strip_prefix('/') else {
            return match text.is_empty() {
                true => Ok(Pointer(Vec::new())),
                false => Err(ControlError::invalid("a pointer begins with `/`")),
            };
        };
        rest.split('/')
            .map(unescaped)
            .collect::<Result<_, _>>()
            .map(Pointer)
    }

    fn is_in(&self, whole: &Pointer) -> bool {
        self.0.starts_with(&whole.0)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.0 {
            write!(
                formatter,
                "/{}",
                token.replace('~', "~0").replace('/', "~1")
            )?;
        }
        Ok(())
    }
}

fn unescaped(token: &str) -> Result<String, ControlError> {
    let mut parts = token.split('~');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (_, Some(rest)) => ('/', rest),
            _ => {
                return Err(ControlError::invalid(
                    "`~` in a pointer is followed by 0 or 1",
                ));
            }
        };
        whole.push(character);
        whole.push_str(rest);
    }
    Ok(whole)
}

impl Patch {
    /// The patch that `value` is.
    ///
    /// # Errors
    /// EINVAL if it is none; the message has the number of the operation, counted from 0.
    pub fn parse(value: Value) -> Result<Patch, ControlError> {
        let Value::Array(entries) = value else {
            return Err(ControlError::invalid("a patch is a list of operations"));
        };
        let operations = entries.into_iter().enumerate().map(|(index, entry)| {
            operation(entry).map_err(|error| error.about(format_args!("operation {index}")))
        });
        Ok(Patch {
            operations: operations.collect::<Result<_, _>>()?,
        })
    }

    /// Whether it has operations that make a document more than it and the patch are.
    pub fn copies(&self) -> bool {
        let copies = |operation: &Operation| matches!(operation.action, Action::Copy(_));
        self.operations.iter().any(copies)
    }

    /// What becomes of `document`.
    ///
    /// # Errors
    /// ENOMSG for a `test` that failed, EINVAL for an operation that cannot be done, EMSGSIZE if
    /// the document becomes too large or too deep or the patch is too much work. The message has
    /// the number of the operation, counted from 0, and its path.
    pub fn apply(&self, document: Value) -> Result<Value, ControlError> {
        let mut work = Work {
            document,
            moves: MAX_MOVES,
            copied: 0,
        };
        for (index, operation) in self.operations.iter().enumerate() {
            work.perform(operation).map_err(|error| {
                let path = shown(&operation.path.to_string());
                error.about(format_args!(
                    "operation {index}, {} {path}",
                    operation.action.name()
                ))
            })?;
        }
        Ok(work.document)
    }
}

fn operation(entry: Value) -> Result<Operation, ControlError> {
    let Value::Object(mut members) = entry else {
        return Err(ControlError::invalid("it is not an object"));
    };
    let name = text(&members, "op")?.to_owned();
    let action = match name.as_str() {
        "add" => Action::Add(value(&mut members)?),
        "remove" => Action::Remove,
        "replace" => Action::Replace(value(&mut members)?),
        "move" => Action::Move(Pointer::parse(text(&members, "from")?)?),
        "copy" => Action::Copy(Pointer::parse(text(&members, "from")?)?),
        "test" => Action::Test(value(&mut members)?),
        _ => {
            return Err(ControlError::invalid(format!(
                "no operation {}",
                shown(&name)
            )));
        }
    };
    // Members that have no meaning for an operation are ignored (RFC 6902, section 4).
    let path = Pointer::parse(text(&members, "path")?)?;
    Ok(Operation { action, path })
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, ControlError> {
    let found = members.get(name).and_then(Value::as_str);
    found.ok_or_else(|| ControlError::invalid(format!("`{name}` has to be a string")))
}

fn value(members: &mut Map<String, Value>) -> Result<Value, ControlError> {
    let found = members.get_mut("value").map(Value::take);
    found.ok_or_else(|| ControlError::invalid("`value` is missing"))
}

/// A document while it is patched.
struct Work {
    document: Value,
    /// How many values may still be moved, or digits compared.
    moves: usize,
    /// What copies have added, by [`weight`].
    copied: usize,
}

impl Work {
    fn perform(&mut self, operation: &Operation) -> Result<(), ControlError> {
        let path = &operation.path;
        match &operation.action {
            Action::Add(value) => self.add(path, value.clone()),
            Action::Remove => self.remove(path).map(drop),
            Action::Replace(value) => self.replace(path, value.clone()),
            Action::Move(from) => self.relocate(from, path),
            Action::Copy(from) => self.copy(from, path),
            Action::Test(value) => self.test(path, value),
        }
    }

    fn add(&mut self, path: &Pointer, value: Value) -> Result<(), ControlError> {
        if path.0.len() + depth(&value) > MAX_DOCUMENT_DEPTH {
            return Err(too_deep());
        }
        let Some((last, parent)) = path.0.split_last() else {
            self.document = value;
            return Ok(());
        };
        match find_mut(&mut self.document, parent)? {
            Value::Object(members) => {
                members.insert(last.clone(), value);
            }
            Value::Array(items) => {
                let at = match last.as_str() {
                    "-" => items.len(),
                    _ => position(last, items.len())?,
                };
                spend(&mut self.moves, items.len() - at)?;
                items.insert(at, value);
            }
            _ => return Err(no_such(last)),
        }
        Ok(())
    }

    fn remove(&mut self, path: &Pointer) -> Result<Value, ControlError> {
        let Some((last, parent)) = path.0.split_last() else {
            return Err(ControlError::invalid(
                "the whole document cannot be removed",
            ));
        };
        match find_mut(&mut self.document, parent)? {
            Value::Object(members) => {
                spend(&mut self.moves, members.len())?;
                // Not `remove`, which would change the order of the others.
                members.shift_remove(last).ok_or_else(|| no_such(last))
            }
            Value::Array(items) => {
                let at = index(last, items)?;
                spend(&mut self.moves, items.len() - at)?;
                Ok(items.remove(at))
            }
            _ => Err(no_such(last)),
        }
    }

    fn replace(&mut self, path: &Pointer, value: Value) -> Result<(), ControlError> {
        if path.0.len() + depth(&value) > MAX_DOCUMENT_DEPTH {
            return Err(too_deep());
        }
        *find_mut(&mut self.document, &path.0)? = value;
        Ok(())
    }

    fn relocate(&mut self, from: &Pointer, path: &Pointer) -> Result<(), ControlError> {
        if path == from {
            return find(&self.document, &path.0).map(drop);
        }
        if path.is_in(from) {
            return Err(ControlError::invalid("a value cannot be moved into itself"));
        }
        let value = self.remove(from)?;
        // `add` looks how deep it is.
        spend(&mut self.moves, count(&value))?;
        self.add(path, value)
    }

    fn copy(&mut self, from: &Pointer, path: &Pointer) -> Result<(), ControlError> {
        let value = find(&self.document, &from.0)?;
        // Each copy of the whole into itself doubles it.
        self.copied = self.copied.saturating_add(weight(value));
        if self.copied > MAX_DOCUMENT {
            return Err(too_long());
        }
        let value = value.clone();
        self.add(path, value)
    }

    fn test(&mut self, path: &Pointer, value: &Value) -> Result<(), ControlError> {
        let failed = |what: &str| Err(ControlError::new(Code::NoMessage, what));
        let Ok(found) = find(&self.document, &path.0) else {
            return failed("there is no such value");
        };
        // A number may be most of the document, and be looked at by each test.
        let digits = Cell::new(0usize);
        let same = |left: &Number, right: &Number| {
            digits.set(digits.get() + left.as_str().len() + right.as_str().len());
            same_number(left, right)
        };
        let is_same = same_value(found, value, &same);
        spend(&mut self.moves, digits.get())?;
        match is_same {
            true => Ok(()),
            false => failed("the value is another"),
        }
    }
}

fn spend(moves: &mut usize, cost: usize) -> Result<(), ControlError> {
    *moves = moves
        .checked_sub(cost)
        .ok_or_else(|| ControlError::too_large("the patch is too much work on a large document"))?;
    Ok(())
}

fn no_such(token: &str) -> ControlError {
    ControlError::invalid(format!("there is no {}", shown(token)))
}

/// The position that `token` is, up to `limit`: digits without a zero in front.
fn position(token: &str, limit: usize) -> Result<usize, ControlError> {
    let plain = token.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (token == "0" || !token.starts_with('0'));
    let position = token.parse().ok().filter(|_| plain);
    position
        .filter(|at| *at <= limit)
        .ok_or_else(|| no_such(token))
}

/// The position of something in `items`.
fn index(token: &str, items: &[Value]) -> Result<usize, ControlError> {
    let last = items.len().checked_sub(1).ok_or_else(|| no_such(token))?;
    position(token, last)
}

fn find<'a>(document: &'a Value, tokens: &[String]) -> Result<&'a Value, ControlError> {
    tokens
        .iter()
        .try_fold(document, |value, token| match value {
            Value::Object(members) => members.get(token).ok_or_else(|| no_such(token)),
            Value::Array(items) => index(token, items).map(|at| &items[at]),
            _ => Err(no_such(token)),
        })
}

fn find_mut<'a>(document: &'a mut Value, tokens: &[String]) -> Result<&'a mut Value, ControlError> {
    tokens
        .iter()
        .try_fold(document, |value, token| match value {
            Value::Object(members) => members.get_mut(token).ok_or_else(|| no_such(token)),
            Value::Array(items) => index(token, items).map(|at| &mut items[at]),
            _ => Err(no_such(token)),
        })
}

/// How many values there are in `value`.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// What a copy of `value` counts as, in bytes: about its text, and never less than a fraction of
/// what the value takes in memory, since `0` is short in the former only.
fn weight(value: &Value) -> usize {
    const VALUE: usize = 16;
    match value {
        Value::Null | Value::Bool(_) => VALUE,
        Value::Number(number) => VALUE + number.as_str().len(),
        Value::String(string) => VALUE + string.len(),
        Value::Array(items) => VALUE + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| name.len() + weight(value);
            VALUE + members.iter().map(member).sum::<usize>()
        }
    }
}
