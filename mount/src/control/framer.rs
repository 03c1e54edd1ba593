//! Where a request ends in what is written.

use super::error::ControlError;
use super::json::is_space;
use super::{MAX_REQUEST, MAX_REQUEST_DEPTH};

/// Finds the end of a request in what arrives in several write()s.
///
/// It counts braces outside of strings and looks at each byte once. Whether what it yields is
/// JSON is for [`parse_request`](super::parse_request) to say.
///
/// ```
/// use polystore_mount::control::Framer;
///
/// let mut framer = Framer::new();
/// assert_eq!(framer.push(b" {\"op\":").unwrap(), None);
/// assert!(framer.has_begun());
/// assert_eq!(framer.push(b"\"abort\"}\n").unwrap().unwrap(), b"{\"op\":\"abort\"}");
/// assert!(!framer.has_begun());
/// ```
#[derive(Debug, Default)]
pub struct Framer {
    request: Vec<u8>,
    depth: usize,
    inside: Inside,
}

/// What the next byte is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inside {
    #[default]
    Structure,
    String,
    Escape,
}

impl Framer {
    /// One that waits for a request.
    pub fn new() -> Framer {
        Framer::default()
    }

    /// Whether a request has begun that is not complete.
    pub fn has_begun(&self) -> bool {
        self.depth > 0
    }

    /// Takes the bytes of one write(); returns the request that they complete, without the white
    /// space around it.
    ///
    /// # Errors
    /// EINVAL if a request does not begin with a brace, or something follows in the same chunk;
    /// EMSGSIZE if it is longer than [`MAX_REQUEST`] or deeper than [`MAX_REQUEST_DEPTH`]. What
    /// there was of a request is forgotten then, and the next chunk begins another.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, ControlError> {
        let pushed = self.scan(chunk);
        if !matches!(pushed, Ok(None)) {
            *self = Framer::new();
        }
        pushed
    }

    fn scan(&mut self, chunk: &[u8]) -> Result<Option<Vec<u8>>, ControlError> {
        let chunk = match self.has_begun() {
            true => chunk,
            false => trimmed(chunk),
        };
        match chunk.first() {
            None => return Ok(None),
            Some(b'{') => {}
            Some(_) if self.has_begun() => {}
            Some(_) => return Err(ControlError::invalid("a request is a JSON object")),
        }
        let end = self.find_end(chunk)?;
        let taken = end.unwrap_or(chunk.len());
        if self.request.len() + taken > MAX_REQUEST {
            return Err(ControlError::too_large("a request of more than 4 MiB"));
        }
        self.request.extend_from_slice(&chunk[..taken]);
        if end.is_none() {
            return Ok(None);
        }
        if !trimmed(&chunk[taken..]).is_empty() {
            return Err(ControlError::invalid("something follows the request"));
        }
        Ok(Some(std::mem::take(&mut self.request)))
    }

    /// The length of `chunk` up to the end of the request, if that is in it.
    fn find_end(&mut self, chunk: &[u8]) -> Result<Option<usize>, ControlError> {
        for (at, byte) in chunk.iter().enumerate() {
            self.inside = match (self.inside, byte) {
                (Inside::Escape, _) => Inside::String,
                (Inside::String, b'\\') => Inside::Escape,
                (Inside::String, b'"') => Inside::Structure,
                (Inside::Structure, b'"') => Inside::String,
                (inside, _) => inside,
            };
            if self.inside != Inside::Structure {
                continue;
            }
            match byte {
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth > MAX_REQUEST_DEPTH {
                return Err(ControlError::too_large("a request nested deeper than 64"));
            }
            if self.depth == 0 {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }
}

/// `text` without the white space at its start.
fn trimmed(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| is_space(**byte)).count();
    &text[space..]
}
