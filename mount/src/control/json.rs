//! JSON text as values, without loss.
//!
//! serde_json's own way to a `Value` loses what must not be lost here: it takes the last of several
//! members of a name, writes `1E5` as `1e+5`, and takes an object whose only member has a
//! certain name for a number. So the text is read here, strictly as RFC 8259 has it.

use std::fmt;

use serde_json::{Map, Number, Value};

use super::error::shown;

/// Why a text is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// It is not JSON, or has a name twice in an object: where, and why.
    Syntax {
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
    /// Objects and arrays are inside one another deeper than was asked for.
    TooDeep,
}

impl fmt::Display for JsonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonError::Syntax {
                line,
                column,
                problem,
            } => write!(formatter, "{problem} at line {line}, column {column}"),
            JsonError::TooDeep => formatter.write_str("nested too deeply"),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads one value, white space around it allowed, in which `depth` objects and arrays at most are
/// inside one another.
///
/// Members keep their order and numbers their digits.
///
/// # Errors
/// Text that is not UTF-8, not JSON, has members of the same name twice in an object, a string that
/// is not Unicode (half of a surrogate pair), or is deeper than `depth`.
pub fn parse(text: &[u8], depth: usize) -> Result<Value, JsonError> {
    let whole = match std::str::from_utf8(text) {
        Ok(whole) => whole,
        Err(error) => return Err(syntax(text, error.valid_up_to(), "not UTF-8".to_owned())),
    };
    let mut parser = Parser {
        cursor: Cursor::new(whole.as_bytes(), 0),
        text: whole,
    };
    match parser.whole(depth) {
        Ok(value) => Ok(value),
        Err(Stop::TooDeep) => Err(JsonError::TooDeep),
        Err(Stop::Wrong(problem)) => Err(syntax(text, parser.cursor.at, problem)),
    }
}

fn syntax(text: &[u8], at: usize, problem: String) -> JsonError {
    let before = &text[..at.min(text.len())];
    let start = before.iter().rposition(|byte| *byte == b'\n');
    JsonError::Syntax {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        column: 1 + before.len() - start.map_or(0, |newline| newline + 1),
        problem,
    }
}

/// The white space of JSON.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A place in a text, and steps over what is there. The steps take the text to be valid: over
/// another they end somewhere in it.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { text, at }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Steps over `byte`, if it is next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn run(&mut self, wanted: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| wanted(**byte)).count();
        self.at += length;
        length
    }

    /// Steps over white space.
    pub(super) fn space(&mut self) {
        self.run(is_space);
    }

    /// Steps over a string, which is next.
    pub(super) fn string(&mut self) {
        self.at += 1;
        loop {
            self.run(|byte| byte != b'"' && byte != b'\\');
            match self.peek() {
                Some(b'\\') => self.at += 2,
                _ => break self.at += 1,
            }
        }
    }

    /// Steps over a value, which is next.
    pub(super) fn value(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => self.string(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                _ if is_space(byte) => self.space(),
                _ => {
                    self.run(|byte| !is_space(byte) && !b",:]}\"".contains(&byte));
                }
            }
            if depth == 0 {
                return;
            }
        }
    }
}

/// Why the parser does not go on.
enum Stop {
    Wrong(String),
    TooDeep,
}

impl Stop {
    fn wrong(problem: &str) -> Stop {
        Stop::Wrong(problem.to_owned())
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    text: &'a str,
}

impl Parser<'_> {
    fn whole(&mut self, depth: usize) -> Result<Value, Stop> {
        self.cursor.space();
        let value = self.value(depth)?;
        self.cursor.space();
        match self.cursor.peek() {
            None => Ok(value),
            Some(_) => Err(Stop::wrong("something follows the value")),
        }
    }

    /// A value in which there may be `depth` levels.
    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        match self.cursor.peek() {
            Some(b'{') => self.object(depth.checked_sub(1).ok_or(Stop::TooDeep)?),
            Some(b'[') => self.array(depth.checked_sub(1).ok_or(Stop::TooDeep)?),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(Stop::wrong("a value is expected")),
            None => Err(Stop::wrong("the text ends too early")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut members = Map::new();
        self.cursor.at += 1;
        self.cursor.space();
        if self.cursor.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            if self.cursor.peek() != Some(b'"') {
                return Err(Stop::wrong("a name in double quotes is expected"));
            }
            let start = self.cursor.at;
            let name = self.string()?;
            if members.contains_key(&name) {
                self.cursor.at = start;
                return Err(Stop::Wrong(format!("a second member {}", shown(&name))));
            }
            self.cursor.space();
            if !self.cursor.take(b':') {
                return Err(Stop::wrong("`:` is expected"));
            }
            self.cursor.space();
            members.insert(name, self.value(depth)?);
            if !self.goes_on(b'}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut items = Vec::new();
        self.cursor.at += 1;
        self.cursor.space();
        if self.cursor.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            if !self.goes_on(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    /// Whether another entry follows; if not, the end is stepped over.
    fn goes_on(&mut self, end: u8) -> Result<bool, Stop> {
        self.cursor.space();
        if self.cursor.take(end) {
            return Ok(false);
        }
        if !self.cursor.take(b',') {
            return Err(Stop::Wrong(format!(
                "`,` or `{}` is expected",
                char::from(end)
            )));
        }
        self.cursor.space();
        Ok(true)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Stop> {
        if !self.text[self.cursor.at..].starts_with(word) {
            return Err(Stop::wrong("a value is expected"));
        }
        self.cursor.at += word.len();
        Ok(value)
    }

    fn string(&mut self) -> Result<String, Stop> {
        let start = self.cursor.at;
        self.cursor.string();
        let Some(quoted) = self.text.get(start..self.cursor.at) else {
            self.cursor.at = self.text.len();
            return Err(Stop::wrong("a string without end"));
        };
        let inside = quoted.get(1..quoted.len() - 1).unwrap_or_default();
        if !inside.bytes().any(|byte| byte == b'\\' || byte < b' ') {
            return Ok(inside.to_owned());
        }
        // Escapes, or what is not allowed in a string.
        serde_json::from_str(quoted).map_err(|_| {
            self.cursor.at = start;
            Stop::wrong("a string with an invalid escape or control character")
        })
    }

    fn number(&mut self) -> Result<Number, Stop> {
        let start = self.cursor.at;
        let digits = |byte: u8| byte.is_ascii_digit();
        self.cursor.take(b'-');
        if !self.cursor.take(b'0') && self.cursor.run(digits) == 0 {
            return Err(Stop::wrong("a digit is expected"));
        }
        if self.cursor.take(b'.') && self.cursor.run(digits) == 0 {
            return Err(Stop::wrong("a digit is expected"));
        }
        if self.cursor.take(b'e') || self.cursor.take(b'E') {
            let _ = self.cursor.take(b'+') || self.cursor.take(b'-');
            if self.cursor.run(digits) == 0 {
                return Err(Stop::wrong("a digit is expected"));
            }
        }
        // Not through `parse()`, which writes exponents its own way.
        let text = self.text[start..self.cursor.at].to_owned();
        Ok(Number::from_string_unchecked(text))
    }
}

/// A number apart from how it is written: `digits` × 10^`exponent`, digits without zeros at either
/// end.
#[derive(PartialEq, Eq)]
struct Decimal<'a> {
    negative: bool,
    digits: Vec<u8>,
    exponent: i128,
    /// An exponent that is too long to count with.
    far: &'a str,
}

impl Decimal<'_> {
    fn new(number: &Number) -> Decimal<'_> {
        let text = number.as_str();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole.as_bytes(), fraction.as_bytes()].concat();
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let trailing = all.iter().rev().take_while(|digit| **digit == b'0').count();
        if leading == all.len() {
            return Decimal {
                negative: false,
                digits: Vec::new(),
                exponent: 0,
                far: "",
            };
        }
        let scale = trailing as i128 - fraction.len() as i128;
        let (exponent, far) = match exponent.parse::<i128>() {
            Ok(exponent) if exponent.unsigned_abs() < 1 << 100 => (exponent + scale, ""),
            // That many zeros are in no text: only what is written alike is compared as equal.
            _ => (scale, exponent.trim_start_matches('+')),
        };
        let digits = all[leading..all.len() - trailing].to_vec();
        Decimal {
            negative,
            digits,
            exponent,
            far,
        }
    }
}

/// Whether two numbers are the same, whatever their form: `1`, `1.0` and `10e-1` are. Nothing is
/// rounded.
pub fn same_number(left: &Number, right: &Number) -> bool {
    left.as_str() == right.as_str() || Decimal::new(left) == Decimal::new(right)
}

/// Whether two numbers are the same and of the same sort, an integer or not: `1.10` and `1.1`
/// are, `1` and `1.0` are not, since many languages tell them apart.
pub fn same_number_and_sort(left: &Number, right: &Number) -> bool {
    let sort = |number: &Number| {
        let text = number.as_str();
        (text.starts_with('-'), text.contains(['.', 'e', 'E']))
    };
    left.as_str() == right.as_str() || (sort(left) == sort(right) && same_number(left, right))
}

/// Whether two values are the same, if `numbers` says so of their numbers. The order of members
/// does not matter.
pub fn same_value(left: &Value, right: &Value, numbers: &dyn Fn(&Number, &Number) -> bool) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => numbers(left, right),
        (Value::Array(left), Value::Array(right)) => {
            let mut pairs = left.iter().zip(right);
            left.len() == right.len() && pairs.all(|(l, r)| same_value(l, r, numbers))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| {
                    let other = right.get(name);
                    other.is_some_and(|other| same_value(value, other, numbers))
                })
        }
        _ => left == right,
    }
}

/// How many objects and arrays are inside one another in `value`, itself counted.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
