//! Text and change in, text out.

use serde_json::Value;

use super::change::{Change, apply};
use super::document::{Document, new_text};
use super::error::ControlError;

/// What becomes of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// The text to be written; `None` if the document is the same afterwards.
    pub bytes: Option<Vec<u8>>,
    /// What the document says afterwards.
    pub value: Value,
}

impl Edited {
    /// Whether there is something to write.
    pub fn changed(&self) -> bool {
        self.bytes.is_some()
    }
}

/// Changes the document that `text` is. Where that is `None` or nothing but white space, one is
/// made, from `default` if that is there.
///
/// The formatting is kept as [`Document::render`] keeps it; a new document has the library's.
///
/// # Errors
/// Those of [`Document::parse`] and [`apply`]; EMSGSIZE if the text becomes too long.
pub fn edit(
    text: Option<&[u8]>,
    default: Option<&Value>,
    change: &Change,
) -> Result<Edited, ControlError> {
    let document = text.map(Document::parse).transpose()?.flatten();
    let current = document.as_ref().map(Document::value);
    let value = apply(current, default, change)?;
    let bytes = match &document {
        Some(document) if document.says(&value) => None,
        Some(document) => Some(document.render(&value)?),
        None => Some(new_text(&value)?),
    };
    Ok(Edited { bytes, value })
}
