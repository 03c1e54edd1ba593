//! What real programs do that a naive implementation of the promises trips over.

use crate::harness::{promise, same};

same!(
    /// A child writes, by name, the file that its parent made and holds open.
    child_writes_its_parents_temporary_file,
    |m| {
        m.py(r#"
for _ in range(20):
    with tempfile.NamedTemporaryFile(dir=".") as f:
        subprocess.run(["openssl", "rand", "-out", f.name, "32"], check=True)
        equal(len(f.read()), 32, "read by the parent's descriptor")
        equal(os.stat(f.name).st_size, 32, "size by name")
    equal(os.listdir("."), [], "names left")
with tempfile.NamedTemporaryFile("w", dir=".", delete=False) as f:
    f.write("from the parent\n")
    f.flush()
    subprocess.run(["sh", "-c", f"echo from the child >> {f.name}"], check=True)
equal(read(f.name), b"from the parent\nfrom the child\n")
"#);
    }
);

same!(
    /// ffmpeg reads its own output back by name and moves its index to the front.
    ffmpeg_faststart,
    |m| {
        let make = "ffmpeg -nostdin -loglevel error -y -f lavfi \
            -i testsrc=duration=1:size=160x120:rate=10 -c:v mpeg4 -threads 1 -fflags +bitexact -flags +bitexact";
        let copy = "ffmpeg -nostdin -loglevel error -y -i in.mp4 -c copy -fflags +bitexact -movflags +faststart";
        m.sh_same(
            "content,mode,owner",
            &format!("{make} in.mp4; {copy} new.mp4; echo old > old.mp4; {copy} old.mp4; cmp new.mp4 old.mp4"),
        );
        m.sh("ffmpeg -nostdin -loglevel error -xerror -i old.mp4 -f null -; \
              python3 -c \"d = open('old.mp4', 'rb').read(); assert d.index(b'moov') < d.index(b'mdat')\"");
    }
);

same!(
    /// Logs of any name, held open for append by their writer.
    logrotate,
    |m| {
        for (name, how) in [("app.log", "create"), ("messages", "create"), ("app.log", "copytruncate"), ("messages", "copytruncate")] {
            m.sh_same(
                "content,mode,links",
                &format!(
                    r#"rm -f *; umask 022
                    echo "$PWD/{name} {{ rotate 3
                        {how}
                    }}" > $HOME/rotate.conf; chmod 644 $HOME/rotate.conf; rm -f $HOME/state
                    mkfifo $HOME/go; exec 8<> $HOME/go; ( while read line <&8; do echo "$line"; test "$line" != end || break; done ) >> {name} &
                    echo first >&8; while ! grep -q first {name}; do sleep 0.01; done
                    logrotate -f -s $HOME/state $HOME/rotate.conf
                    echo second >&8; while ! grep -q second {name}*; do sleep 0.01; done
                    logrotate -f -s $HOME/state $HOME/rotate.conf
                    echo end >&8; wait; rm $HOME/go $HOME/state
                    cat {name}.2 {name}.1 {name}"#
                ),
            );
        }
    }
);

same!(flock_on_a_redirected_file, |m| {
    m.py(r#"
script = "(flock -n 9 || { echo busy; exit 1; }; echo in; read x) 9> x.lck"
def start():
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for name in ("new", "old"):
    if name == "old":
        write("x.lck", "")
    first = start()
    equal(first.stdout.readline(), b"in\n", f"{name}: the first")
    for _ in range(3):
        equal(start().communicate(b"\n")[0], b"busy\n", f"{name}: another")
    first.communicate(b"\n")
    last = start()
    equal(last.communicate(b"\n")[0], b"in\n", f"{name}: the last")
    os.unlink("x.lck")
out = subprocess.run(["flock", "-n", "y.lck", "sh", "-c", "flock -n y.lck true || echo busy"], stdout=subprocess.PIPE)
equal(out.stdout, b"busy\n", "flock(1) by name")
"#);
});

same!(
    /// What is looked at while it is written: each line is there once it is written.
    followed_log,
    |m| {
        m.py(r#"
def lines(command, name):
    if os.path.exists(name):
        os.unlink(name)
    writer = subprocess.Popen(["sh", "-c", f"while read line; do echo $line; done {command}"], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not os.path.exists(name):
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.01)
    tail = subprocess.Popen(["tail", "-s", "0.05", "-n", "+1", "-f", name], stdout=subprocess.PIPE)
    for number in range(5):
        writer.stdin.write(b"line %d\n" % number)
        writer.stdin.flush()
        assert select.select([tail.stdout], [], [], 30)[0], f"{command}: line {number} did not come"
        equal(tail.stdout.readline(), b"line %d\n" % number, command)
    writer.stdin.close()
    writer.wait()
    tail.kill()
    tail.wait()
    equal(len(read(name).splitlines()), 5, command)

lines("> out.log", "out.log")
lines("> nohup.out", "nohup.out")
lines(">> out.txt", "out.txt")
"#);
    }
);

same!(
    /// A database that is new: others read and write it while its maker has it open.
    new_sqlite_database,
    |m| {
        m.py(SQLITE);
    }
);

const SQLITE: &str = r#"
import sqlite3

def shell(name, statement):
    result = subprocess.run(["sqlite3", "-cmd", ".timeout 20000", name, statement], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    equal((result.returncode, result.stderr), (0, b""), statement)
    return result.stdout

def fill(line, name, key):
    database = sqlite3.connect(name, timeout=60)
    for number in range(40):
        with database:
            database.execute("insert into t values (?, ?)", (key, number))
    database.close()

for journal in ("delete", "wal", "truncate"):
    name = f"{journal}.db"
    maker = sqlite3.connect(name, timeout=60)
    equal(maker.execute(f"pragma journal_mode={journal}").fetchone()[0], journal)
    with maker:
        maker.execute("create table t (key, value)")
        maker.execute("insert into t values ('first', 1)")
    equal(shell(name, "select * from t"), b"first|1\n", f"{journal}: another reads")
    shell(name, "insert into t values ('other', 2)")
    equal(maker.execute("select count(*) from t").fetchone()[0], 2, f"{journal}: the maker sees it")
    writers = [Worker(fill, name, key) for key in range(3)]
    for writer in writers:
        writer.done()
    equal(maker.execute("select count(*) from t").fetchone()[0], 122, f"{journal}: rows")
    equal(shell(name, "pragma integrity_check"), b"ok\n", journal)
    maker.close()
    equal(shell(DATA + "/" + name, "select count(*) from t"), b"122\n", f"{journal}: in the backing directory")

def dies(line):
    database = sqlite3.connect("delete.db", isolation_level=None)
    database.execute("pragma cache_size=1")
    database.execute("begin immediate")
    for number in range(2000):
        database.execute("insert into t values ('lost', zeroblob(500))")
    line.say("in the middle")
    time.sleep(60)
writer = Worker(dies)
writer.hear()
assert os.path.exists("delete.db-journal"), "others see the journal"
writer.kill()
writer.wait()
equal(shell("delete.db", "select count(*) from t"), b"122\n", "rolled back")
equal(shell("delete.db", "pragma integrity_check"), b"ok\n")
"#;

/// A disk of 24 MiB, a good version of a file on it, and a rewrite that cannot fit.
const FULL_DISK: &str = r#"
def fill(name):
    """True if the program got an error."""
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    except OSError as error:
        equal(error.errno, errno.ENOSPC)
        return True
    try:
        for _ in range(64):
            os.write(fd, b"x" * 1_000_000)
    except OSError as error:
        equal(error.errno, errno.ENOSPC, "write")
        try:
            os.close(fd)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EIO), error
        return True
    try:
        os.close(fd)
    except OSError as error:
        equal(error.errno, errno.ENOSPC, "close")
        return True
    return False
"#;

promise!(
    /// An error of the disk reaches the program, and the old version stays.
    full_disk_keeps_the_old_version,
    Setup::on_image("ext4", 24).and_options(&["--salvage", "0"]),
    |m| {
        m.py(&format!(
            "{FULL_DISK}
good = os.urandom(1_000_000)
write('f', good)
for _ in range(3):
    assert fill('f'), 'no error'
    assert read('f') == good, 'the old version'
    assert read(DATA + '/f') == good, 'the old version in the backing directory'
    assert fill('new'), 'no error'
    equal(os.path.exists('new'), False, 'a new file')
    write('small', os.urandom(100_000))
shell = subprocess.run('cat /dev/zero > f', shell=True, stderr=subprocess.PIPE)
assert shell.returncode != 0 and b'No space' in shell.stderr, shell
assert read('f') == good, 'the old version'
equal(sorted(set(os.listdir('.')) - {{'lost+found'}}), ['f', 'small'])
"
        ));
    }
);

promise!(
    /// A limit of the writer's own (`ulimit -f`) is an error, too, and one of no other file.
    file_size_limit,
    |m| {
        m.py(r#"
import resource
def limited(line):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    f = open("f", "wb", 0)
    fails(errno.EFBIG, lambda: [f.write(b"x" * 60_000) for _ in range(3)])
    line.say("failed")
    time.sleep(60)
write("f", "old")
worker = Worker(limited)
equal(worker.hear(), "failed")
equal(read("f"), b"old", "while it is open")
worker.kill()
worker.wait()
equal(read("f"), b"old", "after the death of its writer")
"#);
    }
);

same!(
    /// An exec closes descriptors while it holds a lock that parts of `/proc` wait for: a mount that
    /// read those of whoever closes would wait for itself.
    exec_closes_what_is_not_inherited,
    |m| {
        m.py(r#"
def child(prepare):
    pid = os.fork()
    if pid == 0:
        kept = prepare()
        os.execv("/bin/true", ["true"])
    equal(os.waitpid(pid, 0)[1], 0, "the child's end")
for n in range(50):
    f = open("f", "w")
    f.write(str(n))
    f.flush()
    child(lambda: None)
    def write():
        g = open("g", "w")
        g.write(str(n))
        g.flush()
        return g
    child(write)
    f.close()
    equal((read("f"), read("g")), (str(n).encode(), str(n).encode()), "what was written")
"#);
    }
);
