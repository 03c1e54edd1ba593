//! Texts: what is the same keeps its bytes, what is new looks like the rest.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::super::json::{
    JsonError, check, parse, push_compact, same_number, same_number_and_sort, same_value, says,
    weight,
};
use super::super::{Change, Code, Document, MAX_DOCUMENT, edit};
use super::{altered, documents, json, values};

/// The text of `before` after a merge patch; it may be the same.
fn merged(before: &str, merge: &str) -> String {
    let edited = edit(
        Some(before.as_bytes().to_vec()),
        None,
        &Change::Merge(json(merge)),
    )
    .unwrap();
    String::from_utf8(edited.bytes.unwrap_or(before.as_bytes().to_vec())).unwrap()
}

/// The text of `before` once it says `value`.
fn rendered(before: &str, value: &str) -> String {
    let document = Document::parse(before.as_bytes().to_vec())
        .unwrap()
        .unwrap();
    String::from_utf8(document.render(&json(value)).unwrap()).unwrap()
}

#[test]
fn what_is_added_looks_like_the_rest() {
    for (before, merge, after) in [
        ("{\"a\":1}\n", r#"{"b":2}"#, "{\"a\":1,\"b\":2}\n"),
        (
            r#"{"a": 1}"#,
            r#"{"b":[1,{"c":2}]}"#,
            r#"{"a": 1, "b": [1, {"c": 2}]}"#,
        ),
        (
            r#"{"a": 1, "b": 2}"#,
            r#"{"c":3}"#,
            r#"{"a": 1, "b": 2, "c": 3}"#,
        ),
        (r#"{ "a" : 1 }"#, r#"{"c":3}"#, r#"{ "a" : 1, "c" : 3 }"#),
        (
            "{\n    \"a\": 1\n}",
            r#"{"b":[1]}"#,
            "{\n    \"a\": 1,\n    \"b\": [\n        1\n    ]\n}",
        ),
        (
            "{\r\n\t\"a\": {}\r\n}\r\n",
            r#"{"a":{"b":1}}"#,
            "{\r\n\t\"a\": {\r\n\t\t\"b\": 1\r\n\t}\r\n}\r\n",
        ),
        (
            "{\n\"a\":1\n}\n",
            r#"{"b":[1]}"#,
            "{\n\"a\":1,\n\"b\":[\n1\n]\n}\n",
        ),
        (
            "{\n  \"a\": [1, 2],\n  \"b\": {\"c\": 3}\n}\n",
            r#"{"b":{"d":[4,5]}}"#,
            "{\n  \"a\": [1, 2],\n  \"b\": {\"c\": 3, \"d\": [4, 5]}\n}\n",
        ),
        (
            "{\"a\": \"\\u00e9\"}",
            r#"{"b":"é😀"}"#,
            "{\"a\": \"\\u00e9\", \"b\": \"\\u00e9\\ud83d\\ude00\"}",
        ),
        (
            "{\"a\": \"\\u00e9é\"}",
            r#"{"b":"é"}"#,
            "{\"a\": \"\\u00e9é\", \"b\": \"é\"}",
        ),
        ("{}\n", r#"{"a":1}"#, "{\n  \"a\": 1\n}\n"),
        (
            "\u{feff}{\"a\":1}",
            r#"{"b":2}"#,
            "\u{feff}{\"a\":1,\"b\":2}",
        ),
        (
            "{\"a\":1\n,\"b\":2\n}",
            r#"{"c":3}"#,
            "{\"a\":1\n,\"b\":2\n,\"c\":3\n}",
        ),
        (
            "[\n  {\"a\": 1}\n]\n",
            r#"{"a":{"b":1}}"#,
            "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n",
        ),
    ] {
        assert_eq!(merged(before, merge), after, "{before} {merge}");
    }
}

#[test]
fn what_is_taken_away_leaves_no_trace() {
    for (before, merge, after) in [
        (
            r#"{ "a": 1, "b": 2, "c": 3 }"#,
            r#"{"a":null}"#,
            r#"{ "b": 2, "c": 3 }"#,
        ),
        (
            r#"{ "a": 1, "b": 2, "c": 3 }"#,
            r#"{"b":null}"#,
            r#"{ "a": 1, "c": 3 }"#,
        ),
        (
            r#"{ "a": 1, "b": 2, "c": 3 }"#,
            r#"{"c":null,"b":null}"#,
            r#"{ "a": 1 }"#,
        ),
        (
            r#"{ "a": 1, "b": 2, "c": 3 }"#,
            r#"{"a":null,"b":null}"#,
            r#"{ "c": 3 }"#,
        ),
        (r#"{ "a": 1, "b": 2 }"#, r#"{"a":null,"b":null}"#, "{}"),
        (
            r#"{ "a": 1, "b": 2 }"#,
            r#"{"a":null,"b":null,"c":3,"d":4}"#,
            r#"{ "c": 3, "d": 4 }"#,
        ),
        (
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n",
            r#"{"b":null}"#,
            "{\n  \"a\": 1\n}\n",
        ),
        (
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n",
            r#"{"b":null,"c":3}"#,
            "{\n  \"a\": 1,\n  \"c\": 3\n}\n",
        ),
    ] {
        assert_eq!(merged(before, merge), after, "{before} {merge}");
    }
}

#[test]
fn lists_change_where_they_differ() {
    let lines = "[\n  {\"a\":  1},\n  {\"b\" : 2},\n  3\n]\n";
    for (before, value, after) in [
        ("[1, 2,  3]", "[1,2,3,4]", "[1, 2,  3, 4]"),
        ("[1, 2,  3]", "[0,1,2,3]", "[0, 1, 2,  3]"),
        ("[1, 2,  3]", "[1,2,9,3]", "[1, 2, 9,  3]"),
        ("[1, 2,  3]", "[2,3]", "[2,  3]"),
        ("[1, 2,  3]", "[1,3]", "[1,  3]"),
        ("[1, 2,  3]", "[1,2]", "[1, 2]"),
        ("[1, 2,  3]", "[]", "[]"),
        ("[1, 2,  3]", "[7]", "[7]"),
        ("[ 1 ]", "[1,2]", "[ 1,2 ]"),
        ("[1]", "[1,2]", "[1,2]"),
        (lines, r#"[{"b":2},3]"#, "[\n  {\"b\" : 2},\n  3\n]\n"),
        (
            lines,
            r#"[{"a":1},{"b":5},3,{}]"#,
            "[\n  {\"a\":  1},\n  {\"b\" : 5},\n  3,\n  {}\n]\n",
        ),
        (lines, r#"[3]"#, "[\n  3\n]\n"),
    ] {
        assert_eq!(rendered(before, value), after, "{before} {value}");
    }
}

#[test]
fn digits_and_spellings_survive() {
    let text = r#"{"n":[1e400,1.10,12345678901234567890123,-0,1E5,1e05,0.0,-0.0E-0],"s":"\u00e9\/é","$serde_json::private::Number":"x"}"#;
    let after = merged(text, r#"{"x":1E5,"y":-0,"z":100000000000000000000000.10}"#);
    let added = r#","x":1E5,"y":-0,"z":100000000000000000000000.10}"#;
    assert_eq!(after, format!("{}{added}", &text[..text.len() - 1]));
    // A program that knows floats only gives this back.
    assert_eq!(
        rendered("[1.10, 1E5, 2]", "[1.1,100000.0,2]"),
        "[1.10, 1E5, 2]"
    );
    assert_eq!(
        rendered("[1.10, 1E5, 2]", "[1.1,100000.0,2.0]"),
        "[1.10, 1E5, 2.0]"
    );
}

#[test]
fn a_document_that_is_the_same_is_not_written() {
    let text = b"{\"a\":1.0, \"b\":[2]}";
    let change = Change::Value(json(r#"{"b":[2],"a":1.00}"#));
    let edited = edit(Some(text.to_vec()), None, &change).unwrap();
    assert!(!edited.changed());
    // But one that was not there is.
    for nothing in [None, Some(&b""[..]), Some(b" \r\n"), Some(b"\xef\xbb\xbf")] {
        let default = json(r#"{"a":[]}"#);
        let edited = edit(
            nothing.map(<[u8]>::to_vec),
            Some(&default),
            &Change::Merge(json("{}")),
        )
        .unwrap();
        assert_eq!(edited.value(), default);
        assert_eq!(edited.bytes.unwrap(), b"{\n  \"a\": []\n}\n");
    }
}

#[test]
fn what_is_no_document_is_refused() {
    let code = |text: &[u8]| Document::parse(text.to_vec()).unwrap_err().code;
    for text in [
        &b"{"[..],
        b"}",
        b"[1,]",
        b"{\"a\":1,}",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"1e",
        b"nul",
        b"NaN",
        b"\"\\ud800\"",
        b"\"\\x\"",
        b"\"a\nb\"",
        b"\"\xff\"",
        b"\"\xc3",
        b"\"",
        b"\"\\",
        b"1 2",
        b"// c\n1",
        b"{\"a\":1,\"\\u0061\":2}",
        b"[{\"a\":{\"b\":1,\"b\":1}}]",
        b"\0",
        b"{1:2}",
        b"'a'",
    ] {
        assert_eq!(
            code(text),
            Code::BadMessage,
            "{:?}",
            String::from_utf8_lossy(text)
        );
    }
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(Document::parse(nested(120).as_bytes().to_vec()).is_ok());
    assert_eq!(code(nested(121).as_bytes()), Code::MessageSize);
    assert_eq!(
        code("[{\"a\":".repeat(500_000).as_bytes()),
        Code::MessageSize
    );
    assert_eq!(code(&vec![b' '; MAX_DOCUMENT + 1]), Code::MessageSize);
    let error = Document::parse(b"{\n  \"a\": 1,\n  \"a\": 2}".to_vec()).unwrap_err();
    assert_eq!(
        error.message,
        "not a JSON document: a second member \"a\" at line 3, column 3"
    );
}

#[test]
fn a_text_does_not_outgrow_its_limit() {
    let space = " ".repeat(MAX_DOCUMENT - 20);
    let text = format!("{{{space}\"a\":1}}");
    let long = Value::String("x".repeat(100));
    let change = Change::Merge([("b".to_owned(), long)].into_iter().collect());
    let error = edit(Some(text.as_bytes().to_vec()), None, &change).unwrap_err();
    assert_eq!(error.code, Code::MessageSize);
}

#[test]
fn numbers_are_compared_without_rounding() {
    let number = |text: &str| match json(text) {
        Value::Number(number) => number,
        _ => unreachable!(),
    };
    for (left, right, same, sort) in [
        ("1", "1.0", true, false),
        ("1", "10e-1", true, false),
        ("1.10", "1.1", true, true),
        ("1e400", "10.0E+399", true, true),
        ("0", "-0.0e9", true, false),
        ("0.0", "-0.0", true, false),
        ("100000000000000000000000", "1e23", true, false),
        (
            "12345678901234567890123",
            "12345678901234567890124",
            false,
            false,
        ),
        ("0.1", "0.10000000000000001", false, false),
        ("1", "-1", false, false),
        (
            "1e99999999999999999999999999999999999999999",
            "1e9",
            false,
            false,
        ),
        (
            "1e99999999999999999999999999999999999999999",
            "1.0E+99999999999999999999999999999999999999999",
            true,
            true,
        ),
    ] {
        assert_eq!(
            same_number(&number(left), &number(right)),
            same,
            "{left} {right}"
        );
        assert_eq!(
            same_number_and_sort(&number(left), &number(right)),
            sort,
            "{left} {right}"
        );
    }
}

proptest! {
    #[test]
    fn an_unchanged_document_keeps_every_byte((value, text) in documents()) {
        let Some(document) = Document::parse(text.as_bytes().to_vec()).unwrap() else {
            return Err(TestCaseError::fail("a value is there"));
        };
        prop_assert_eq!(&document.value(), &value);
        prop_assert!(document.says(&value));
        let rendered = document.render(&value).unwrap();
        prop_assert_eq!(rendered, text.into_bytes());
    }

    #[test]
    fn a_rendered_document_says_the_value(
        (value, text) in documents(),
        other in values(),
        choices in vec(any::<u8>(), 1..60),
    ) {
        let document = Document::parse(text.as_bytes().to_vec()).unwrap().unwrap();
        let new = altered(&value, &other, &mut choices.into_iter().cycle());
        for new in [&new, &other] {
            let rendered = document.render(new).unwrap();
            let again = Document::parse(rendered.clone()).unwrap().unwrap();
            prop_assert!(again.says(new), "{}", String::from_utf8_lossy(&rendered));
            prop_assert_eq!(again.render(new).unwrap(), rendered);
        }
    }

    #[test]
    fn usual_layouts_stay_what_they_are(
        value in values(),
        other in values(),
        choices in vec(any::<u8>(), 1..60),
        compact in any::<bool>(),
    ) {
        // A container with something in it, so that there is a layout.
        let wrap = |value: Value| json(&format!(r#"{{"a":{value},"b":0}}"#));
        let write = |value: &Value| match compact {
            true => format!("{value}"),
            false => format!("{value:#}\n"),
        };
        let new = wrap(altered(&value, &other, &mut choices.into_iter().cycle()));
        let document = Document::parse(write(&wrap(value)).into_bytes()).unwrap().unwrap();
        let rendered = document.render(&new).unwrap();
        // Members have their old order; apart from that it is as if written anew.
        let again = Document::parse(rendered.clone()).unwrap().unwrap();
        prop_assert_eq!(write(&again.value()).into_bytes(), rendered);
    }

    #[test]
    fn any_bytes_are_taken_or_refused_as_serde_json_does(text in vec(any::<u8>(), 0..40)) {
        let ours = parse(&text, 100);
        let theirs = serde_json::from_slice::<Value>(&text);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok());
    }

    #[test]
    fn nearly_json_is_taken_or_refused_as_serde_json_does(
        text in "[\\[\\]{},:\"\\\\ue0159.+\\-tn\n ]{0,12}|(\\[|\\{\"|\"|1|,|:|\\]|\\}|\\\\ud83d|\\\\ude00|null){0,9}",
    ) {
        match (parse(text.as_bytes(), 100), serde_json::from_str::<Value>(&text)) {
            // Names that are there twice, and the one difference.
            (Err(JsonError::Syntax { problem, .. }), Ok(_)) => {
                prop_assert!(problem.starts_with("a second member"), "{}", problem);
            }
            (ours, theirs) => prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}", text),
        }
    }

    #[test]
    fn damaged_documents_never_panic(
        (_, text) in documents(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        match cut {
            true => text.truncate(at),
            false => text[at] = byte,
        }
        if let Ok(Some(document)) = Document::parse(text.clone()) {
            let same = document.render(&document.value()).unwrap();
            prop_assert_eq!(same, text);
        }
    }
}

proptest! {
    /// What is counted beforehand is what it takes, and not much more.
    #[test]
    fn what_is_checked_is_what_is_parsed(
        text in "[\\[\\]{},:\"\\\\ue0159.+\\-tn\n ]{0,12}|(\\[|\\{\"|\"|1|,|:|\\]|\\}|\\\\ud83d|\\\\ude00|null|\"a\":|\"b\":){0,12}",
        depth in 0usize..4,
    ) {
        let parsed = parse(text.as_bytes(), depth);
        let checked = check(text.as_bytes(), depth);
        prop_assert_eq!(parsed.is_ok(), checked.is_ok(), "{}", text);
        let _ = weight(text.as_bytes());
    }

    #[test]
    fn a_text_is_compared_as_its_value_is(
        (value, text) in documents(),
        other in values(),
        choices in vec(any::<u8>(), 1..60),
    ) {
        let other = altered(&value, &other, &mut choices.into_iter().cycle());
        prop_assert!(says(&text, &value, &same_number));
        prop_assert_eq!(
            says(&text, &other, &same_number_and_sort),
            same_value(&value, &other, &same_number_and_sort)
        );
        let mut compact = Vec::new();
        push_compact(&mut compact, &text);
        prop_assert!(!compact.contains(&b'\n'));
        prop_assert_eq!(parse(&compact, 200).unwrap(), value);
    }
}

#[test]
fn many_names_are_told_apart() {
    let mut names: Vec<String> = (0..200_000).map(|n| format!("\"{n}\":{n}")).collect();
    let text = |names: &[String]| format!("[{{\"a\":{{{}}}}}]", names.join(","));
    check(text(&names).as_bytes(), 3).unwrap();
    names.push("\"\\u0037\":1".to_owned());
    let error = check(text(&names).as_bytes(), 3).unwrap_err();
    assert!(
        error.to_string().starts_with("a second member \"7\""),
        "{error}"
    );
}
