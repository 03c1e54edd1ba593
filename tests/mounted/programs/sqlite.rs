//! SQLite, in each of its ways to keep a database whole, with several processes and with kills.
//!
//! A writer says a number after its COMMIT, and what it has said must be there whatever is
//! killed. Each transaction writes two rows and a total, so a reader who sees a part of one knows.

use crate::harness::{Mounted, count, same};

/// Four writers, of which one after the other is killed, and two readers.
/// Asks for MODE, SYNC, KILLS.
const WRITERS_AND_READERS: &str = r#"
import sqlite3

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS entry(writer INTEGER, number INTEGER, side INTEGER, filler BLOB, PRIMARY KEY(writer, number, side))",
    "CREATE TABLE IF NOT EXISTS total(writer INTEGER PRIMARY KEY, number INTEGER)",
)

class Patient(sqlite3.Connection):
    """Tries again what SQLite itself does not: playing back a journal when somebody else does."""

    def execute(self, *arguments):
        deadline = time.monotonic() + 60
        while True:
            try:
                return super().execute(*arguments)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

def connect():
    db = sqlite3.connect("base.db", timeout=60, isolation_level=None, factory=Patient)
    db.execute(f"PRAGMA synchronous={SYNC}")
    equal(db.execute(f"PRAGMA journal_mode={MODE}").fetchone()[0].lower(), MODE.lower())
    return db

def writes(line, writer):
    db = connect()
    for statement in SCHEMA:
        db.execute(statement)
    number = db.execute("SELECT number FROM total WHERE writer=?", (writer,)).fetchone()
    number = number[0] if number else 0
    while True:
        number += 1
        db.execute("BEGIN IMMEDIATE")
        for side in (0, 1):
            db.execute("INSERT INTO entry VALUES(?, ?, ?, ?)", (writer, number, side, os.urandom(random.randrange(5000))))
        db.execute("INSERT OR REPLACE INTO total VALUES(?, ?)", (writer, number))
        db.execute("DELETE FROM entry WHERE writer=? AND number=?", (writer, number - 20))
        db.execute("COMMIT")
        line.say(number)
        time.sleep(random.random() * 0.01)

def reads(line):
    db = connect()
    while not line.waiting(0):
        db.execute("BEGIN")
        totals = dict(db.execute("SELECT writer, number FROM total"))
        highest = dict(db.execute("SELECT writer, max(number) FROM entry GROUP BY writer"))
        sides = dict(db.execute("SELECT writer, count(*) FROM entry GROUP BY writer"))
        db.execute("COMMIT")
        equal(highest, totals, "rows and totals")
        for writer, number in totals.items():
            equal(sides[writer], 2 * min(number, 20), "both sides")
        # SQLite's locks are not fair: who never pauses starves the others.
        time.sleep(random.random() * 0.01)

def all_heard(worker, wait):
    """The last number that a writer has said so far."""
    last = 0
    try:
        while worker.line.waiting(wait):
            last = int(worker.hear())
            wait = 0
    except EOFError:
        pass
    return last

writers = {n: Worker(writes, n) for n in range(4)}
said = {n: 0 for n in writers}
for n in writers:
    said[n] = int(writers[n].hear())
readers = [Worker(reads) for _ in range(2)]
for kill in range(KILLS):
    n = kill % 4
    said[n] = max(said[n], int(writers[n].hear()))
    time.sleep(random.random() * 0.03)
    writers[n].kill()
    writers[n].wait()
    said[n] = max(said[n], all_heard(writers[n], 0))
    there = connect().execute("SELECT number FROM total WHERE writer=?", (n,)).fetchone()[0]
    assert said[n] <= there <= said[n] + 1, f"writer {n}: said {said[n]}, there is {there}"
    said[n] = there
    writers[n] = Worker(writes, n)
for reader in readers:
    reader.say("end")
    reader.done()
for n, writer in writers.items():
    said[n] = max(said[n], int(writer.hear()))
    writer.kill()
    writer.wait()
    said[n] = max(said[n], all_heard(writer, 0))
db = connect()
equal(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
for writer, number in db.execute("SELECT writer, number FROM total"):
    assert number >= said[writer], f"writer {writer}: said {said[writer]}, there is {number}"
    equal(db.execute("SELECT count(*) FROM entry WHERE writer=? AND number=?", (writer, number)).fetchone(), (2,))
db.close()
"#;

fn writers_and_readers(m: &Mounted, mode: &str, synchronous: &str) {
    let kills = count("POLYSTORE_TEST_SQLITE_KILLS", 24);
    m.py(&format!(
        "MODE, SYNC, KILLS = '{mode}', '{synchronous}', {kills}\n{WRITERS_AND_READERS}"
    ));
    // A write takes a killed writer's journal away.
    let tidy = m.sh(r#"
        sqlite3 base.db "PRAGMA journal_mode=DELETE; DELETE FROM total; PRAGMA integrity_check"; ls"#);
    assert_eq!(tidy, "delete\nok\nbase.db\n");
    let beside = m.data().join("base.db");
    let check = format!("sqlite3 {} 'PRAGMA integrity_check'", beside.display());
    assert_eq!(m.sh(&check), "ok\n");
}

/// A database that was made outside and copied in, as one that was there before the mount.
fn existing_database(m: &Mounted) {
    m.sh(r#"
        sqlite3 $TMPDIR/old.db "CREATE TABLE old(x); INSERT INTO old VALUES('kept')"
        cp $TMPDIR/old.db base.db"#);
}

same!(a_new_rollback_journal, Setup::needs(&["sqlite3"]), |m| {
    writers_and_readers(m, "DELETE", "FULL");
});

same!(
    an_existing_rollback_journal,
    Setup::needs(&["sqlite3"]),
    |m| {
        existing_database(m);
        writers_and_readers(m, "DELETE", "FULL");
        assert_eq!(m.sh("sqlite3 base.db 'SELECT x FROM old'"), "kept\n");
    }
);

same!(
    /// Nothing is synced, but a kill of a process is no power cut.
    a_new_unsynced_journal,
    Setup::needs(&["sqlite3"]),
    |m| {
        writers_and_readers(m, "DELETE", "OFF");
    }
);

same!(
    an_existing_unsynced_journal,
    Setup::needs(&["sqlite3"]),
    |m| {
        existing_database(m);
        writers_and_readers(m, "TRUNCATE", "OFF");
    }
);

same!(a_new_write_ahead_log, Setup::needs(&["sqlite3"]), |m| {
    writers_and_readers(m, "WAL", "NORMAL");
});

same!(
    an_existing_write_ahead_log,
    Setup::needs(&["sqlite3"]),
    |m| {
        existing_database(m);
        writers_and_readers(m, "WAL", "FULL");
    }
);

same!(a_persistent_journal, Setup::needs(&["sqlite3"]), |m| {
    m.py(&format!(
        "MODE, SYNC, KILLS = 'PERSIST', 'NORMAL', 8\n{WRITERS_AND_READERS}"
    ));
});

same!(
    /// The shell: dump and load, vacuum, backup, two databases in one transaction, a rollback.
    the_shell,
    Setup::needs(&["sqlite3"]),
    |m| {
        m.sh_same(
            "content,mode",
            r#"umask 022
            sqlite3 a.db "CREATE TABLE t(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000) INSERT INTO t SELECT n || ' some text' FROM c"
            sqlite3 a.db "DELETE FROM t WHERE rowid % 3 = 0; VACUUM; VACUUM INTO 'b.db'"
            sqlite3 a.db ".backup c.db"; sqlite3 a.db .dump > dump.sql; sqlite3 d.db < dump.sql
            sqlite3 a.db "ATTACH 'b.db' AS b; BEGIN; INSERT INTO t VALUES('both'); INSERT INTO b.t VALUES('both'); COMMIT"
            sqlite3 a.db "ATTACH 'b.db' AS b; BEGIN; DELETE FROM t; DELETE FROM b.t; ROLLBACK; SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM b.t)"
            for db in a b c d; do sqlite3 $db.db "PRAGMA integrity_check; SELECT count(*), min(x), max(x) FROM t"; done
            touch empty.db; sqlite3 empty.db "CREATE TABLE t(x); INSERT INTO t VALUES(1)"; sqlite3 -readonly empty.db "SELECT * FROM t"
            sqlite3 w.db "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(1)"; sqlite3 w.db "PRAGMA journal_mode=DELETE; SELECT * FROM t"
            sqlite3 a.db "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; INSERT INTO t VALUES('alone')"; sqlite3 a.db "PRAGMA journal_mode=DELETE"
            mv a.db moved.db; sqlite3 moved.db "INSERT INTO t VALUES('moved'); SELECT count(*) FROM t"
            ln -s moved.db link.db; sqlite3 link.db "INSERT INTO t VALUES('linked'); SELECT count(*) FROM t""#,
        );
    }
);

same!(
    /// A writer that dies in the middle of a transaction leaves a hot journal, which the next one plays back.
    hot_journals,
    Setup::needs(&["sqlite3"]),
    |m| {
        m.py(r#"
import sqlite3
for sync in ("OFF", "FULL"):
    for old in (True, False):
        name = f"{sync}-{old}.db"
        if old:
            subprocess.run(["sqlite3", f"{TMP}/{name}", "CREATE TABLE t(x); INSERT INTO t VALUES('old')"], check=True)
            write(name, read(f"{TMP}/{name}"))
        else:
            subprocess.run(["sqlite3", name, "CREATE TABLE t(x); INSERT INTO t VALUES('old')"], check=True)
        peer, = peers(1)
        peer("import sqlite3")
        peer(f'db = sqlite3.connect("{name}", isolation_level=None)')
        peer(f'db.execute("PRAGMA synchronous={sync}")')
        peer('db.execute("PRAGMA cache_size=5")')
        peer('db.execute("BEGIN")')
        peer('db.execute("UPDATE t SET x = \'new\'")')
        peer('[db.execute("INSERT INTO t VALUES(hex(randomblob(4000)))") for _ in range(100)] and None')
        assert os.path.getsize(f"{name}-journal") > 512, "the cache did not spill"
        assert os.path.getsize(name) > 100_000, "the cache did not spill"
        peer.kill()
        assert os.path.exists(f"{name}-journal"), "the journal is gone"
        rows = subprocess.run(["sqlite3", name, "SELECT x FROM t; PRAGMA integrity_check"], check=True, capture_output=True, text=True)
        equal(rows.stdout, "old\nok\n", name)
"#);
    }
);
