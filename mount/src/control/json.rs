//! JSON text as values, without loss.
//!
//! serde_json's own way to a `Value` loses what must not be lost here: it takes the last of several
//! members of a name, writes `1E5` as `1e+5`, and takes an object whose only member has a
//! certain name for a number. So the text is read here, strictly as RFC 8259 has it.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

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
    read(text, |parser| parser.value(depth))
}

/// Whether [`parse`] would take `text`, without making a value of it: this takes little more memory than the
/// longest string in it and a few bytes for each name.
///
/// # Errors
/// Those of [`parse`].
pub fn check(text: &[u8], depth: usize) -> Result<(), JsonError> {
    read(text, |parser| parser.skip(depth))
}

fn read<'a, T>(
    text: &'a [u8],
    value: impl FnOnce(&mut Parser<'a>) -> Result<T, Stop>,
) -> Result<T, JsonError> {
    let whole = match std::str::from_utf8(text) {
        Ok(whole) => whole,
        Err(error) => return Err(syntax(text, error.valid_up_to(), "not UTF-8".to_owned())),
    };
    let mut parser = Parser {
        cursor: Cursor::new(whole.as_bytes(), 0),
        text: whole,
        names: Vec::new(),
        hasher: RandomState::new(),
    };
    match parser.whole(value) {
        Ok(value) => Ok(value),
        Err(Stop::TooDeep) => Err(JsonError::TooDeep),
        Err(Stop::Wrong(problem)) => Err(syntax(text, parser.cursor.at, problem)),
    }
}

/// The string that `quoted`, which is valid, says.
pub(super) fn unquoted(quoted: &str) -> Cow<'_, str> {
    let inside = quoted.get(1..quoted.len() - 1).unwrap_or_default();
    match inside.contains('\\') {
        true => serde_json::from_str(quoted).map_or(Cow::Borrowed(inside), Cow::Owned),
        false => Cow::Borrowed(inside),
    }
}

/// Adds `text`, which is valid, to `out`, without the white space between its parts.
pub fn push_compact(out: &mut Vec<u8>, text: &str) {
    let mut cursor = Cursor::new(text.as_bytes(), 0);
    while let Some(byte) = cursor.peek() {
        let start = cursor.at;
        match byte {
            _ if is_space(byte) => {
                cursor.space();
                continue;
            }
            b'"' => cursor.string(),
            _ => {
                cursor.run(|byte| !is_space(byte) && byte != b'"');
            }
        }
        out.extend_from_slice(&cursor.text[start..cursor.at.min(text.len())]);
    }
}

/// How many bytes of memory the value of `text` takes at most, if it is valid. Whatever it is, this takes none.
pub fn weight(text: &[u8]) -> usize {
    const VALUE: usize = size_of::<Value>();
    // What the allocator adds to a short string, and to anything else.
    const STRING: usize = 40;
    const BLOCK: usize = 32;
    // An entry of an object is a name, a value and a hash, and has a place in an index.
    const MEMBER: usize = size_of::<String>() + VALUE + 8 + 16;
    let array = |items: usize| BLOCK + items * VALUE * 3 / 2;
    // Room is made for three members at least, and never for more than twice as many as there are.
    let object = |members: usize| 3 * BLOCK + (2 * members).max(3) * MEMBER;
    let mut cursor = Cursor::new(text, 0);
    // Whether each is an object, how many commas it has, where it begins.
    let mut open: Vec<(bool, usize, usize)> = Vec::new();
    let mut bytes = VALUE + text.len();
    let close = |(is_object, commas, start): (bool, usize, usize), end: usize| {
        let inside = text.get(start..end).unwrap_or_default();
        let entries = match inside.iter().all(|byte| is_space(*byte)) {
            true => return 0,
            false => commas + 1,
        };
        if is_object {
            object(entries)
        } else {
            array(entries)
        }
    };
    while let Some(byte) = cursor.peek() {
        let at = cursor.at;
        match byte {
            b'"' => {
                cursor.string();
                bytes += STRING;
                continue;
            }
            // Deeper is not taken, so that nobody looks for more.
            b'{' | b'[' if open.len() < 1024 => open.push((byte == b'{', 0, at + 1)),
            b'}' | b']' => bytes += open.pop().map_or(0, |container| close(container, at)),
            b',' => {
                if let Some((_, commas, _)) = open.last_mut() {
                    *commas += 1;
                }
            }
            b'-' | b'0'..=b'9' => {
                cursor.run(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
                bytes += STRING;
                continue;
            }
            _ => {}
        }
        cursor.at += 1;
    }
    bytes
        + open
            .into_iter()
            .map(|container| close(container, text.len()))
            .sum::<usize>()
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
    /// The names of the objects that are open, as hashes, and where they stand.
    names: Vec<(u32, u32)>,
    hasher: RandomState,
}

impl<'a> Parser<'a> {
    fn whole<T>(
        &mut self,
        value: impl FnOnce(&mut Parser<'a>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.cursor.space();
        let value = value(self)?;
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
            Some(b'"') => Ok(Value::String(self.string()?.into_owned())),
            Some(b'-' | b'0'..=b'9') => {
                // Not through `parse()`, which writes exponents its own way.
                let text = self.digits()?.to_owned();
                Ok(Value::Number(Number::from_string_unchecked(text)))
            }
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(Stop::wrong("a value is expected")),
            None => Err(Stop::wrong("the text ends too early")),
        }
    }

    /// Steps over a value in which there may be `depth` levels.
    fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        match self.cursor.peek() {
            Some(b'{') => self.skip_object(depth.checked_sub(1).ok_or(Stop::TooDeep)?),
            Some(b'[') => self.skip_array(depth.checked_sub(1).ok_or(Stop::TooDeep)?),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.digits().map(drop),
            // Words take no memory.
            _ => self.value(depth).map(drop),
        }
    }

    fn skip_array(&mut self, depth: usize) -> Result<(), Stop> {
        self.cursor.at += 1;
        self.cursor.space();
        if self.cursor.take(b']') {
            return Ok(());
        }
        loop {
            self.skip(depth)?;
            if !self.goes_on(b']')? {
                return Ok(());
            }
        }
    }

    fn skip_object(&mut self, depth: usize) -> Result<(), Stop> {
        let before = self.names.len();
        self.cursor.at += 1;
        self.cursor.space();
        if self.cursor.take(b'}') {
            return Ok(());
        }
        loop {
            let start = self.cursor.at;
            let name = self.name()?;
            let hash = self.hasher.hash_one(&*name) as u32;
            let start = u32::try_from(start).map_err(|_| Stop::wrong("the text is too long"))?;
            self.names.push((hash, start));
            self.colon()?;
            self.skip(depth)?;
            if !self.goes_on(b'}')? {
                break;
            }
        }
        self.names[before..].sort_unstable();
        let twice = self.twice(before);
        self.names.truncate(before);
        match twice {
            None => Ok(()),
            Some(at) => {
                self.cursor.at = at;
                let name = self.string()?;
                self.cursor.at = at;
                Err(Stop::Wrong(format!("a second member {}", shown(&name))))
            }
        }
    }

    /// Where the first name stands that is there before, among those from number `from` on, which are sorted.
    fn twice(&self, from: usize) -> Option<usize> {
        let name = |start: u32| {
            let mut cursor = Cursor::new(self.text.as_bytes(), start as usize);
            cursor.string();
            unquoted(self.text.get(start as usize..cursor.at).unwrap_or("\"\""))
        };
        let alike = self.names[from..].chunk_by(|one, other| one.0 == other.0);
        let seconds = alike.filter_map(|alike| {
            // More than one are there because they are the same, or by chance.
            let mut seen: Vec<Cow<'_, str>> = Vec::new();
            alike.iter().find_map(|(_, start)| {
                let name = (alike.len() > 1).then(|| name(*start))?;
                let second = seen.contains(&name);
                seen.push(name);
                second.then_some(*start as usize)
            })
        });
        seconds.min()
    }

    fn name(&mut self) -> Result<Cow<'a, str>, Stop> {
        match self.cursor.peek() {
            Some(b'"') => self.string(),
            _ => Err(Stop::wrong("a name in double quotes is expected")),
        }
    }

    /// Steps from a name to its value.
    fn colon(&mut self) -> Result<(), Stop> {
        self.cursor.space();
        if !self.cursor.take(b':') {
            return Err(Stop::wrong("`:` is expected"));
        }
        self.cursor.space();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut members = Map::new();
        self.cursor.at += 1;
        self.cursor.space();
        if self.cursor.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            let start = self.cursor.at;
            let name = self.name()?.into_owned();
            if members.contains_key(&name) {
                self.cursor.at = start;
                return Err(Stop::Wrong(format!("a second member {}", shown(&name))));
            }
            self.colon()?;
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
                items.shrink_to_fit();
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

    fn string(&mut self) -> Result<Cow<'a, str>, Stop> {
        let start = self.cursor.at;
        self.cursor.string();
        let Some(quoted) = self.text.get(start..self.cursor.at) else {
            self.cursor.at = self.text.len();
            return Err(Stop::wrong("a string without end"));
        };
        let inside = quoted.get(1..quoted.len() - 1).unwrap_or_default();
        if !inside.bytes().any(|byte| byte == b'\\' || byte < b' ') {
            return Ok(Cow::Borrowed(inside));
        }
        // Escapes, or what is not allowed in a string.
        serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| {
            self.cursor.at = start;
            Stop::wrong("a string with an invalid escape or control character")
        })
    }

    fn digits(&mut self) -> Result<&'a str, Stop> {
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
        Ok(&self.text[start..self.cursor.at])
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

/// Whether `text`, which is valid and one value, says `value`; see [`same_value`].
pub fn says(text: &str, value: &Value, numbers: &dyn Fn(&Number, &Number) -> bool) -> bool {
    says_at(text, &mut Cursor::new(text.as_bytes(), 0), value, numbers)
}

/// The same for the value at `cursor`, which is stepped over if it says that.
fn says_at(
    text: &str,
    cursor: &mut Cursor<'_>,
    value: &Value,
    numbers: &dyn Fn(&Number, &Number) -> bool,
) -> bool {
    cursor.space();
    let start = cursor.at;
    match (cursor.peek(), value) {
        (Some(b'{'), Value::Object(members)) => {
            let mut count = 0;
            entries(cursor, b'}', |cursor| {
                let name = cursor.at;
                cursor.string();
                let name = unquoted(&text[name..cursor.at]);
                cursor.space();
                cursor.take(b':');
                count += 1;
                let value = members.get(&*name);
                value.is_some_and(|value| says_at(text, cursor, value, numbers))
            }) && count == members.len()
        }
        (Some(b'['), Value::Array(items)) => {
            let mut items = items.iter();
            entries(cursor, b']', |cursor| {
                let item = items.next();
                item.is_some_and(|item| says_at(text, cursor, item, numbers))
            }) && items.next().is_none()
        }
        (Some(b'"'), Value::String(string)) => {
            cursor.string();
            unquoted(&text[start..cursor.at]) == string.as_str()
        }
        (Some(b'-' | b'0'..=b'9'), Value::Number(number)) => {
            cursor.value();
            let said = &text[start..cursor.at];
            said == number.as_str()
                || numbers(&Number::from_string_unchecked(said.to_owned()), number)
        }
        (Some(byte), Value::Null | Value::Bool(_)) => {
            cursor.value();
            matches!(
                (byte, value),
                (b'n', Value::Null) | (b't', Value::Bool(true)) | (b'f', Value::Bool(false))
            )
        }
        _ => false,
    }
}

/// Goes through what is in the object or array at `cursor`, which ends with `end`, as long as `each` says so;
/// whether it always did.
fn entries(
    cursor: &mut Cursor<'_>,
    end: u8,
    mut each: impl FnMut(&mut Cursor<'_>) -> bool,
) -> bool {
    cursor.at += 1;
    cursor.space();
    while !cursor.take(end) {
        if !each(cursor) {
            return false;
        }
        cursor.space();
        cursor.take(b',');
        cursor.space();
        if cursor.peek().is_none() {
            return false;
        }
    }
    true
}

/// How many objects and arrays are inside one another in `value`, itself counted.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
