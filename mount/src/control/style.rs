//! How a document is laid out, and values written that way.

use serde_json::Value;

use super::MAX_DOCUMENT;
use super::json::{Cursor, is_space};

/// The most that one level may be indented by, in bytes; more is taken for no style.
const MAX_UNIT: usize = 16;

/// The layout of a document, as its text has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// What ends a line.
    pub(super) newline: &'static str,
    /// What a level is indented by.
    pub(super) unit: String,
    /// Between two entries in one line.
    pub(super) comma: &'static str,
    /// Between a name and its value.
    pub(super) colon: String,
    /// Whether there are objects or arrays of several lines.
    pub(super) block: bool,
    /// Whether strings have escapes for all that is not ASCII.
    pub(super) ascii: bool,
}

/// Where a value stands, and so how it is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// All of it goes in one line.
    Line,
    /// Each entry has a line; the line that the value stands in is indented by this.
    Block(&'a str),
}

impl Default for Style {
    /// That of documents which are made: one line an entry, indented by two spaces, as the
    /// library writes.
    fn default() -> Style {
        Style {
            newline: "\n",
            unit: "  ".to_owned(),
            comma: ", ",
            colon: ": ".to_owned(),
            block: true,
            ascii: false,
        }
    }
}

impl Style {
    /// The style of `text`, which is valid, from the first of everything that tells it.
    pub(super) fn of(text: &str) -> Style {
        let mut found = Found::default();
        found.read(text);
        let newline = match found.newline {
            Some(newline) => newline,
            None if text.ends_with("\r\n") => "\r\n",
            None => "\n",
        };
        let Some(unit) = found.unit.or((!found.filled).then(|| "  ".to_owned())) else {
            let spaced = match (found.comma, &found.colon) {
                (Some(comma), _) => comma == ", ",
                (None, Some(colon)) => colon.ends_with(' '),
                (None, None) => false,
            };
            return Style {
                newline,
                comma: found.comma.unwrap_or(if spaced { ", " } else { "," }),
                colon: found
                    .colon
                    .unwrap_or(if spaced { ": " } else { ":" }.into()),
                block: false,
                ascii: is_ascii(text),
                ..Style::default()
            };
        };
        let colon = found.colon.unwrap_or_else(|| ": ".to_owned());
        let comma = if colon.ends_with(' ') { ", " } else { "," };
        Style {
            newline,
            unit,
            comma: found.comma.unwrap_or(comma),
            colon,
            block: true,
            ascii: is_ascii(text),
        }
    }
}

/// Whether a text has escapes where it could have had letters, and has no letters.
fn is_ascii(text: &str) -> bool {
    let beyond = |at: usize| {
        let digits = text.get(at + 2..at + 6);
        let code = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        code.is_some_and(|code| code >= 0x80)
    };
    text.is_ascii() && text.match_indices("\\u").any(|(at, _)| beyond(at))
}

/// What a text has shown of its style.
#[derive(Default)]
struct Found {
    newline: Option<&'static str>,
    unit: Option<String>,
    comma: Option<&'static str>,
    colon: Option<String>,
    /// Whether there is an object or array with something in it.
    filled: bool,
}

impl Found {
    fn read(&mut self, text: &str) {
        let mut cursor = Cursor::new(text.as_bytes(), 0);
        let mut line = 0;
        while let Some(byte) = cursor.peek() {
            let at = cursor.at;
            match byte {
                b'"' => {
                    cursor.string();
                    continue;
                }
                b'\n' => line = at + 1,
                b',' | b':' | b'{' | b'[' => {
                    cursor.at += 1;
                    cursor.space();
                    self.gap(text, line, at, cursor.at);
                    // The white space may have newlines.
                    cursor.at = at;
                }
                _ => {}
            }
            if self.unit.is_some() && self.comma.is_some() && self.colon.is_some() {
                return;
            }
            cursor.at += 1;
        }
    }

    /// Learns from the byte at `at` and the white space after it, up to `end`, in the line that
    /// begins at `line`.
    fn gap(&mut self, text: &str, line: usize, at: usize, end: usize) {
        let bytes = text.as_bytes();
        let space = &text[at + 1..end];
        let broken = space.contains('\n');
        match bytes[at] {
            b',' if broken || self.comma.is_some() => {}
            b',' => self.comma = Some(if space.is_empty() { "," } else { ", " }),
            b':' if self.colon.is_some() => {}
            b':' => {
                let before = bytes[..at].iter().rev();
                let before = before.take_while(|byte| is_space(**byte)).count();
                self.colon = short_colon(&text[at - before..end]).map(str::to_owned);
            }
            _ if matches!(bytes.get(end), None | Some(b'}' | b']')) => {}
            _ => {
                self.filled = true;
                if broken && self.unit.is_none() {
                    self.unit = unit_between(&text[line..at], space);
                    self.newline = Some(if space.contains("\r\n") { "\r\n" } else { "\n" });
                }
            }
        }
    }
}

/// `gap`, if it is what one would put between another name and its value too.
pub(super) fn short_colon(gap: &str) -> Option<&str> {
    (gap.len() <= MAX_UNIT && !gap.contains('\n')).then_some(gap)
}

/// What the first entry after `space` is indented by, beyond the line that its container is in.
fn unit_between(line: &str, space: &str) -> Option<String> {
    let outer = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
    let inner = space.rsplit('\n').next().unwrap_or_default();
    let unit = inner.strip_prefix(outer).unwrap_or("  ");
    (unit.len() <= MAX_UNIT).then(|| unit.to_owned())
}

/// A text that is being written. What would make it longer than a document may be is left out.
#[derive(Debug, Default)]
pub(super) struct Out {
    text: String,
    full: bool,
}

impl Out {
    /// One that will be about as long as `bytes`.
    pub(super) fn with_room_for(bytes: usize) -> Out {
        Out {
            text: String::with_capacity(bytes + bytes / 64),
            full: false,
        }
    }

    /// Adds `part`.
    pub(super) fn push(&mut self, part: &str) {
        self.full |= self.text.len() + part.len() > MAX_DOCUMENT;
        if !self.full {
            self.text.push_str(part);
        }
    }

    /// The text; `None` if it became too long.
    pub(super) fn finish(self) -> Option<String> {
        (!self.full).then_some(self.text)
    }

    /// Adds `value`, all of it in `style`.
    pub(super) fn value(&mut self, value: &Value, style: &Style, place: Place<'_>) {
        // A long value that does not fit is not worth to be gone through.
        if self.full {
            return;
        }
        match value {
            Value::Null => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Number(number) => self.push(number.as_str()),
            Value::String(string) => self.string(string, style),
            Value::Array(items) => {
                self.container(
                    ["[", "]"],
                    items.iter(),
                    style,
                    place,
                    |out, item, place| {
                        out.value(item, style, place);
                    },
                );
            }
            Value::Object(members) => {
                self.container(
                    ["{", "}"],
                    members.iter(),
                    style,
                    place,
                    |out, member, place| {
                        out.member(member, &style.colon, style, place);
                    },
                );
            }
        }
    }

    /// Adds a name and its value, with `colon` between.
    pub(super) fn member(
        &mut self,
        (name, value): (&String, &Value),
        colon: &str,
        style: &Style,
        place: Place<'_>,
    ) {
        self.string(name, style);
        self.push(colon);
        self.value(value, style, place);
    }

    fn container<T>(
        &mut self,
        [open, close]: [&str; 2],
        entries: impl ExactSizeIterator<Item = T>,
        style: &Style,
        place: Place<'_>,
        add: impl Fn(&mut Out, T, Place<'_>),
    ) {
        self.push(open);
        if entries.len() == 0 {
            return self.push(close);
        }
        let inner = match place {
            Place::Line => None,
            Place::Block(indent) => Some(format!("{indent}{}", style.unit)),
        };
        for (at, entry) in entries.enumerate() {
            match (&inner, at) {
                (None, 0) => {}
                (None, _) => self.push(style.comma),
                (Some(indent), _) => {
                    self.push(if at > 0 { "," } else { "" });
                    self.push(style.newline);
                    self.push(indent);
                }
            }
            add(
                self,
                entry,
                inner.as_deref().map_or(Place::Line, Place::Block),
            );
        }
        if let Place::Block(indent) = place {
            self.push(style.newline);
            self.push(indent);
        }
        self.push(close);
    }

    fn string(&mut self, string: &str, style: &Style) {
        let quoted = Value::from(string).to_string();
        if !style.ascii || quoted.is_ascii() {
            return self.push(&quoted);
        }
        for character in quoted.chars() {
            let mut units = [0; 2];
            match character.is_ascii() {
                true => self.push(character.encode_utf8(&mut [0; 4])),
                false => {
                    for unit in character.encode_utf16(&mut units) {
                        self.push(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
    }
}
