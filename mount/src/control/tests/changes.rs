//! Merges and patches.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::json::{same_number_and_sort, same_value};
use super::super::{Change, Code, ControlError, Patch, apply, edit};
use super::{json, values};

fn patched(document: &str, patch: &str) -> Result<Value, ControlError> {
    let patch = Patch::parse(json(patch))?;
    apply(Some(&json(document)), None, &Change::Patch(patch))
}

/// RFC 7396, appendix A.
#[test]
fn merges_of_the_standard() {
    for (original, merge, result) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (
            r#"{"a":{"b":"c"}}"#,
            r#"{"a":{"b":"d","c":null}}"#,
            r#"{"a":{"b":"d"}}"#,
        ),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        let change = Change::Merge(json(merge));
        assert_eq!(
            apply(Some(&json(original)), None, &change).unwrap(),
            json(result)
        );
    }
}

/// RFC 6902, appendix A.
#[test]
fn patches_of_the_standard() {
    for (document, patch, result) in [
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux"}]"#,
            r#"{"foo":"bar","baz":"qux"}"#,
        ),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            r#"{"foo":["bar","qux","baz"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"remove","path":"/baz"}]"#,
            r#"{"foo":"bar"}"#,
        ),
        (
            r#"{"foo":["bar","qux","baz"]}"#,
            r#"[{"op":"remove","path":"/foo/1"}]"#,
            r#"{"foo":["bar","baz"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            r#"[{"op":"replace","path":"/baz","value":"boo"}]"#,
            r#"{"baz":"boo","foo":"bar"}"#,
        ),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            r#"{"foo":["all","cows","eat","grass"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            r#"{"foo":"bar","child":{"grandchild":{}}}"#,
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
            r#"{"foo":"bar","baz":"qux"}"#,
        ),
        (
            r#"{"/":9,"~1":10}"#,
            r#"[{"op":"test","path":"/~01","value":10}]"#,
            r#"{"/":9,"~1":10}"#,
        ),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            r#"{"foo":["bar",["abc","def"]]}"#,
        ),
    ] {
        assert_eq!(patched(document, patch).unwrap(), json(result), "{patch}");
    }
    // A.9, A.15
    let failed = patched(
        r#"{"baz":"qux"}"#,
        r#"[{"op":"test","path":"/baz","value":"bar"}]"#,
    );
    assert_eq!(failed.unwrap_err().code, Code::NoMessage);
    let failed = patched(
        r#"{"~1":10}"#,
        r#"[{"op":"test","path":"/~01","value":"10"}]"#,
    );
    assert_eq!(failed.unwrap_err().code, Code::NoMessage);
    // A.12
    let failed = patched(
        r#"{"foo":"bar"}"#,
        r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#,
    );
    assert_eq!(failed.unwrap_err().code, Code::Invalid);
}

#[test]
fn patches_at_the_edges() {
    for (document, patch, result) in [
        (
            "1",
            r#"[{"op":"add","path":"","value":{"a":1}}]"#,
            r#"{"a":1}"#,
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"copy","from":"","path":"/b"}]"#,
            r#"{"a":1,"b":{"a":1}}"#,
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"move","from":"/a","path":""}]"#,
            "1",
        ),
        (
            r#"{"a":1}"#,
            r#"[{"op":"move","from":"/a","path":"/a"}]"#,
            r#"{"a":1}"#,
        ),
        (
            r#"{"":1}"#,
            r#"[{"op":"replace","path":"/","value":2}]"#,
            r#"{"":2}"#,
        ),
        (
            r#"{"a":null}"#,
            r#"[{"op":"test","path":"/a","value":null}]"#,
            r#"{"a":null}"#,
        ),
        (
            "[1,2.50]",
            r#"[{"op":"test","path":"","value":[1.0,25e-1]}]"#,
            "[1,2.50]",
        ),
        ("[]", r#"[{"op":"add","path":"/0","value":1}]"#, "[1]"),
        ("{}", "[]", "{}"),
    ] {
        assert_eq!(patched(document, patch).unwrap(), json(result), "{patch}");
    }
    let order = patched(r#"{"a":1,"b":2,"c":3}"#, r#"[{"op":"remove","path":"/a"}]"#).unwrap();
    assert_eq!(order.to_string(), r#"{"b":2,"c":3}"#);
    for (document, patch) in [
        ("[1]", r#"[{"op":"remove","path":"/-"}]"#),
        ("[1]", r#"[{"op":"remove","path":"/1"}]"#),
        ("[1]", r#"[{"op":"replace","path":"/00","value":1}]"#),
        ("[1]", r#"[{"op":"add","path":"/+0","value":1}]"#),
        (
            "[1]",
            r#"[{"op":"add","path":"/99999999999999999999","value":1}]"#,
        ),
        ("[1]", r#"[{"op":"add","path":"/2","value":1}]"#),
        ("{}", r#"[{"op":"remove","path":""}]"#),
        ("{}", r#"[{"op":"remove","path":"/a"}]"#),
        ("{}", r#"[{"op":"replace","path":"/a","value":1}]"#),
        ("{}", r#"[{"op":"add","path":"a","value":1}]"#),
        ("{}", r#"[{"op":"add","path":"/~2","value":1}]"#),
        ("{}", r#"[{"op":"add","path":"/~","value":1}]"#),
        ("{}", r#"[{"op":"add","path":"/a"}]"#),
        ("{}", r#"[{"op":"add","value":1}]"#),
        ("{}", r#"[{"op":"copy","path":"/a"}]"#),
        ("{}", r#"[{"op":"other","path":"/a"}]"#),
        ("{}", r#"[1]"#),
        ("{}", r#"{}"#),
        (
            r#"{"a":{}}"#,
            r#"[{"op":"move","from":"/a","path":"/a/b"}]"#,
        ),
        (r#"{"a":{}}"#, r#"[{"op":"move","from":"/b","path":"/b"}]"#),
    ] {
        assert_eq!(
            patched(document, patch).unwrap_err().code,
            Code::Invalid,
            "{patch}"
        );
    }
}

#[test]
fn a_failure_says_which_operation() {
    let patch = r#"[{"op":"add","path":"/b","value":1},{"op":"test","path":"/a~1","value":2}]"#;
    let error = patched(r#"{"a/":1}"#, patch).unwrap_err();
    assert_eq!(error.code, Code::NoMessage);
    assert_eq!(
        error.message,
        "operation 1, test \"/a~1\": the value is another"
    );
    let missing = patched("{}", r#"[{"op":"test","path":"/a","value":null}]"#).unwrap_err();
    assert_eq!(missing.code, Code::NoMessage);
}

#[test]
fn patches_do_not_outgrow_the_limits() {
    let double = r#"{"op":"copy","from":"","path":"/b"}"#;
    let patch = format!("[{}]", vec![double; 130].join(","));
    assert_eq!(
        patched(r#"{"a":1}"#, &patch).unwrap_err().code,
        Code::MessageSize
    );
    let wide = r#"{"op":"copy","from":"","path":"/-"}"#;
    let patch = format!("[{}]", vec![wide; 60].join(","));
    let text = format!("[\"{}\"]", "x".repeat(4000));
    let error = patched(&text, &patch).unwrap_err();
    assert_eq!(error.code, Code::MessageSize);
    assert!(error.message.contains("MiB"), "{}", error.message);
    let flat = r#"{"op":"copy","from":"/a","path":"/b"},{"op":"add","path":"/a","value":["x"]},{"op":"copy","from":"/b","path":"/a/-"}"#;
    assert!(patched(r#"{"a":1}"#, &format!("[{flat}]")).is_ok());
}

#[test]
fn documents_that_are_not_there() {
    let patch = |text| Change::Patch(Patch::parse(json(text)).unwrap());
    let none = apply(None, None, &patch("[]"));
    assert_eq!(none.unwrap_err().code, Code::NoEntry);
    let none = edit(Some(b"\n".to_vec()), None, &patch("[]"));
    assert_eq!(none.unwrap_err().code, Code::NoEntry);
    let added = patch(r#"[{"op":"add","path":"/a","value":1}]"#);
    assert_eq!(
        apply(None, Some(&json("{}")), &added).unwrap(),
        json(r#"{"a":1}"#)
    );
    let merge = Change::Merge(json(r#"{"a":1,"b":null}"#));
    assert_eq!(apply(None, None, &merge).unwrap(), json(r#"{"a":1}"#));
    let default = json(r#"{"b":2,"c":3}"#);
    assert_eq!(
        apply(None, Some(&default), &merge).unwrap(),
        json(r#"{"c":3,"a":1}"#)
    );
    assert_eq!(
        apply(Some(&json("{}")), Some(&default), &merge).unwrap(),
        json(r#"{"a":1}"#)
    );
}

/// RFC 7396, section 2, word for word.
fn naive(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(target) => target,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.shift_remove(name);
        } else {
            let old = target.get(name).cloned().unwrap_or(Value::Null);
            target.insert(name.clone(), naive(old, value));
        }
    }
    Value::Object(target)
}

proptest! {
    #[test]
    fn merges_are_those_of_the_standard(target in values(), merge in values()) {
        let result = apply(Some(&target), None, &Change::Merge(merge.clone())).unwrap();
        let expected = naive(target, &merge);
        prop_assert_eq!(&result, &expected);
        // The order of members, too.
        prop_assert_eq!(result.to_string(), expected.to_string());
    }

    #[test]
    fn an_edit_is_what_the_change_says(target in values(), merge in values()) {
        let text = format!("{target:#}");
        let edited = edit(Some(text.as_bytes().to_vec()), None, &Change::Merge(merge.clone())).unwrap();
        let expected = naive(target, &merge);
        prop_assert!(same_value(&edited.value(), &expected, &same_number_and_sort), "{}", edited.json());
        // Members have their old order, and new ones come last.
        let names = |value: &Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>());
        prop_assert_eq!(names(&edited.value()), names(&expected));
        if let Some(bytes) = edited.bytes {
            let again = edit(Some(bytes), None, &Change::Merge(merge)).unwrap();
            prop_assert!(!again.changed());
        }
    }

    #[test]
    fn anything_as_a_patch_never_panics(document in values(), patch in values()) {
        if let Ok(patch) = Patch::parse(patch) {
            let _ = patch.apply(document);
        }
    }

    #[test]
    fn operations_anywhere_never_panic(
        document in values(),
        value in values(),
        steps in prop::collection::vec(("add|remove|replace|move|copy|test", "(/[a-d]|/[0-3]|/-){0,3}", "(/[a-d]|/[0-3]){0,3}"), 0..8),
    ) {
        let steps = steps.iter().map(|(op, path, from)| {
            format!(r#"{{"op":"{op}","path":"{path}","from":"{from}","value":{value}}}"#)
        });
        let steps = format!("[{}]", steps.collect::<Vec<_>>().join(","));
        let patch = Patch::parse(json(&steps)).unwrap();
        let _ = patch.apply(document);
    }
}
