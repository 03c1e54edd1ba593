//! Files that are being written, as other names, other processes and other calls meet them.

use crate::harness::{mount_only, promise, same};

same!(
    /// `/dev/stdout` and `/proc/self/fd/N` are the file that is being written.
    standard_output_by_name,
    |m| {
        m.sh_same(
            "content,mode",
            r#"umask 022; for f in new old appended; do
                test $f = new || echo before > $f
                op='>'; test $f != appended || op='>>'
                eval "(echo one; echo two >> /dev/stdout; echo three | tee -a /dev/stderr; echo four) $op $f 2>&1"
                eval "(echo one; echo two > /dev/stdout; echo three) $op $f.truncated"
                eval "(echo one; cp /etc/hostname /dev/stdout; echo three) $op $f.copied"
                eval "python3 -c \"open('/proc/self/fd/1', 'a').write('by number')\" $op $f.number"
            done"#,
        );
    }
);

same!(
    /// A child that was exec'd renames what its parent is writing.
    renamed_by_a_child,
    |m| {
        m.py(r#"
for target in ("new", "old"):
    if target == "old":
        write("old", "before")
    f = open("f.tmp", "wb", 0)
    f.write(b"first ")
    subprocess.run(["mv", "f.tmp", target], check=True)
    f.write(b"second")
    f.close()
    equal(read(target), b"first second", target)
    fails(errno.ENOENT, os.stat, "f.tmp")
f = open("gone", "wb", 0)
f.write(b"x")
subprocess.run(["rm", "gone"], check=True)
f.close()
fails(errno.ENOENT, os.stat, "gone")
"#);
    }
);

same!(
    /// Delivery as mail programs do it: write, link to the final name, unlink, close.
    linked_before_close,
    |m| {
        m.py(r#"
reader, = peers(1)
for sync in (False, True):
    f = open("tmp", "wb", 0)
    f.write(b"letter")
    if sync:
        os.fsync(f.fileno())
    os.link("tmp", "final")
    equal(reader("read('final')"), b"letter", "linked")
    os.unlink("tmp")
    equal(os.fstat(f.fileno()).st_nlink, 1, "links")
    f.close()
    equal(reader("read('final')"), b"letter", "closed")
    fails(errno.ENOENT, os.stat, "tmp")
    os.unlink("final")
f = open("tmp", "wb", 0)
f.write(b"letter")
os.link("tmp", "final")
f.close()
equal((read("tmp"), read("final")), (b"letter", b"letter"), "both names")
equal(os.stat("tmp").st_nlink, 2, "links of both")
equal(os.stat("tmp").st_ino, os.stat("final").st_ino, "one file")
"#);
    }
);

same!(
    /// What is visible at once: a file made for reading, and one made for appending.
    made_for_reading_or_appending,
    |m| {
        m.py(r#"
maker, reader = peers(2)
maker("f = os.open('read', os.O_RDONLY | os.O_CREAT, 0o640)")
equal(reader("read('read')"), b"", "made for reading")
equal(reader("stat.S_IMODE(os.stat('read').st_mode)"), 0o640, "its mode")
maker("g = os.open('append', os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)")
equal(reader("read('append')"), b"", "made for appending")
maker("os.write(g, b'line')")
equal(reader("read('append')"), b"line", "appended")
equal(reader("'append' in os.listdir('.')"), True, "listed")
"#);
    }
);

promise!(
    /// Two make one name without seeing each other: none mixes, the last close wins;
    /// but who asked for O_EXCL keeps the name.
    two_makers_of_one_name,
    |m| {
        m.py(r#"
one, two, reader = peers(3)
def make(peer, name, flags):
    peer(f"f = os.open({name!r}, os.O_WRONLY | os.O_CREAT | {flags})")
def close(peer, content):
    peer(f"os.write(f, {content!r})")
    peer("os.close(f)")
make(one, "plain", "os.O_TRUNC")
make(two, "plain", "os.O_TRUNC")
close(two, b"two")
equal(reader("read('plain')"), b"two", "the first close")
close(one, b"one")
equal(reader("read('plain')"), b"one", "the last close")
for first, last in ((one, two), (two, one)):
    name = f"excl{first is one}"
    make(one, name, "os.O_EXCL")
    make(two, name, "os.O_TRUNC")
    close(first, b"one" if first is one else b"two")
    close(last, b"one" if last is one else b"two")
    equal(reader(f"read({name!r})"), b"one", "who asked for O_EXCL")
"#);
    }
);

mount_only!(
    /// A directory that looks empty can be removed; what was being written in it is rescued.
    directory_removed_under_a_draft,
    |m| {
        m.py(r#"
writer, other = peers(2)
os.mkdir("d")
writer("f = os.open('d/new', os.O_WRONLY | os.O_CREAT)")
writer("os.write(f, b'work' * 1000)")
other("subprocess.run(['rm', '-r', 'd'], check=True)")
try:
    writer("os.close(f)")
except OSError:
    pass
equal(os.listdir("."), [])
def salvaged():
    command = [os.environ["POLYSTORE"], "salvage", "list", DATA, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
deadline = time.monotonic() + 10
while not (items := salvaged()) and time.monotonic() < deadline:
    time.sleep(0.01)
equal([item["size"] for item in items], [4000])
"#);
    }
);

same!(
    /// An empty file is a file: made by touch, by `: >`, by open and close.
    empty_files,
    |m| {
        m.sh_same(
            "content,mode,owner",
            "umask 022; touch a; : > b; true > c; >> d; cp /dev/null e; truncate -s 0 f
             python3 -c \"open('g', 'w').close(); open('h', 'x').close(); open('i', 'a+').close()\"
             touch a; mktemp -p . j.XXXXXX > name; mv $(cat name) j; rm name; install /dev/null k; dd of=l count=0 status=none",
        );
    }
);

same!(
    /// Many threads of one program write many files, some of them the same.
    threads,
    |m| {
        m.py(r#"
from versions import *
def work(seed):
    chance = random.Random(seed)
    for number in range(60):
        write_version(f"shared{chance.randrange(4)}.{seed}", number, chance.randrange(50_000))
        write(f"own{seed}-{number}", b"%d" % number)
        os.rename(f"own{seed}-{number}", f"kept{seed}-{number}")
        equal(read(f"kept{seed}-{number}"), b"%d" % number)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
errors = []
threading.excepthook = lambda failed: errors.append(failed)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
equal(errors, [])
for name in os.listdir("."):
    if name.startswith("shared"):
        read_version(name)
equal(len([n for n in os.listdir(".") if n.startswith("kept")]), 720)
"#);
    }
);
