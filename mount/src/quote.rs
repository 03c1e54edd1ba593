//! Names of files on a terminal.

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
