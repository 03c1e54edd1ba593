//! Rewriting a file: whole versions, in one step, at the last close.

use crate::harness::{count, promise, same};
use std::time::Duration;

promise!(
    /// The shell opens the output, `sort` the input: both are `names.txt`.
    sort_onto_its_own_input,
    |m| {
        m.sh("seq 20000 | shuf > names.txt; sort names.txt > names.txt");
        m.sh("test \"$(wc -l < names.txt)\" = 20000; sort -c names.txt");
        assert_eq!(m.in_data("names.txt").lines().count(), 20000);
    }
);

promise!(jq_onto_its_own_input, |m| {
    m.sh(r#"echo '{"b": 1, "a": [1, 2]}' > f; jq -cS . f > f; test "$(cat f)" = '{"a":[1,2],"b":1}'"#);
    assert_eq!(m.in_data("f"), "{\"a\":[1,2],\"b\":1}\n");
});

promise!(cat_onto_its_own_input, |m| {
    m.sh("echo one > a; echo two > f; cat a f > f");
    assert_eq!(m.in_data("f"), "one\ntwo\n");
});

same!(colon_empties, |m| {
    m.sh(": > new; echo old > f; : > f; test ! -s f; test -e new");
    assert_eq!(m.in_data("f"), "");
    m.sh("echo again > f; true > f; test ! -s f");
});

same!(
    /// Two redirections of one command to one file are one file.
    output_and_errors_into_one_file,
    |m| {
        let script = "for f in new old; do
            (echo output; echo errors >&2) > $f 2> $f
            (echo output; echo errors >&2) >> a$f 2>> a$f
            (echo output; echo errors >&2) > b$f 2>&1
            (echo output; echo errors >&2) > c$f 2>> c$f
        done";
        m.sh_same("content,mode,owner", &format!("for f in old aold bold cold; do echo before > $f; done; {script}"));
    }
);

promise!(
    /// Readers of three kinds, while a writer goes through versions of many sizes:
    /// nobody sees a torn version, or an older one than before.
    readers_see_whole_versions,
    |m| {
        let rounds = count("POLYSTORE_TEST_ROUNDS", 500);
        m.py_within(
            Duration::from_secs(60) + Duration::from_millis(60) * rounds,
            &format!("ROUNDS = {rounds}\n{READERS}"),
        );
    }
);

const READERS: &str = r#"
from versions import *

def watch(line, content):
    last = 0
    seen = set()
    while not line.waiting(0):
        number = number_of(content())
        assert number >= last, f"version {number} after version {last}"
        last = number
        seen.add(number)
    line.say(len(seen))

def mapped():
    with open("f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as area:
        return area[:]

def as_long_as_stat_says():
    fd = os.open("f", os.O_RDONLY)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)

write_version("f", 0, 1000)
readers = [Worker(watch, how) for how in (lambda: read("f"), mapped, as_long_as_stat_says)]
def rewrite(line):
    for number in range(1, ROUNDS + 1):
        write_version("f", number, random.choice((10, 4000, 70_000, 400_000)), random.randint(1, 5))
        equal(read_version("f"), number, "the writer's own next read")
Worker(rewrite).done()
for reader in readers:
    reader.say("stop")
    assert int(reader.hear()) > 1, "a reader saw one version only"
    reader.done()
equal(number_of(read(DATA + "/f")), ROUNDS, "the backing file")
"#;

promise!(
    /// Readers that the writer itself started before it opened the file (a server's workers) are
    /// no part of what it is doing.
    readers_forked_before_the_draft,
    |m| {
        m.py(r#"
from versions import *

def watch(line):
    last = 0
    while not line.waiting(0):
        number = read_version("f")
        assert number >= last, f"version {number} after version {last}"
        last = number

write_version("f", 0, 1000)
readers = [Worker(watch) for _ in range(2)]
time.sleep(0.1)
for number in range(1, 300):
    write_version("f", number, random.choice((10, 4000, 300_000)), 4)
for reader in readers:
    reader.say("stop")
    reader.done()
"#);
    }
);

same!(
    /// What a writer has closed, everybody sees at once: in content and in size.
    close_then_read,
    |m| {
        let rounds = count("POLYSTORE_TEST_ROUNDS", 500);
        m.py_within(
            Duration::from_secs(60) + Duration::from_millis(20) * rounds,
            &format!(
                r#"
from versions import *
def check(path, number, size):
    equal(os.stat(path).st_size, HEADER.size + size, "stat")
    equal(read_version(path), number, "read")
    equal(os.stat(path).st_size, HEADER.size + size, "stat after read")

def follow(line):
    for _ in range({rounds}):
        path, number, size = line.hear().split()
        check(path, int(number), int(size))
        line.say("seen")

followers = [Worker(follow) for _ in range(2)]
for number in range({rounds}):
    path, size = f"f{{number % 3}}", random.randint(0, 20_000)
    write_version(path, number, size)
    for follower in followers:
        follower.say(f"{{path}} {{number}} {{size}}")
    check(path, number, size)
    for follower in followers:
        equal(follower.hear(), "seen")
for follower in followers:
    follower.done()
"#
            ),
        );
    }
);

promise!(
    /// Two that rewrite one file at once never mix; who closes last has the last word.
    two_rewriters_never_mix,
    |m| {
        m.py(r#"
one, two, reader = peers(3)
write("f", "old")
one("f = open('f', 'wb', 0)")
two("f = open('f', 'wb', 0)")
equal(reader("read('f')"), b"old", "while both are open")
one("f.write(b'1' * 100_000)")
two("f.write(b'2' * 50_000)")
one("f.write(b'1' * 100_000)")
two("f.close()")
equal(reader("read('f')"), b"2" * 50_000, "after the first close")
one("f.close()")
equal(reader("read('f')"), b"1" * 200_000, "after the second close")
"#);
        let rounds = count("POLYSTORE_TEST_ROUNDS", 500) / 5;
        m.py_within(
            Duration::from_secs(60) + Duration::from_millis(100) * rounds,
            &format!(
                r#"
from versions import *
def rewrite(line, writer):
    for number in range({rounds}):
        write_version("g", number, 30_000 * writer, pieces=7)
write_version("g", 0, 5)
writers = [Worker(rewrite, writer) for writer in (1, 2, 3)]
for _ in range({rounds}):
    read_version("g")
for writer in writers:
    writer.done()
read_version("g")
"#
            ),
        );
    }
);

same!(
    /// A child appends to what its parent is writing and has flushed, not closed.
    child_appends_to_its_parents_draft,
    |m| {
        m.py(r#"
for name in ("new", "old"):
    if name == "old":
        write(name, "before")
    with open(name, "w") as f:
        f.write("parent\n")
        f.flush()
        subprocess.run(f"echo child >> {name}", shell=True, check=True)
    equal(read(name), b"parent\nchild\n", name)
"#);
    }
);

promise!(
    /// A reader has the old version until the last descriptor of the draft is closed.
    the_last_close_publishes,
    |m| {
        m.py(r#"
writer, reader = peers(2)
write("f", "old")
writer("f = os.open('f', os.O_WRONLY | os.O_TRUNC)")
equal(reader("read('f')"), b"old", "opened")
writer("os.write(f, b'new')")
equal(reader("read('f')"), b"old", "written")
equal(reader("os.stat('f').st_size"), 3, "size")
writer("g = os.dup(f)")
writer("os.close(f)")
equal(reader("read('f')"), b"old", "one of two closed")
writer("child = Worker(lambda line: line.hear())")
writer("os.close(g)")
equal(reader("read('f')"), b"old", "closed here, a child has it")
writer("child.say('end'); child.done()")
equal(reader("read('f')"), b"new", "closed everywhere")
equal(read(DATA + "/f"), b"new", "in the backing directory")
"#);
    }
);

promise!(
    /// Who opened a version before keeps it, by read and by map.
    open_readers_keep_their_version,
    |m| {
        m.py(r#"
from versions import *
write_version("f", 1, 300_000)
f = open("f", "rb")
area = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
f.read(1000)
for number in (2, 3):
    write_version("f", number, 200_000)
    f.seek(0)
    equal(number_of(f.read()), 1, "read")
    equal(number_of(area[:]), 1, "map")
    equal(os.fstat(f.fileno()).st_size, HEADER.size + 300_000, "fstat")
    equal(read_version("f"), number, "opened anew")
"#);
    }
);

promise!(
    /// A new name: nobody else sees it before it is closed; its maker and his children do.
    new_file_is_private_until_close,
    |m| {
        m.py(r#"
maker, reader = peers(2)
reader("missing = lambda: (fails(errno.ENOENT, os.stat, 'new'), fails(errno.ENOENT, open, 'new'))")
reader("missing()")
maker("f = open('new', 'wb', 0)")
reader("missing()")
maker("f.write(b'content')")
reader("missing()")
for peer in (maker, reader):
    equal(peer("'new' in os.listdir('.')"), False, "listed")
equal(maker("os.stat('new').st_size"), 7, "the maker's stat")
equal(maker("os.fstat(f.fileno()).st_nlink"), 1, "its links")
equal(maker("read('new')"), b"content", "the maker's read")
child = "subprocess.run(['stat', '-c', '%s', 'new'], stdout=subprocess.PIPE).stdout"
equal(maker(child), b"7\n", "a child's stat")
reader("fails(errno.EEXIST, os.open, 'new', os.O_CREAT | os.O_EXCL | os.O_WRONLY)")
reader("fails(errno.EEXIST, os.mkdir, 'new')")
reader("fails(errno.EEXIST, os.symlink, 'x', 'new')")
maker("f.close()")
equal(reader("read('new')"), b"content", "closed")
equal(reader("'new' in os.listdir('.')"), True, "listed when closed")
"#);
    }
);

same!(
    /// A program reads back by name what it has written and not closed yet.
    own_draft_by_name,
    |m| {
        m.py(r#"
write("f", "before")
f = open("f", "wb", 0)
f.write(b"written")
equal(read("f"), b"written", "own read by name")
with open("f", "r+b") as again:
    again.seek(0)
    again.write(b"W")
f.seek(0, 2)
f.write(b" on")
f.close()
equal(read("f"), b"Written on", "both handles wrote one file")
"#);
    }
);

same!(
    /// `open("f.tmp", "w")`, write, rename, close: with and without a stale `f.tmp`.
    rename_before_close,
    |m| {
        m.py(r#"
reader, = peers(1)
for target in ("new", "old"):
    for stale in (False, True):
        for late in (False, True):
            if target == "old":
                write("f", "before")
            elif os.path.exists("f"):
                os.unlink("f")
            if stale:
                write("f.tmp", "stale stale stale")
            f = open("f.tmp", "wb", 0)
            if not late:
                f.write(b"first")
            os.rename("f.tmp", "f")
            fails(errno.ENOENT, os.stat, "f.tmp")
            equal(reader("os.path.exists('f.tmp')"), False, "f.tmp for others")
            equal(reader("read('f')"), b"" if late else b"first", "renamed")
            f.write(b"second")
            f.close()
            equal(reader("read('f')"), b"second" if late else b"firstsecond", "closed")
            fails(errno.ENOENT, os.stat, "f.tmp")
"#);
    }
);

same!(
    /// Writes by name that a program does while it has the file open reach what it opened.
    attributes_of_a_draft,
    |m| {
        m.py(r#"
os.umask(0o022)
for name in ("new", "old"):
    if name == "old":
        write(name, "before")
        os.chmod(name, 0o600)
    f = open(name, "wb", 0)
    f.write(b"content")
    os.chmod(name, 0o640)
    os.utime(name, ns=(1_000_000_001, 2_000_000_002))
    os.setxattr(name, "user.key", b"value")
    f.close()
    status = os.stat(name)
    equal(stat.S_IMODE(status.st_mode), 0o640, f"{name}: mode")
    equal(status.st_mtime_ns, 2_000_000_002, f"{name}: mtime")
    equal(os.getxattr(name, "user.key"), b"value", f"{name}: xattr")
for name in ("by descriptor", "old"):
    f = open(name, "wb", 0)
    f.write(b"content")
    os.fchmod(f.fileno(), 0o600)
    os.utime(f.fileno(), ns=(3_000_000_003, 4_000_000_004))
    f.close()
    equal(stat.S_IMODE(os.stat(name).st_mode), 0o600, f"{name}: mode")
    equal(os.stat(name).st_mtime_ns, 4_000_000_004, f"{name}: mtime")
"#);
    }
);

same!(
    /// A rewrite changes content and times, and nothing else of a file.
    rewrite_keeps_what_it_should,
    |m| {
        m.sh_same(
            "content,mode,owner,links,xattrs",
            "umask 027; echo 1 > f; chmod 4751 f; setfattr -n user.k -v value f
             setfacl -m u:daemon:r f; echo 2 > f
             echo 1 > target; chmod 600 target; ln -s target link; echo 2 > link
             ln -s absent dangling; echo 3 > dangling; echo new > g",
        );
    }
);

promise!(
    /// A file that was renamed away under its rewriter is left alone; so is one put there since.
    old_drafts_do_not_win,
    |m| {
        m.py(r#"
writer, other = peers(2)
write("f", "old")
writer("f = open('f', 'wb', 0)")
writer("f.write(b'draft')")
other("os.rename('f', 'f.bak')")
writer("f.close()")
equal(read("f.bak"), b"old", "the backup")
equal(read("f"), b"draft", "the rewrite stays with the name")
writer("f = open('f', 'wb', 0)")
other("write('f', 'newer')")
writer("f.close()")
equal(read("f"), b"newer", "a draft never written does not replace a newer version")
writer("f = open('f', 'wb', 0); f.write(b'lost')")
other("write('t', 'renamed here'); os.rename('t', 'f')")
writer("f.close()")
equal(read("f"), b"renamed here", "a rename onto the name outdates older drafts")
"#);
    }
);

same!(
    /// A file that its writer unlinks while it is open is gone.
    unlinked_drafts_stay_away,
    |m| {
        m.py(r#"
for name in ("new", "old"):
    if name == "old":
        write(name, "before")
    f = open(name, "w+b", 0)
    f.write(b"scratch")
    os.unlink(name)
    f.seek(0)
    equal(f.read(), b"scratch", "still readable")
    equal(os.fstat(f.fileno()).st_nlink, 0, "links")
    f.close()
    fails(errno.ENOENT, os.stat, name)
    equal(os.listdir("."), [], "names")
"#);
    }
);

same!(
    /// O_TRUNC of who only reads, also of files that are written in place.
    emptied_by_who_reads,
    |m| {
        m.py(r#"
for name in ("f", "x.log", "t.lock", "c.json"):
    for reopen in (False, True):
        write(name, "old")
        before = os.open(name, os.O_RDONLY)
        fd = os.open(f"/proc/self/fd/{before}" if reopen else name, os.O_RDONLY | os.O_TRUNC)
        os.close(before)
        equal(os.read(fd, 10), b"", name)
        fails(errno.EBADF, os.write, fd, b"x")
        os.close(fd)
        equal(read(name), b"", name)
os.symlink("x.log", "link")
write("x.log", "old")
os.close(os.open("link", os.O_RDONLY | os.O_TRUNC))
equal(read("x.log"), b"")
"#);
    }
);
