//! Requests and replies.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::{json, values};

fn refused(text: &str) -> Code {
    parse_request(text.as_bytes()).unwrap_err().code
}

#[test]
fn requests_are_read() {
    let read = |text: &str| parse_request(text.as_bytes()).unwrap();
    let path = ControlPath::new("a/b.json").unwrap();
    assert_eq!(
        read(r#"{"op":"update","path":"a/b.json","merge":{"b":1E5,"c":null},"return":true}"#),
        Request::Update {
            path: path.clone(),
            change: Change::Merge(json(r#"{"b":1E5,"c":null}"#)),
            default: None,
            timeout: DEFAULT_TIMEOUT,
            returns: true,
        }
    );
    assert_eq!(
        read(r#" {"version":1,"op":"begin","path":"a/b.json","default":null,"timeout":0.5} "#),
        Request::Begin {
            path: path.clone(),
            default: Some(json("null")),
            timeout: Duration::from_millis(500),
        }
    );
    assert_eq!(
        read(r#"{"op":"commit","value":null}"#),
        Request::Commit {
            change: Change::Value(json("null")),
            returns: false,
        }
    );
    assert_eq!(
        read(r#"{"op":"publish","path":"a/b.json"}"#),
        Request::Publish { path: path.clone() }
    );
    assert_eq!(
        read(r#"{"op":"break","path":"a/b.json"}"#),
        Request::Break { path }
    );
    for (op, request) in [
        ("abort", Request::Abort),
        ("locks", Request::Locks),
        ("drafts", Request::Drafts),
        ("failures", Request::Failures),
        ("salvage", Request::Salvage),
        ("stats", Request::Stats),
        ("status", Request::Status),
    ] {
        assert_eq!(read(&format!(r#"{{"op":"{op}"}}"#)), request);
    }
}

#[test]
fn what_is_no_request_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        "{",
        r#"{"op":1}"#,
        r#"{"op":"other"}"#,
        r#"{"op":"abort","op":"abort"}"#,
        r#"{"op":"abort","path":"a"}"#,
        r#"{"op":"abort","version":"1"}"#,
        r#"{"op":"begin"}"#,
        r#"{"op":"begin","path":1}"#,
        r#"{"op":"begin","path":"../a"}"#,
        r#"{"op":"begin","path":".polystore/control.json"}"#,
        r#"{"op":"begin","path":"a","return":true}"#,
        r#"{"op":"begin","path":"a","timeout":-1}"#,
        r#"{"op":"begin","path":"a","timeout":3600.001}"#,
        r#"{"op":"begin","path":"a","timeout":1e999}"#,
        r#"{"op":"begin","path":"a","timeout":null}"#,
        r#"{"op":"begin","path":"a","timeout":"1"}"#,
        r#"{"op":"update","path":"a"}"#,
        r#"{"op":"update","path":"a","value":1}"#,
        r#"{"op":"update","path":"a","merge":{},"patch":[]}"#,
        r#"{"op":"update","path":"a","merge":{},"return":1}"#,
        r#"{"op":"update","path":"a","merge":{"b":1,"b":2}}"#,
        r#"{"op":"update","path":"a","patch":{}}"#,
        r#"{"op":"update","path":"a","patch":[{"op":"add","path":"/a"}]}"#,
        r#"{"op":"commit"}"#,
        r#"{"op":"commit","value":1,"default":1}"#,
        r#"{"op":"locks","all":true}"#,
    ] {
        assert_eq!(refused(text), Code::Invalid, "{text}");
    }
    assert_eq!(
        refused(r#"{"op":"later","version":2,"new":1}"#),
        Code::Version
    );
    assert_eq!(refused(&"[".repeat(100)), Code::MessageSize);
    let zero = r#"{"op":"begin","path":"a","timeout":-0}"#;
    assert!(
        matches!(parse_request(zero.as_bytes()), Ok(Request::Begin { timeout, .. }) if timeout.is_zero())
    );
    let most = r#"{"op":"begin","path":"a","timeout":3.6e3}"#;
    assert!(
        matches!(parse_request(most.as_bytes()), Ok(Request::Begin { timeout, .. }) if timeout == MAX_TIMEOUT)
    );
}

#[test]
fn replies_are_lines_that_clients_read() {
    let reply = UpdateReply {
        turn: 7,
        changed: true,
        value: None,
    };
    let line = reply_line(&reply).unwrap();
    assert_eq!(
        line,
        b"{\"ok\":true,\"version\":1,\"turn\":7,\"changed\":true}\n"
    );
    assert_eq!(read_reply::<UpdateReply>(&line).unwrap(), reply);
    let null = UpdateReply {
        turn: 7,
        changed: true,
        value: Some(Exact(json("null"))),
    };
    assert_eq!(
        read_reply::<UpdateReply>(&reply_line(&null).unwrap()).unwrap(),
        null
    );
    assert_eq!(
        reply_line(&DoneReply {}).unwrap(),
        b"{\"ok\":true,\"version\":1}\n"
    );
    let newer = br#"{"ok":true,"version":1,"turn":1,"exists":false,"value":{"$serde_json::private::Number":"1"},"more":[1.5]}"#;
    let begun: BeginReply = read_reply(newer).unwrap();
    assert_eq!(
        begun.value.0,
        json(r#"{"$serde_json::private::Number":"1"}"#)
    );

    let error = ControlError::new(Code::NoEntry, "c.json: no such file");
    let line = error_line(&error);
    assert_eq!(
        String::from_utf8(line.clone()).unwrap(),
        "{\"ok\":false,\"version\":1,\"error\":{\"code\":\"ENOENT\",\"message\":\"c.json: no such file\"}}\n"
    );
    assert_eq!(read_reply::<DoneReply>(&line), Err(error));
    let unknown = br#"{"ok":false,"error":{"code":"ENEW","message":"m"}}"#;
    assert_eq!(
        read_reply::<DoneReply>(unknown).unwrap_err().code.name(),
        "EIO"
    );
    assert_eq!(
        read_reply::<DoneReply>(b"what").unwrap_err().code,
        Code::BadMessage
    );
}

#[test]
fn status_is_read_back() {
    let party = Party {
        kind: LockKind::Flock,
        shared: true,
        pid: Some(1),
        uid: None,
        process: None,
        waited: Some(0.25),
    };
    let status = StatusReply {
        locks: Some(vec![LockEntry {
            path: "a".into(),
            turn: Some(3),
            holders: vec![],
            waiters: vec![party],
        }]),
        stats: Some(Stats {
            opened: Some(u64::MAX),
            uptime: Some(1.5),
            ..Stats::default()
        }),
        ..StatusReply::default()
    };
    let line = reply_line(&status).unwrap();
    assert_eq!(
        String::from_utf8(line.clone()).unwrap(),
        "{\"ok\":true,\"version\":1,\"locks\":[{\"path\":\"a\",\"turn\":3,\"holders\":[],\"waiters\":[{\"kind\":\"flock\",\"shared\":true,\"pid\":1,\"waited\":0.25}]}],\"stats\":{\"opened\":18446744073709551615,\"uptime\":1.5}}\n"
    );
    assert_eq!(read_reply::<StatusReply>(&line).unwrap(), status);
    let newer = br#"{"ok":true,"drafts":[{"path":"a","kind":"clone","size":1}]}"#;
    let drafts: DraftsReply = read_reply(newer).unwrap();
    assert_eq!(drafts.drafts[0].kind, DraftKind::Unknown);
}

#[test]
fn requests_end_where_their_brace_does() {
    let push = |chunk: &str| Framer::new().push(chunk.as_bytes());
    assert_eq!(push(" \n"), Ok(None));
    assert_eq!(push("\t{} \r\n").unwrap().unwrap(), b"{}");
    assert_eq!(
        push(r#"{"a":"}\"}"}"#).unwrap().unwrap(),
        br#"{"a":"}\"}"}"#
    );
    for bad in ["x", "\u{feff}{}", "[", "{}{}", "{} x", "\0{}"] {
        assert_eq!(push(bad).unwrap_err().code, Code::Invalid, "{bad}");
    }
    let nested = |levels: usize| {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(levels - 1),
            "]".repeat(levels - 1)
        )
    };
    assert!(push(&nested(64)).unwrap().is_some());
    assert_eq!(push(&nested(65)).unwrap_err().code, Code::MessageSize);
}

#[test]
fn a_request_that_failed_is_forgotten() {
    let mut framer = Framer::new();
    assert_eq!(framer.push(b"{\"a\":"), Ok(None));
    assert!(framer.has_begun());
    assert!(framer.push(b"1} {").is_err());
    assert!(!framer.has_begun());
    let part = vec![b'x'; MAX_REQUEST / 2];
    assert_eq!(framer.push(b"{\""), Ok(None));
    assert_eq!(framer.push(&part), Ok(None));
    assert_eq!(framer.push(&part).unwrap_err().code, Code::MessageSize);
    assert_eq!(framer.push(b"{}").unwrap().unwrap(), b"{}");
}

proptest! {
    #[test]
    fn requests_are_found_however_they_are_cut(
        value in values(),
        pretty in any::<bool>(),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let object = json(&format!(r#"{{"v":{value}}}"#));
        let object = if pretty { format!("{object:#}") } else { object.to_string() };
        let text = format!(" \n{object}\n ");
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        cuts.sort_unstable();
        let (mut framer, mut from, mut found) = (Framer::new(), 0, None);
        for to in cuts.into_iter().chain([text.len()]) {
            if let Some(request) = framer.push(&text.as_bytes()[from..to]).unwrap() {
                prop_assert!(found.replace(request).is_none());
            }
            from = to;
        }
        prop_assert_eq!(found.unwrap(), object.into_bytes());
        prop_assert!(!framer.has_begun());
    }

    #[test]
    fn any_bytes_are_framed_and_read_without_panic(chunks in vec(vec(any::<u8>(), 0..20), 0..5)) {
        let mut framer = Framer::new();
        for chunk in chunks {
            let _ = framer.push(&chunk);
            let _ = framer.push(&[b"{\"op\":", &chunk[..]].concat());
            let _ = parse_request(&chunk);
            let _ = read_reply::<StatusReply>(&chunk);
        }
    }

    #[test]
    fn values_go_through_replies_unchanged(value in values()) {
        let reply = BeginReply { turn: 1, exists: true, value: Exact(value) };
        let line = reply_line(&reply).unwrap();
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(read_reply::<BeginReply>(&line).unwrap(), reply);
    }
}
