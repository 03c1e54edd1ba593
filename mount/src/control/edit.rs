//! Text and change in, text out.

use serde_json::Value;

use super::MAX_DOCUMENT_DEPTH;
use super::change::{Change, apply, too_deep};
use super::document::{Document, new_text};
use super::error::ControlError;
use super::json::{depth, parse};

/// What becomes of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// The text to be written; `None` if the document is the same afterwards.
    pub bytes: Option<Vec<u8>>,
    /// The document that was there.
    old: Option<Document>,
}

impl Edited {
    /// Whether there is something to write.
    pub fn changed(&self) -> bool {
        self.bytes.is_some()
    }

    /// The document's text afterwards, without a byte order mark.
    pub fn json(&self) -> &str {
        let new = self.bytes.as_deref().map(std::str::from_utf8);
        match (new, &self.old) {
            (Some(Ok(new)), _) => new.strip_prefix('\u{feff}').unwrap_or(new),
            (_, Some(old)) => old.json(),
            // There is one or the other, and both are UTF-8.
            (_, None) => "null",
        }
    }

    /// What the document says afterwards.
    pub fn value(&self) -> Value {
        parse(self.json().as_bytes(), MAX_DOCUMENT_DEPTH).unwrap_or(Value::Null)
    }
}

/// Changes the document that `text` is. Where that is `None` or nothing but white space, one is
/// made, from `default` if that is there.
///
/// The formatting is kept as [`Document::render`] keeps it; a new document has the library's. Only a patch
/// makes a value of the whole document.
///
/// # Errors
/// Those of [`Document::parse`] and [`apply`]; EMSGSIZE if the text becomes too long.
pub fn edit(
    text: Option<Vec<u8>>,
    default: Option<&Value>,
    change: &Change,
) -> Result<Edited, ControlError> {
    let old = text.map(Document::parse).transpose()?.flatten();
    let Some(document) = &old else {
        let bytes = Some(new_text(&apply(None, default, change)?)?);
        return Ok(Edited { bytes, old: None });
    };
    let bytes = match change {
        Change::Merge(patch) => document.merge(within_depth(patch)?)?,
        Change::Value(value) => document.render(within_depth(value)?)?,
        Change::Patch(patch) => {
            let value = patch.apply(document.value())?;
            document.render(within_depth(&value)?)?
        }
    };
    let bytes = (!document.is(&bytes)).then_some(bytes);
    Ok(Edited { bytes, old })
}

fn within_depth(value: &Value) -> Result<&Value, ControlError> {
    match depth(value) <= MAX_DOCUMENT_DEPTH {
        true => Ok(value),
        false => Err(too_deep()),
    }
}
