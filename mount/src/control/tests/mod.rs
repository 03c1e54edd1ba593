//! What holds across the modules of the control channel, for many documents.

mod changes;
mod documents;
mod protocol;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Number, Value};

use super::json::parse;

/// Reads a value as the control channel does.
pub fn json(text: &str) -> Value {
    parse(text.as_bytes(), 200).unwrap()
}

/// Numbers in every form.
fn numbers() -> impl Strategy<Value = Value> {
    "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?"
        .prop_map(|text| Value::Number(Number::from_string_unchecked(text)))
}

/// Strings, with what needs an escape in some.
fn strings() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-d]{0,2}",
        "[a\"\\\\/\n\t\u{0}\u{1f}\u{7f}\u{e9}\u{2028}\u{1f600}]{0,4}",
        Just("$serde_json::private::Number".to_owned()),
        Just("$serde_json::private::RawValue".to_owned()),
    ]
}

/// Values whose objects share many names.
pub fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        numbers(),
        strings().prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let members = vec((strings(), inner.clone()), 0..6);
        prop_oneof![
            vec(inner, 0..6).prop_map(Value::Array),
            members.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Writes `value` in a way that `choices` decide, and that is often odd.
fn scribble(value: &Value, choices: &mut impl Iterator<Item = u8>, out: &mut String) {
    let mut space = |out: &mut String| {
        const SPACES: [&str; 9] = ["", "", "", " ", "\n", "\r\n  ", "\n\t", "  ", " \r"];
        out.push_str(SPACES[usize::from(choices.next().unwrap_or(0)) % SPACES.len()]);
    };
    space(out);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                scribble(item, choices, out);
            }
            if items.is_empty() {
                scribble_space(choices, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (at, (name, member)) in members.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                scribble(&Value::from(name.as_str()), choices, out);
                out.push(':');
                scribble(member, choices, out);
            }
            out.push('}');
        }
        Value::String(string) => scribble_string(string, choices, out),
        other => out.push_str(&other.to_string()),
    }
    scribble_space(choices, out);
}

fn scribble_space(choices: &mut impl Iterator<Item = u8>, out: &mut String) {
    out.push_str(["", " ", "\n", "\t"][usize::from(choices.next().unwrap_or(0)) % 4]);
}

/// With escapes where none are needed.
fn scribble_string(string: &str, choices: &mut impl Iterator<Item = u8>, out: &mut String) {
    out.push('"');
    for character in string.chars() {
        if choices.next().unwrap_or(0) < 80 || character < ' ' || "\"\\".contains(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        } else {
            out.push(character);
        }
    }
    out.push('"');
}

/// A value and a text that says it.
pub fn documents() -> impl Strategy<Value = (Value, String)> {
    (values(), vec(any::<u8>(), 1..40)).prop_map(|(value, choices)| {
        let mut text = String::new();
        scribble(&value, &mut choices.into_iter().cycle(), &mut text);
        (value, text)
    })
}

/// A value that differs from `value` here and there, as `choices` decide.
pub fn altered(value: &Value, other: &Value, choices: &mut impl Iterator<Item = u8>) -> Value {
    let choice = choices.next().unwrap_or(0) % 8;
    match (value, choice) {
        (_, 0) => other.clone(),
        (Value::Array(items), choice) => {
            let mut items: Vec<Value> = items
                .iter()
                .map(|item| altered(item, other, choices))
                .collect();
            let at = usize::from(choices.next().unwrap_or(0)) % (items.len() + 1);
            match choice {
                1 => items.insert(at, other.clone()),
                2 => items.truncate(at),
                3 if at < items.len() => drop(items.remove(at)),
                4 => drop(items.drain(..at)),
                _ => {}
            }
            Value::Array(items)
        }
        (Value::Object(members), choice) => {
            let mut altered_members = Map::new();
            for (name, member) in members {
                if choices.next().unwrap_or(0) > 60 || choice > 5 {
                    altered_members.insert(name.clone(), altered(member, other, choices));
                }
            }
            if choice % 2 == 1 {
                altered_members.insert("new".to_owned(), other.clone());
                altered_members.insert("newer".to_owned(), Value::Null);
            }
            Value::Object(altered_members)
        }
        (scalar, _) => scalar.clone(),
    }
}
