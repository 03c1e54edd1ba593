//! What a mount says of itself, as tables.

use polystore_mount::control::{
    DraftEntry, DraftKind, FailureEntry, LockEntry, LockKind, Party, SalvageEntry, Stats,
    StatusReply,
};

use super::super::client::Mount;
use super::super::table::table;
use crate::quote;

/// All of it.
pub fn status(mount: &Mount, status: &StatusReply) -> String {
    let at = quote::path(&mount.mountpoint);
    let data = quote::path(&mount.data);
    let uptime = status.stats.as_ref().and_then(|stats| stats.uptime);
    let since = uptime.map_or(String::new(), |uptime| {
        format!(", for {}", duration(uptime))
    });
    let mut text = format!("{at}: polystore mount of {data}{since}\n");
    if let Some(list) = &status.drafts {
        section(&mut text, "open drafts", list, drafts);
    }
    if let Some(list) = &status.locks {
        section(&mut text, "turns and locks", list, locks);
    }
    if let Some(list) = &status.failures {
        section(
            &mut text,
            "failures that close() could not report",
            list,
            failures,
        );
    }
    if let Some(list) = &status.salvage {
        section(&mut text, "salvage", list, salvage);
    }
    if let Some(stats) = &status.stats {
        text.push_str(&format!("\n{}", counters(stats)));
    }
    text
}

fn section<T>(text: &mut String, title: &str, list: &[T], show: impl Fn(&[T]) -> String) {
    match list {
        [] => text.push_str(&format!("\n{title}: none\n")),
        list => text.push_str(&format!("\n{title}:\n{}", show(list))),
    }
}

fn drafts(list: &[DraftEntry]) -> String {
    let row = |draft: &DraftEntry| {
        let kind = match draft.kind {
            DraftKind::Rewrite => "rewrite",
            DraftKind::New => "new",
            DraftKind::Edit => "edit",
            DraftKind::Unknown => "-",
        };
        [
            quote::text(&draft.path),
            kind.to_owned(),
            number(draft.bytes),
            draft.age.map_or("-".into(), duration),
            number(draft.handles),
            process(draft.process.as_deref(), draft.pid, draft.uid),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    table(
        ["FILE", "KIND", "BYTES", "AGE", "OPEN", "PROCESS"],
        &[2, 3, 4],
        &rows,
    )
}

fn locks(list: &[LockEntry]) -> String {
    let mut rows = Vec::new();
    for lock in list {
        let parties = (lock.holders.iter().map(|holder| (true, holder)))
            .chain(lock.waiters.iter().map(|waiter| (false, waiter)));
        let row = |(holds, party): (bool, &Party)| {
            [
                quote::text(&lock.path),
                number(lock.turn),
                match holds {
                    true => "holds".to_owned(),
                    false => party.waited.map_or("waits".into(), |waited| {
                        format!("waits {}", duration(waited))
                    }),
                },
                kind_of(party).to_owned(),
                process(party.process.as_deref(), party.pid, party.uid),
            ]
        };
        let before = rows.len();
        rows.extend(parties.map(row));
        if rows.len() == before {
            let path = quote::text(&lock.path);
            rows.push([
                path,
                number(lock.turn),
                "free".into(),
                "-".into(),
                "-".into(),
            ]);
        }
    }
    table(["FILE", "TURN", "STATE", "KIND", "PROCESS"], &[1], &rows)
}

fn kind_of(party: &Party) -> &'static str {
    match (party.kind, party.shared) {
        (LockKind::Turn, false) => "turn",
        (LockKind::Turn, true) => "shared turn",
        (LockKind::Flock, false) => "flock",
        (LockKind::Flock, true) => "shared flock",
        (LockKind::Fcntl, false) => "fcntl",
        (LockKind::Fcntl, true) => "shared fcntl",
        (LockKind::Unknown, _) => "-",
    }
}

fn failures(list: &[FailureEntry]) -> String {
    let row = |failure: &FailureEntry| {
        [
            quote::text(&failure.when),
            quote::text(&failure.path),
            quote::text(&failure.message),
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    table(["TIME", "FILE", "FAILURE"], &[], &rows)
}

/// How much there is; `polystore salvage list` shows it.
fn salvage(list: &[SalvageEntry]) -> String {
    let bytes: u64 = list
        .iter()
        .fold(0, |sum, item| sum.saturating_add(item.bytes));
    format!(
        "{} kept, {bytes} bytes (polystore salvage list)\n",
        list.len()
    )
}

fn counters(stats: &Stats) -> String {
    let since = [
        ("opened", stats.opened),
        ("published", stats.published),
        ("discarded", stats.discarded),
        ("salvaged", stats.salvaged),
        ("failed", stats.failed),
        ("updates", stats.updates),
        ("turns", stats.turns),
        ("waited for", stats.turns_waited),
        ("timed out", stats.turns_timed_out),
    ];
    let present = [
        ("drafts", stats.drafts),
        ("open files", stats.handles),
        ("known files", stats.nodes),
        ("waiters", stats.waiters),
    ];
    let list = |counters: &[(&str, Option<u64>)]| {
        let known = counters
            .iter()
            .filter_map(|(name, count)| Some(format!("{name} {}", (*count)?)));
        known.collect::<Vec<_>>().join(", ")
    };
    let lines = [
        ("since it was mounted", list(&since)),
        ("now", list(&present)),
    ];
    let known = lines.iter().filter(|(_, list)| !list.is_empty());
    known
        .map(|(title, list)| format!("{title}: {list}\n"))
        .collect()
}

fn number(number: Option<u64>) -> String {
    number.map_or("-".into(), |number| number.to_string())
}

/// `sort (pid 12, uid 1000)`, as far as it is known.
fn process(name: Option<&str>, pid: Option<u32>, uid: Option<u32>) -> String {
    let pid = pid.map(|pid| format!("pid {pid}"));
    let uid = uid.map(|uid| format!("uid {uid}"));
    let numbers: Vec<String> = pid.into_iter().chain(uid).collect();
    let numbers = numbers.join(", ");
    match (name.filter(|name| !name.is_empty()), numbers.is_empty()) {
        (Some(name), true) => quote::text(name),
        (Some(name), false) => format!("{} ({numbers})", quote::text(name)),
        (None, false) => numbers,
        (None, true) => "-".to_owned(),
    }
}

/// A time, to two digits or so.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{:.1}s", s.max(0.0)),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount() -> Mount {
        Mount::example("/safe", "/da\nta")
    }

    #[test]
    fn everything_is_shown_and_nothing_moves_the_cursor() {
        let reply = r#"{"ok":true,"version":1,
            "drafts":[{"path":"a\u001b[2J/b","kind":"rewrite","bytes":12,"age":75.2,"pid":7,"uid":0,"process":"so\nrt","handles":2}],
            "locks":[{"path":"c.json","turn":4,
                "holders":[{"kind":"turn","shared":false,"pid":8,"process":"jq"}],
                "waiters":[{"kind":"flock","shared":true,"pid":9,"waited":0.25},{"kind":"new","shared":false}]},
                {"path":"free.lock","holders":[],"waiters":[]}],
            "failures":[{"path":"d","when":"2026-01-31T12:00:00Z","message":"No space left on device"}],
            "salvage":[{"id":"1","reason":"killed","bytes":5,"when":"2026-01-31T12:00:00Z"}],
            "stats":{"opened":3,"uptime":7300,"waiters":1}}"#;
        let reply: StatusReply = polystore_mount::control::read_reply(reply.as_bytes()).unwrap();
        assert_eq!(
            status(&mount(), &reply),
            "/safe: polystore mount of /da\\x0ata, for 2h\n\n\
             open drafts:\n\
             FILE        KIND     BYTES  AGE  OPEN  PROCESS\n\
             a\\x1b[2J/b  rewrite     12  75s     2  so\\x0art (pid 7, uid 0)\n\n\
             turns and locks:\n\
             FILE       TURN  STATE       KIND          PROCESS\n\
             c.json        4  holds       turn          jq (pid 8)\n\
             c.json        4  waits 0.2s  shared flock  pid 9\n\
             c.json        4  waits       -             -\n\
             free.lock     -  free        -             -\n\n\
             failures that close() could not report:\n\
             TIME                  FILE  FAILURE\n\
             2026-01-31T12:00:00Z  d     No space left on device\n\n\
             salvage:\n\
             1 kept, 5 bytes (polystore salvage list)\n\n\
             since it was mounted: opened 3\n\
             now: waiters 1\n"
        );
    }

    #[test]
    fn what_is_not_told_is_not_shown() {
        let nothing = status(&mount(), &StatusReply::default());
        assert_eq!(nothing, "/safe: polystore mount of /da\\x0ata\n");
        let empty = StatusReply {
            drafts: Some(Vec::new()),
            ..StatusReply::default()
        };
        assert!(status(&mount(), &empty).ends_with("\n\nopen drafts: none\n"));
    }

    #[test]
    fn durations() {
        for (seconds, shown) in [
            (0.04, "0.0s"),
            (9.94, "9.9s"),
            (9.96, "10s"),
            (119.0, "119s"),
            (600.0, "10m"),
            (7200.0, "2h"),
            (172_800.0, "2d"),
        ] {
            assert_eq!(duration(seconds), shown);
        }
    }
}
