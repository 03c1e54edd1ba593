//! A document's text, edited with its formatting kept.
//!
//! The text is not written anew: [`Document::render`] goes through it along with the new value, copies what
//! is the same, byte for byte, and replaces, takes out or puts in the rest. What is put in looks like what is
//! beside it. No value is made of the old text, which would take many times its size.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::change::{merged, too_deep, too_long};
use super::error::{Code, ControlError};
use super::json::{
    Cursor, JsonError, check, is_space, parse, same_number_and_sort, says, unquoted,
};
use super::style::{Out, Place, Style, short_colon};
use super::{MAX_DOCUMENT, MAX_DOCUMENT_DEPTH};

/// What some editors put at the start of a text. It is kept, and no part of the JSON.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The longest white space that is taken for formatting to be repeated, in bytes.
const MAX_GAP: usize = 256;

/// A JSON document: the text that it was read from, which is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    text: String,
}

impl Document {
    /// Reads a document; `None` if there is nothing but white space. A byte order mark at the start
    /// is kept.
    ///
    /// # Errors
    /// EBADMSG if it is not JSON, not UTF-8, or has members of the same name twice in an object;
    /// EMSGSIZE if it is longer than [`MAX_DOCUMENT`] or deeper than [`MAX_DOCUMENT_DEPTH`].
    pub fn parse(text: Vec<u8>) -> Result<Option<Document>, ControlError> {
        if text.len() > MAX_DOCUMENT {
            return Err(too_long());
        }
        let mark = BYTE_ORDER_MARK.as_bytes();
        let json = text.strip_prefix(mark).unwrap_or(&text);
        if json.iter().all(|byte| is_space(*byte)) {
            return Ok(None);
        }
        let not_json = |problem: String| {
            ControlError::new(Code::BadMessage, format!("not a JSON document: {problem}"))
        };
        check(json, MAX_DOCUMENT_DEPTH).map_err(|error| match error {
            JsonError::TooDeep => too_deep(),
            error => not_json(error.to_string()),
        })?;
        let text = String::from_utf8(text).map_err(|error| not_json(error.to_string()))?;
        Ok(Some(Document { text }))
    }

    /// Its text, without a byte order mark.
    pub fn json(&self) -> &str {
        let mark = self.text.strip_prefix(BYTE_ORDER_MARK);
        mark.unwrap_or(&self.text)
    }

    /// What the document says, which takes as much memory as [`weight`](super::json::weight) tells.
    pub fn value(&self) -> Value {
        // It is valid.
        parse(self.json().as_bytes(), MAX_DOCUMENT_DEPTH).unwrap_or(Value::Null)
    }

    /// Whether `value` says the same. The order of members does not matter, and of numbers neither
    /// zeros at the end nor the form of the exponent, as long as an integer stays one.
    pub fn says(&self, value: &Value) -> bool {
        says(self.json(), value, &same_number_and_sort)
    }

    /// The text with `value` in place of what it says. What [is the same](Document::says) keeps
    /// its bytes, and members their places; new members come last.
    ///
    /// # Errors
    /// EMSGSIZE if it becomes longer than [`MAX_DOCUMENT`].
    pub fn render(&self, value: &Value) -> Result<Vec<u8>, ControlError> {
        self.edited(New::Set(value))
    }

    /// The text after a merge patch (RFC 7396), as [`render`](Self::render) would write it.
    ///
    /// # Errors
    /// EMSGSIZE if it becomes longer than [`MAX_DOCUMENT`].
    pub fn merge(&self, patch: &Value) -> Result<Vec<u8>, ControlError> {
        self.edited(New::Merge(patch))
    }

    /// Whether its text is `bytes`.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.text.as_bytes() == bytes
    }

    fn edited(&self, new: New<'_>) -> Result<Vec<u8>, ControlError> {
        let json = self.json();
        let start = self.text.len() - json.len();
        let style = Style::of(json);
        let place = match style.block {
            true => Place::Block(""),
            false => Place::Line,
        };
        let mut editor = Editor {
            cursor: Cursor::new(self.text.as_bytes(), start),
            text: &self.text,
            style,
            out: Out::with_room_for(self.text.len()),
            copied: 0,
        };
        editor.cursor.space();
        editor.value(new, place);
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

/// What becomes of a value.
#[derive(Clone, Copy)]
enum New<'a> {
    /// It is this afterwards.
    Set(&'a Value),
    /// A merge patch is done to it.
    Merge(&'a Value),
}

/// The same for the members of an object.
#[derive(Clone, Copy)]
enum Members<'a> {
    Set(&'a Map<String, Value>),
    Merge(&'a Map<String, Value>),
}

/// And for one of them.
enum Fate<'a> {
    Kept,
    Gone,
    Becomes(New<'a>),
}

impl<'a> Members<'a> {
    fn all(self) -> &'a Map<String, Value> {
        match self {
            Members::Set(members) | Members::Merge(members) => members,
        }
    }

    /// What becomes of the old member `name`.
    fn fate(self, name: &str) -> Fate<'a> {
        match (self, self.all().get(name)) {
            (Members::Set(_), Some(value)) => Fate::Becomes(New::Set(value)),
            (Members::Set(_), None) | (Members::Merge(_), Some(Value::Null)) => Fate::Gone,
            (Members::Merge(_), Some(value)) => Fate::Becomes(New::Merge(value)),
            (Members::Merge(_), None) => Fate::Kept,
        }
    }

    /// The members that come new, which are those not in `old`.
    fn added(
        self,
        old: &HashSet<&'a String>,
    ) -> impl Iterator<Item = (&'a String, Cow<'a, Value>)> {
        let new = self.all().iter().filter(|(name, _)| !old.contains(name));
        new.filter_map(move |(name, value)| match self {
            Members::Set(_) => Some((name, Cow::Borrowed(value))),
            Members::Merge(_) if value.is_null() => None,
            Members::Merge(_) => Some((name, Cow::Owned(merged(Value::Null, value)))),
        })
    }
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
}

impl<'a> Editor<'a> {
    /// Replaces what is between `start` and `end`, which is not before what was replaced last.
    fn replace(&mut self, start: usize, end: usize, by: &str) {
        self.out.push(&self.text[self.copied..start]);
        self.out.push(by);
        self.copied = end;
    }

    /// Goes over a value, which is next, and makes it `new`.
    fn value(&mut self, new: New<'_>, place: Place<'_>) {
        match (self.cursor.peek(), new) {
            (Some(b'{'), New::Set(Value::Object(new))) if self.is_filled() => {
                self.object(Members::Set(new));
            }
            (Some(b'{'), New::Merge(Value::Object(patch))) if self.is_filled() => {
                self.object(Members::Merge(patch));
            }
            (Some(b'['), New::Set(Value::Array(new))) if self.is_filled() => self.array(new),
            // What is no object, or has nothing in it, is replaced by what the patch makes of nothing.
            (_, New::Merge(patch @ Value::Object(_))) => {
                self.replace_value(&merged(Value::Null, patch), place);
            }
            (_, New::Merge(new)) => self.value(New::Set(new), place),
            (_, New::Set(new)) => self.replace_value(new, place),
        }
    }

    /// Whether the object or array that is next has anything in it.
    fn is_filled(&self) -> bool {
        let mut ahead = self.cursor.clone();
        ahead.at += 1;
        ahead.space();
        !matches!(ahead.peek(), None | Some(b'}' | b']'))
    }

    fn replace_value(&mut self, new: &Value, place: Place<'_>) {
        let start = self.cursor.at;
        self.cursor.value();
        if !says(
            &self.text[start..self.cursor.at],
            new,
            &same_number_and_sort,
        ) {
            self.replace(start, self.cursor.at, "");
            self.out.value(new, &self.style, place);
        }
    }

    fn object(&mut self, new: Members<'_>) {
        let open = self.cursor.at;
        let start = self.start();
        let mut old = HashSet::new();
        let (mut kept, mut end, mut colon) = (0, start.first, "");
        let mut more = true;
        while more {
            let entry = self.cursor.at;
            let (name, gap) = self.name();
            colon = gap;
            if let Some((name, _)) = new.all().get_key_value(&*name) {
                old.insert(name);
            }
            match new.fate(&name) {
                Fate::Gone => {
                    self.cursor.value();
                    if kept > 0 {
                        self.replace(end, self.cursor.at, "");
                    }
                }
                fate => {
                    if kept == 0 && entry > start.first {
                        self.replace(start.first, entry, "");
                    }
                    kept += 1;
                    match fate {
                        Fate::Becomes(new) => self.value(new, start.place),
                        Fate::Kept | Fate::Gone => self.cursor.value(),
                    }
                }
            }
            end = self.cursor.at;
            more = self.next();
        }
        let close = self.close();
        let mut added = new.added(&old).peekable();
        if kept == 0 && added.peek().is_none() {
            self.replace(open + 1, close, "");
        } else if kept == 0 {
            self.replace(start.first, end, "");
        } else {
            self.replace(end, end, "");
        }
        if added.peek().is_none() {
            return;
        }
        let separator = self.separator(&start, true);
        let colon = short_colon(colon).unwrap_or(&self.style.colon).to_owned();
        for (at, (name, value)) in added.enumerate() {
            if kept + at > 0 {
                self.out.push(&separator);
            }
            self.out
                .member((name, &value), &colon, &self.style, start.place);
        }
    }

    /// Items are told apart by what is the same at the start and at the end; those between follow
    /// each other, and what one side has more of goes or comes after them.
    fn array(&mut self, new: &[Value]) {
        let open = self.cursor.at;
        let start = self.start();
        let old = self.items();
        let separator = match new.len() > old.len() {
            true => self.separator(&start, false),
            false => String::new(),
        };
        let paired = self.pairs(&old, new);
        let more = new.get(paired..paired + new.len().saturating_sub(old.len()));
        let more = more.unwrap_or_default();
        let fewer = paired..paired + old.len().saturating_sub(new.len());
        if paired == 0 && !more.is_empty() {
            self.replace(start.first, start.first, "");
            for item in more {
                self.out.value(item, &self.style, start.place);
                self.out.push(&separator);
            }
        }
        let mut end = start.first;
        for (at, item) in old.iter().enumerate() {
            self.cursor.at = item.start();
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
                self.value(New::Set(&new[new_at]), start.place);
            }
            end = self.cursor.at;
            if at + 1 == paired && !more.is_empty() {
                self.replace(end, end, "");
                for item in more {
                    self.out.push(&separator);
                    self.out.value(item, &self.style, start.place);
                }
            }
        }
        let close = self.close();
        if new.is_empty() {
            self.replace(open + 1, close, "");
        }
    }

    /// Where the items of an array are, of which the first is next.
    fn items(&self) -> Vec<Span> {
        let (mut ahead, mut items) = (self.cursor.clone(), Vec::new());
        loop {
            let start = ahead.at;
            ahead.value();
            items.push(Span::new(start, ahead.at));
            ahead.space();
            if !ahead.take(b',') {
                return items;
            }
            ahead.space();
        }
    }

    /// How many items, from the first on, stand for those of `old` at the same positions. Those after
    /// them are at the end of both lists, except for what one has more of.
    fn pairs(&self, old: &[Span], new: &[Value]) -> usize {
        let shorter = old.len().min(new.len());
        if old.len() == new.len() {
            return shorter;
        }
        let same = |(old, new): &(&Span, &Value)| {
            says(
                &self.text[old.start()..old.end()],
                new,
                &same_number_and_sort,
            )
        };
        let before = old.iter().zip(new).take_while(same).count();
        let backwards = old.iter().rev().zip(new.iter().rev());
        let after = backwards.take(shorter - before).take_while(same).count();
        shorter - after
    }

    /// Steps to the first entry.
    fn start(&mut self) -> Start<'a> {
        let text = self.text;
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
        Start { first, place }
    }

    /// What goes between two entries of an object, or of an array.
    fn separator(&self, start: &Start<'_>, is_object: bool) -> String {
        let gap = self.gap(start.first, is_object);
        gap.unwrap_or_else(|| match start.place {
            Place::Block(indent) => format!(",{}{indent}", self.style.newline),
            Place::Line => self.style.comma.to_owned(),
        })
    }

    /// What is between the entry at `first` and the next.
    fn gap(&self, first: usize, is_object: bool) -> Option<String> {
        let mut ahead = Cursor::new(self.text.as_bytes(), first);
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

    /// Steps from the end of an entry to the next one, if there is one.
    fn next(&mut self) -> bool {
        self.cursor.space();
        let more = self.cursor.take(b',');
        self.cursor.space();
        more
    }

    /// Steps over a member's name, and over what is between it and the value. Both are returned.
    fn name(&mut self) -> (Cow<'a, str>, &'a str) {
        let text = self.text;
        let name = self.cursor.at;
        self.cursor.string();
        let start = self.cursor.at;
        self.cursor.space();
        self.cursor.take(b':');
        self.cursor.space();
        (unquoted(&text[name..start]), &text[start..self.cursor.at])
    }

    /// Steps over the end of an object or array; returns where that stands.
    fn close(&mut self) -> usize {
        self.cursor.space();
        self.cursor.at += 1;
        self.cursor.at - 1
    }
}

/// A part of a text. No document is as long as 4 GiB.
#[derive(Clone, Copy)]
struct Span(u32, u32);

impl Span {
    fn new(start: usize, end: usize) -> Span {
        Span(start as u32, end as u32)
    }

    fn start(self) -> usize {
        self.0 as usize
    }

    fn end(self) -> usize {
        self.1 as usize
    }
}
