//! A document's text, edited with its formatting kept.
//!
//! The text is not written anew: [`Document::render`] goes through it along with the old value and
//! the new one, copies what is the same, byte for byte, and replaces, takes out or puts in
//! the rest. What is put in looks like what is beside it.

use serde_json::{Map, Value};

use super::change::{too_deep, too_long};
use super::error::{Code, ControlError};
use super::json::{Cursor, JsonError, is_space, parse, same_number_and_sort, same_value};
use super::style::{Out, Place, Style, short_colon};
use super::{MAX_DOCUMENT, MAX_DOCUMENT_DEPTH};

/// What some editors put at the start of a text. It is kept, and no part of the JSON.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The longest white space that is taken for formatting to be repeated, in bytes.
const MAX_GAP: usize = 256;

/// A JSON document: its value, and the text it was read from.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    value: Value,
}

impl Document {
    /// Reads a document; `None` if there is nothing but white space. A byte order mark at the start
    /// is kept.
    ///
    /// # Errors
    /// EBADMSG if it is not JSON, not UTF-8, or has members of the same name twice in an object;
    /// EMSGSIZE if it is longer than [`MAX_DOCUMENT`] or deeper than [`MAX_DOCUMENT_DEPTH`].
    pub fn parse(text: &[u8]) -> Result<Option<Document>, ControlError> {
        if text.len() > MAX_DOCUMENT {
            return Err(too_long());
        }
        let mark = BYTE_ORDER_MARK.as_bytes();
        let json = text.strip_prefix(mark).unwrap_or(text);
        if json.iter().all(|byte| is_space(*byte)) {
            return Ok(None);
        }
        let not_json = |problem: String| {
            ControlError::new(Code::BadMessage, format!("not a JSON document: {problem}"))
        };
        let value = parse(json, MAX_DOCUMENT_DEPTH).map_err(|error| match error {
            JsonError::TooDeep => too_deep(),
            error => not_json(error.to_string()),
        })?;
        let text = String::from_utf8(text.to_vec()).map_err(|error| not_json(error.to_string()))?;
        Ok(Some(Document { text, value }))
    }

    /// What the document says.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Whether `value` says the same. The order of members does not matter, and of numbers neither
    /// zeros at the end nor the form of the exponent, as long as an integer stays one.
    pub fn says(&self, value: &Value) -> bool {
        same_value(&self.value, value, &same_number_and_sort)
    }

    /// The text with `value` in place of what it says. What [is the same](Document::says) keeps
    /// its bytes, and members their places; new members come last.
    ///
    /// # Errors
    /// EMSGSIZE if it becomes longer than [`MAX_DOCUMENT`].
    pub fn render(&self, value: &Value) -> Result<Vec<u8>, ControlError> {
        let start = self
            .text
            .strip_prefix(BYTE_ORDER_MARK)
            .unwrap_or(&self.text);
        let start = self.text.len() - start.len();
        let style = Style::of(&self.text[start..]);
        let place = match style.block {
            true => Place::Block(""),
            false => Place::Line,
        };
        let mut editor = Editor {
            cursor: Cursor::new(self.text.as_bytes(), start),
            text: &self.text,
            style,
            out: Out::default(),
            copied: 0,
        };
        editor.cursor.space();
        editor.value(&self.value, value, place);
        editor.replace(self.text.len(), self.text.len(), "");
        editor
            .out
            .finish()
            .map(String::into_bytes)
            .ok_or_else(too_long)
    }
}

/// The text of a document that is made, indented by two spaces, with a newline at its end.
///
/// # Errors
/// EMSGSIZE if it becomes longer than [`MAX_DOCUMENT`].
pub fn new_text(value: &Value) -> Result<Vec<u8>, ControlError> {
    let mut out = Out::default();
    out.value(value, &Style::default(), Place::Block(""));
    out.push("\n");
    out.finish().map(String::into_bytes).ok_or_else(too_long)
}

/// Goes through a text, which is valid, and writes another.
struct Editor<'a> {
    text: &'a str,
    cursor: Cursor<'a>,
    style: Style,
    out: Out,
    /// Up to where the text has been copied or replaced.
    copied: usize,
}

/// The start of an object or array that is not empty.
struct Start<'a> {
    /// Where the first entry begins.
    first: usize,
    /// Where its entries stand.
    place: Place<'a>,
    /// What goes between two of them.
    separator: String,
}

impl<'a> Editor<'a> {
    /// Replaces what is between `start` and `end`, which is not before what was replaced last.
    fn replace(&mut self, start: usize, end: usize, by: &str) {
        self.out.push(&self.text[self.copied..start]);
        self.out.push(by);
        self.copied = end;
    }

    /// Goes over a value, which is next and says `old`, so that it says `new`.
    fn value(&mut self, old: &Value, new: &Value, place: Place<'_>) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) if !old.is_empty() => self.object(old, new),
            (Value::Array(old), Value::Array(new)) if !old.is_empty() => self.array(old, new),
            _ => {
                let start = self.cursor.at;
                self.cursor.value();
                if !same_value(old, new, &same_number_and_sort) {
                    self.replace(start, self.cursor.at, "");
                    self.out.value(new, &self.style, place);
                }
            }
        }
    }

    fn object(&mut self, old: &Map<String, Value>, new: &Map<String, Value>) {
        let added = new.iter().filter(|(name, _)| !old.contains_key(*name));
        let added: Vec<_> = added.collect();
        let open = self.cursor.at;
        let start = self.start(!added.is_empty());
        let (mut kept, mut end, mut colon) = (0, start.first, "");
        for (at, (name, value)) in old.iter().enumerate() {
            self.next(at);
            let entry = self.cursor.at;
            colon = self.name();
            match new.get(name) {
                Some(new) => {
                    if kept == 0 && at > 0 {
                        self.replace(start.first, entry, "");
                    }
                    kept += 1;
                    self.value(value, new, start.place);
                }
                None => {
                    self.cursor.value();
                    if kept > 0 {
                        self.replace(end, self.cursor.at, "");
                    }
                }
            }
            end = self.cursor.at;
        }
        let close = self.close();
        if kept == 0 && added.is_empty() {
            self.replace(open + 1, close, "");
        } else if kept == 0 {
            self.replace(start.first, end, "");
        } else {
            self.replace(end, end, "");
        }
        let colon = short_colon(colon).unwrap_or(&self.style.colon).to_owned();
        for (at, member) in added.into_iter().enumerate() {
            if kept + at > 0 {
                self.out.push(&start.separator);
            }
            self.out.member(member, &colon, &self.style, start.place);
        }
    }

    /// Items are told apart by what is the same at the start and at the end; those between follow
    /// each other, and what one side has more of goes or comes after them.
    fn array(&mut self, old: &[Value], new: &[Value]) {
        let open = self.cursor.at;
        let start = self.start(new.len() > old.len());
        let paired = pairs(old, new);
        let more = new.get(paired..paired + new.len().saturating_sub(old.len()));
        let more = more.unwrap_or_default();
        let fewer = paired..paired + old.len().saturating_sub(new.len());
        if paired == 0 && !more.is_empty() {
            self.replace(start.first, start.first, "");
            for item in more {
                self.out.value(item, &self.style, start.place);
                self.out.push(&start.separator);
            }
        }
        let mut end = start.first;
        for (at, value) in old.iter().enumerate() {
            self.next(at);
            if fewer.contains(&at) {
                self.cursor.value();
                if paired > 0 {
                    self.replace(end, self.cursor.at, "");
                }
            } else {
                if at == fewer.end && paired == 0 && at > 0 {
                    self.replace(start.first, self.cursor.at, "");
                }
                // Those after the gap are the same, and end where those of the other list do.
                let new_at = if at < paired {
                    at
                } else {
                    at + new.len() - old.len()
                };
                self.value(value, &new[new_at], start.place);
            }
            end = self.cursor.at;
            if at + 1 == paired && !more.is_empty() {
                self.replace(end, end, "");
                for item in more {
                    self.out.push(&start.separator);
                    self.out.value(item, &self.style, start.place);
                }
            }
        }
        let close = self.close();
        if new.is_empty() {
            self.replace(open + 1, close, "");
        }
    }

    /// Steps to the first entry, and looks ahead for what separates it from the next if that is
    /// `needed`.
    fn start(&mut self, needed: bool) -> Start<'a> {
        let text = self.text;
        let is_object = self.cursor.peek() == Some(b'{');
        let open = self.cursor.at;
        self.cursor.at += 1;
        self.cursor.space();
        let first = self.cursor.at;
        let lead = &text[open + 1..first];
        let indent = lead.rsplit_once('\n').map(|(_, indent)| indent);
        let place = match indent {
            Some(indent) if indent.len() <= MAX_GAP => Place::Block(indent),
            _ => Place::Line,
        };
        let separator = match (needed, place) {
            (false, _) => String::new(),
            (true, place) => self.gap(is_object).unwrap_or_else(|| match place {
                Place::Block(indent) => format!(",{}{indent}", self.style.newline),
                Place::Line => self.style.comma.to_owned(),
            }),
        };
        Start {
            first,
            place,
            separator,
        }
    }

    /// What is between the first entry, which is next, and the second.
    fn gap(&self, is_object: bool) -> Option<String> {
        let mut ahead = self.cursor.clone();
        if is_object {
            ahead.string();
            ahead.space();
            ahead.take(b':');
            ahead.space();
        }
        ahead.value();
        let start = ahead.at;
        ahead.space();
        let follows = ahead.take(b',');
        ahead.space();
        let gap = &self.text[start..ahead.at];
        (follows && gap.len() <= MAX_GAP).then(|| gap.to_owned())
    }

    /// Steps from the end of an entry to the next one, of number `at`.
    fn next(&mut self, at: usize) {
        if at > 0 {
            self.cursor.space();
            self.cursor.take(b',');
            self.cursor.space();
        }
    }

    /// Steps over a member's name, and over what is between it and the value, which is returned.
    fn name(&mut self) -> &'a str {
        self.cursor.string();
        let start = self.cursor.at;
        self.cursor.space();
        self.cursor.take(b':');
        self.cursor.space();
        &self.text[start..self.cursor.at]
    }

    /// Steps over the end of an object or array; returns where that stands.
    fn close(&mut self) -> usize {
        self.cursor.space();
        self.cursor.at += 1;
        self.cursor.at - 1
    }
}

/// How many items, from the first on, stand for those of `old` at the same positions. Those after
/// them are at the end of both lists, except for what one has more of.
fn pairs(old: &[Value], new: &[Value]) -> usize {
    let shorter = old.len().min(new.len());
    if old.len() == new.len() {
        return shorter;
    }
    let same = |(old, new): &(&Value, &Value)| same_value(old, new, &same_number_and_sort);
    let before = old.iter().zip(new).take_while(same).count();
    let backwards = old.iter().rev().zip(new.iter().rev());
    let after = backwards.take(shorter - before).take_while(same).count();
    shorter - after
}
