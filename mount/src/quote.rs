//! Names of files on a terminal.

use std::borrow::Cow;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use polystore_mount::time::utc;

/// A path that can be printed: control characters and bytes that are not UTF-8 become `\xNN`,
/// so that no name can move the cursor or break a line of a table.
pub fn path(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => push_bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => text.push(c),
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

/// Text that came from elsewhere, made printable in the same way.
pub fn text(text: &str) -> String {
    path(Path::new(text))
}

/// A message that can be printed as one line: control characters become `\\xNN`, all else stays as it
/// is. Whoever names a file can put line ends and escapes into what is said of it.
pub fn line(message: &str) -> Cow<'_, str> {
    if !message.contains(char::is_control) {
        return Cow::Borrowed(message);
    }
    let mut text = String::with_capacity(message.len() + 16);
    for character in message.chars() {
        match character {
            c if c.is_control() => push_bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// JSON that can be printed: the control characters that it may hold as they are, in strings, are escaped.
/// Line ends and tabs, which stand between values, stay.
pub fn json(json: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if !json.contains(is_harmful) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        match character {
            c if is_harmful(c) => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn messages_are_one_line() {
        assert_eq!(line("a\\b: no such ü"), "a\\b: no such ü");
        assert_eq!(
            line("x\n[error] forged \x1b[2J\u{9b}\x7f"),
            "x\\x0a[error] forged \\x1b[2J\\xc2\\x9b\\x7f"
        );
        assert_eq!(
            json("{\n\"a\":\"\u{9b}\x7f\"}"),
            "{\n\"a\":\"\\u009b\\u007f\"}"
        );
    }

    #[test]
    fn unprintable_names() {
        assert_eq!(path(Path::new("a b/ü.txt")), "a b/ü.txt");
        assert_eq!(path(Path::new("a\n\x1b[2J")), "a\\x0a\\x1b[2J");
        assert_eq!(path(Path::new("back\\slash")), "back\\\\slash");
        assert_eq!(path(Path::new("\u{9b}x")), "\\xc2\\x9bx");
        assert_eq!(
            path(Path::new(OsStr::from_bytes(b"a\xff\xc3"))),
            "a\\xff\\xc3"
        );
    }
}
