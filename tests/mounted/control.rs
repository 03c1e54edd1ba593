//! The control channel.

mod rights;

use crate::harness::{count, mount_only};
use std::time::Duration;

/// What the scripts share.
const CHANNEL: &str = r#"
CONTROL = os.path.join(SAFE, ".polystore/control.json")

class Channel:
    def __init__(self):
        self.fd = os.open(CONTROL, os.O_RDWR)

    def send(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())
        return self.reply()

    def reply(self):
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self.fd, 65536)
            if not more:
                break
            line += more
        return json.loads(line)

    def ask(self, op, **members):
        reply = self.send(json.dumps({"op": op, **members}))
        assert reply["ok"] and reply["version"] == 1, reply
        return reply

    def refused(self, number, request):
        """The request fails with this errno, and its reply says so."""
        text = request if isinstance(request, (str, bytes)) else json.dumps(request)
        fails(number, self.send, text)
        reply = self.reply()
        assert not reply["ok"], reply
        name = errno.errorcode[number].replace("EDEADLOCK", "EDEADLK")
        equal(reply["error"]["code"], name, text[:80])
        return reply["error"]["message"]

    def close(self):
        os.close(self.fd)
"#;

/// What `CONTROL.md` says of the shape of requests and replies, for programs.
const SCHEMA: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/control.schema.json"));

fn with_channel(script: &str) -> String {
    format!("{CHANNEL}\n{script}")
}

mount_only!(
    /// The directory is there for who knows it, and cannot be changed.
    the_channel_is_not_listed,
    |m| {
        m.py(&with_channel(
            r#"
equal(os.listdir("."), [])
equal(sorted(os.listdir(".polystore")), ["control.json", "status.json"])
assert stat.S_ISDIR(os.stat(".polystore").st_mode)
for name in ("control.json", "status.json"):
    assert stat.S_ISREG(os.stat(f".polystore/{name}").st_mode)
write("f", "x")
# The directory is nobody's to write: others than root do not even come to ask.
no = errno.EPERM if os.getuid() == 0 else errno.EACCES
fails(no, os.mkdir, ".polystore/d")
fails(no, os.unlink, ".polystore/control.json")
fails(no, os.rename, "f", ".polystore/f")
fails(no, os.rename, ".polystore/control.json", "g")
fails(no, os.link, "f", ".polystore/f")
fails(errno.EPERM, os.rename, ".polystore", "g")
fails(errno.EPERM, os.rmdir, ".polystore")
fails(errno.EPERM, os.chmod, ".polystore/control.json", 0o600)
fails(errno.EEXIST, os.mkdir, ".polystore")
for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
    try:
        os.open(".polystore/status.json", flags)
        raise AssertionError("status.json can be written")
    except PermissionError:
        pass
equal(os.listxattr(".polystore/control.json"), [])
equal(json.loads(read(".polystore/status.json"))["ok"], True)
equal(read(".polystore/control.json"), b"")
"#,
        ));
    }
);

mount_only!(
    /// A request in pieces, replies read in pieces, another request after it.
    requests_and_replies,
    |m| {
        m.py(&with_channel(
            r#"
write("c.json", '{"a": 1}')
c = Channel()
equal(os.read(c.fd, 100), b"")
for piece in ('  {"op"', ': "update", "path": "c.json",', '"merge": {"b": "}{"}', '}\n'):
    os.write(c.fd, piece.encode())
line = b""
while True:
    byte = os.read(c.fd, 1)
    line += byte
    if byte == b"\n":
        break
equal(json.loads(line)["changed"], True)
equal(os.read(c.fd, 1), b"")
equal(read("c.json"), b'{"a": 1, "b": "}{"}')
equal(c.ask("update", path="c.json", merge={"b": "}{"})["changed"], False)
equal(c.ask("update", path="c.json", merge={"b": None}, **{"return": True})["value"], {"a": 1})
# In a file object, with a position.
with open(CONTROL, "r+b", buffering=0) as f:
    for _ in range(3):
        f.write(b'{"op": "stats"}')
        assert json.loads(f.readline())["ok"]
# A request that is not finished is none.
os.write(c.fd, b'{"op": "update", "path": "c.json", "merge": {"x"')
fails(errno.EINVAL, os.close, os.dup(c.fd))
"#,
        ));
    }
);

mount_only!(
    /// Locked read-modify-write by many, with no lock in sight.
    updates_lose_nothing,
    |m| {
        let rounds = count("POLYSTORE_TEST_ROUNDS", 100);
        let script = format!("ROUNDS = {rounds}\n")
            + CHANNEL
            + r#"
write("counter.json", '{"n": 0, "big": 12345678901234567890123, "price": 1.10}\n')

def by_merge(line):
    c = Channel()
    for _ in range(ROUNDS):
        value = c.ask("begin", path="counter.json")["value"]
        c.ask("commit", merge={"n": value["n"] + 1})

def by_test(line):
    c = Channel()
    for _ in range(ROUNDS):
        while True:
            n = json.loads(read("counter.json"))["n"]
            patch = [{"op": "test", "path": "/n", "value": n}, {"op": "replace", "path": "/n", "value": n + 1}]
            try:
                c.ask("update", path="counter.json", patch=patch)
                break
            except OSError as error:
                equal(error.errno, errno.ENOMSG)

def by_hand(line):
    for _ in range(ROUNDS):
        with open("counter.json", "r+") as f:
            text = f.read()
            n = json.loads(text)["n"]
            f.seek(0)
            f.write(text.replace(f'"n": {n}', f'"n": {n + 1}'))
            f.truncate()

workers = [Worker(job) for job in (by_merge, by_test, by_hand) * 2]
for worker in workers:
    worker.done()
equal(read("counter.json").decode(), '{"n": %d, "big": 12345678901234567890123, "price": 1.10}\n' % (6 * ROUNDS))
"#;
        m.py_within(Duration::from_secs(120 + u64::from(rounds)), &script);
    }
);

mount_only!(
    /// jq and a shell loop.
    a_shell_updates,
    Setup::needs(&["jq"]),
    |m| {
        let printed = m.sh(r#"
echo '{"n": 0}' > counter.json
add() {
    for i in 1 2 3 4 5 6 7 8 9 10; do
        exec 3<> .polystore/control.json
        echo '{"op":"begin","path":"counter.json"}' >&3
        reply=$(head -n 1 <&3)
        echo "$reply" | jq -c '{op: "commit", merge: {n: (.value.n + 1)}}' >&3
        exec 3>&-
    done
}
(add) & (add) & (add) & (add) & wait
cat counter.json
echo '{"op":"update","path":"none.json","patch":[]}' > .polystore/control.json || echo failed
"#);
        assert!(printed.starts_with("{\"n\": 40}\nfailed\n"), "{printed}");
    }
);

mount_only!(
    /// A transaction has its turn until it is committed, aborted, or its handle is closed.
    transactions,
    |m| {
        m.py(&with_channel(
            r#"
write("c.json", '{"a": 1}')
two, = peers(1)
one = Channel()
def waits(code):
    two.ask(code)
    assert two.waits(), code
for end in ("commit", "abort", "close"):
    reply = one.ask("begin", path="c.json")
    assert reply["exists"] and reply["turn"] > 0, reply
    waits('f = open("c.json", "r+"); f.close()')
    if end == "commit":
        one.ask("commit", value={"a": 2})
    elif end == "abort":
        one.ask("abort")
    else:
        one.close()
        one = Channel()
    two.answer()
equal(read("c.json"), b'{"a": 2}')
one.refused(errno.ESRCH, {"op": "abort"})
one.refused(errno.ESRCH, {"op": "commit", "value": 1})
reply = one.ask("begin", path="new.json", default=[])
equal((reply["exists"], reply["value"]), (False, []))
one.refused(errno.EBUSY, {"op": "begin", "path": "c.json"})
one.refused(errno.ENOMSG, {"op": "commit", "patch": [{"op": "test", "path": "", "value": 1}]})
one.ask("commit", patch=[{"op": "add", "path": "/-", "value": 1}])
equal(json.loads(read("new.json")), [1])
# Another thread, or another handle, of one process waits, too.
one.ask("begin", path="c.json")
other = Channel()
other.refused(errno.EDEADLK, {"op": "begin", "path": "c.json"})
said = []
def thread():
    third = Channel()
    third.ask("update", path="c.json", merge={"b": 1})
    said.append("done")
t = threading.Thread(target=thread)
t.start()
time.sleep(0.2)
equal(said, [])
one.ask("abort")
t.join(10)
equal(said, ["done"])
# A killed holder.
def holder(line):
    Channel().ask("begin", path="c.json")
    line.say("begun")
    time.sleep(60)
worker = Worker(holder)
equal(worker.hear(), "begun")
one.refused(errno.EAGAIN, {"op": "update", "path": "c.json", "merge": {}, "timeout": 0})
one.refused(errno.ETIMEDOUT, {"op": "update", "path": "c.json", "merge": {}, "timeout": 0.2})
worker.kill()
worker.wait()
one.ask("update", path="c.json", merge={"c": 1})
"#,
        ));
    }
);

mount_only!(
    /// Who waits inside a write() can be interrupted, and killed.
    a_waiting_request_can_be_ended,
    |m| {
        m.py(&with_channel(
            r#"
write("c.json", "{}")
def holder(line):
    Channel().ask("begin", path="c.json")
    line.say("begun")
    line.hear()
holding = Worker(holder)
equal(holding.hear(), "begun")
def waiter(line):
    def raises(*_):
        raise InterruptedError(errno.EINTR, "signalled")
    signal.signal(signal.SIGUSR1, raises)
    line.say("ready")
    try:
        Channel().ask("update", path="c.json", merge={"x": 1})
    except InterruptedError:
        line.say("interrupted")
for number in (signal.SIGUSR1, signal.SIGKILL):
    worker = Worker(waiter)
    equal(worker.hear(), "ready")
    until(lambda: waiters("c.json.lock") == 1)
    start = time.time()
    worker.kill(number)
    if number == signal.SIGUSR1:
        equal(worker.hear(), "interrupted")
    worker.wait()
    assert time.time() - start < 2
    until(lambda: waiters("c.json.lock") == 0)
holding.say("end")
holding.done()
equal(read("c.json"), b"{}")
"#,
        ));
    }
);

mount_only!(
    /// Files keep their formatting, mode, times of others, links; symbolic links are followed inside the mount.
    what_an_update_keeps,
    |m| {
        m.py(&with_channel(
            r#"
c = Channel()
TEXT = '{\n\t"z": [1, 2, 3],\n\t"a": {"deep": 1.10, "big": 123456789012345678901234567890}\n}'
write("c.json", TEXT)
os.chmod("c.json", 0o640)
os.setxattr("c.json", "user.mine", b"kept")
c.ask("update", path="c.json", merge={"new": True})
equal(read("c.json").decode(), TEXT.replace("\n}", ',\n\t"new": true\n}'))
equal(os.stat("c.json").st_mode & 0o7777, 0o640)
equal(os.getxattr("c.json", "user.mine"), b"kept")
os.mkdir("sub")
os.symlink("../c.json", "sub/link")
os.symlink("sub", "dir")
c.ask("update", path="dir/link", merge={"new": False})
assert os.path.islink("sub/link") and b'"new": false' in read("c.json")
inode = os.stat("c.json").st_ino
c.ask("update", path="c.json", merge={"new": False})
equal(os.stat("c.json").st_ino, inode, "nothing changed")
# A file with two names keeps both.
write("one", "{}")
os.link("one", "two")
c.ask("update", path="one", merge={"x": 1})
equal(read("two"), read("one"))
assert b"x" in read("two")
# Made with the umask of who asks; seen by all at once.
os.umask(0o027)
fails(errno.ENOENT, os.stat, "made.json")
c.ask("update", path="made.json", merge={"x": 1})
equal(os.stat("made.json").st_mode & 0o7777, 0o640)
equal(json.loads(read("made.json")), {"x": 1})
# Nothing is seen of it but the document.
equal(sorted(os.listdir(".")), ["c.json", "dir", "made.json", "one", "sub", "two"])
# Readers see it whole, at once, by any cache.
for n in range(100):
    os.stat("c.json"); read("c.json")
    c.ask("update", path="c.json", merge={"n": n})
    equal(json.loads(read("c.json"))["n"], n)
    equal(os.stat("c.json").st_size, len(read("c.json")))
"#,
        ));
    }
);

mount_only!(
    /// Hostile requests get an error and change nothing.
    hostile_requests,
    |m| {
        let rounds = count("POLYSTORE_TEST_ROUNDS", 300);
        let script = format!("ROUNDS = {rounds}\n")
            + CHANNEL
            + r#"
os.mkdir("d")
write("c.json", '{"a": 1}')
write("bad.json", '{"a": 1')
write("twice.json", '{"a": 1, "a": 2}')
os.mkfifo("fifo")
os.symlink("/etc/passwd", "out")
os.symlink("../../etc/passwd", "up")
os.symlink("loop", "loop")
os.symlink(f"{DATA}/c.json", "absolute")
c = Channel()
def update(path, **more):
    return {"op": "update", "path": path, "merge": {"x": 1}, **more}
for path in ("", "/", "/c.json", "../c.json", "d/../c.json", "./c.json", "d//c.json", ".polystore/x", "c.json\0"):
    c.refused(errno.EINVAL, update(path))
c.refused(errno.EXDEV, update("out"))
c.refused(errno.EXDEV, update("up"))
c.refused(errno.EXDEV, update("absolute"))
c.refused(errno.ELOOP, update("loop"))
c.refused(errno.EISDIR, update("d"))
c.refused(errno.EINVAL, update("fifo"))
c.refused(errno.ENOENT, update("none/c.json"))
c.refused(errno.ENOTDIR, update("c.json/c.json"))
c.refused(errno.EBADMSG, update("bad.json"))
c.refused(errno.EBADMSG, update("twice.json"))
c.refused(errno.EPROTONOSUPPORT, update("c.json", version=2))
c.refused(errno.EINVAL, update("c.json", timeout=-1))
c.refused(errno.EINVAL, update("c.json", patch=[]))
c.refused(errno.EINVAL, update("c.json", typo=1))
c.refused(errno.EINVAL, {"op": "dance"})
c.refused(errno.EINVAL, "[]")
c.refused(errno.EINVAL, "hello\n")
c.refused(errno.EINVAL, '{"op": "stats"} {"op": "stats"}')
c.refused(errno.EINVAL, '{"op": "stats", "op": "stats"}')
c.refused(errno.EMSGSIZE, '{"op":' * 100)
c.refused(errno.EMSGSIZE, '{"op": "update", "path": "c.json", "merge": "' + "x" * 500_000 + '"' + "[" * 100)
before = {name: read(name) for name in ("c.json", "bad.json", "twice.json", "/etc/passwd")}
sizes = 0
try:
    for _ in range(6):
        sizes += os.write(c.fd, b'{"op": "update", "path": "c.json", "merge": "' + b"x" * 1_000_000 if not sizes else b"x" * 1_000_000)
    raise AssertionError("a request of 6 MB")
except OSError as error:
    equal(error.errno, errno.EMSGSIZE)
# Whatever is sent: an error or a reply, and the mount goes on.
random.seed(11)
good = [json.dumps(r).encode() for r in (
    {"op": "update", "path": "fuzz.json", "merge": {"a": [1, 2.50, "x"]}, "timeout": 1},
    {"op": "update", "path": "fuzz.json", "patch": [{"op": "add", "path": "/a/-", "value": {}}], "default": {"a": []}},
    {"op": "begin", "path": "fuzz.json"}, {"op": "commit", "value": {"a": []}}, {"op": "abort"},
    {"op": "status"}, {"op": "publish", "path": "c.json"}, {"op": "locks"}, {"op": "break", "path": "fuzz.json"})]
for n in range(ROUNDS):
    text = bytearray(random.choice(good))
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        at = random.randrange(len(text))
        kind = random.randrange(3)
        if kind == 0:
            text[at] = random.randrange(256)
        elif kind == 1:
            del text[at]
        else:
            text[at:at] = random.choice([b"\\", b'"', b"{", b"]", b"\xff", b"\x00", b"9" * 30, b"..", b"/"])
        if not text:
            text = bytearray(b" ")
    fresh = Channel()
    try:
        fresh.send(bytes(text))
    except (OSError, json.JSONDecodeError):
        pass
    try:
        fresh.close()
    except OSError as error:
        equal(error.errno, errno.EINVAL)
for name, content in before.items():
    equal(read(name), content, name)
Channel().ask("update", path="c.json", merge={"alive": True})
"#;
        m.py_within(Duration::from_secs(60 + u64::from(rounds) / 20), &script);
    }
);

mount_only!(
    /// Drafts, locks and counters can be seen; a draft can be published, a lock broken.
    what_there_is_to_see_and_do,
    |m| {
        m.py(&with_channel(
            r#"
c = Channel()
one, two = peers(2)
f = open("draft.csv", "w")
f.write("a,b\n"); f.flush()
write("old.csv", "old")
g = open("old.csv", "r+")
g.write("new"); g.flush()
h = open("old2.csv", "w")
drafts = {d["path"]: d for d in c.ask("drafts")["drafts"]}
equal(drafts["draft.csv"]["kind"], "new")
equal((drafts["draft.csv"]["bytes"], drafts["draft.csv"]["pid"], drafts["draft.csv"]["handles"]), (4, os.getpid(), 1))
equal(drafts["old.csv"]["kind"], "edit")
assert drafts["old.csv"]["process"].startswith("python"), drafts
fails(errno.ENOENT, one, 'open("draft.csv")')
c.ask("publish", path="draft.csv")
equal(one('open("draft.csv").read()'), "a,b\n")
c.ask("publish", path="old.csv")
equal(one('open("old.csv").read()'), "new")
c.refused(errno.ENOENT, {"op": "publish", "path": "old.csv"})
c.refused(errno.ENOENT, {"op": "publish", "path": "nothing"})
f.write("c,d\n"); f.close(); g.close(); h.close()
equal(read("draft.csv"), b"a,b\nc,d\n")
one('f = open("job.lock", "w")')
two.ask('f = open("job.lock", "w")')
until(lambda: waiters("job.lock") == 1)
lock, = [l for l in c.ask("locks")["locks"] if l["path"] == "job.lock"]
equal((lock["holders"][0]["kind"], lock["holders"][0]["pid"]), ("turn", one.worker.pid))
equal(lock["waiters"][0]["pid"], two.worker.pid)
assert lock["waiters"][0]["waited"] >= 0
equal(lock["turn"], int(os.getxattr("job.lock", "user.polystore.turn")))
equal(c.ask("break", path="job.lock")["broken"], 1)
two.answer()
assert int(os.getxattr("job.lock", "user.polystore.turn")) > lock["turn"], "a new turn has a new number"
equal(c.ask("break", path="nothing.lock")["broken"], 0)
stats = c.ask("stats")["stats"]
assert stats["turns"] >= 2 and stats["turns_waited"] >= 1 and stats["published"] >= 3, stats
everything = c.ask("status")
for part in ("locks", "drafts", "failures", "salvage", "stats"):
    assert part in everything, part
def killed(line):
    k = open("killed.csv", "w"); k.write("half"); k.flush()
    line.say("written")
    time.sleep(60)
worker = Worker(killed)
equal(worker.hear(), "written")
worker.kill(); worker.wait()
until(lambda: any(s.get("path") == "killed.csv" for s in c.ask("salvage")["salvage"]))
"#,
        ));
    }
);

mount_only!(
    /// Others are told of what is theirs, and may not do what is the owner's.
    other_users,
    Setup::default().for_all_users(),
    |m| {
        m.py(&with_channel(
            r#"
if os.getuid() == 0:
    os.chmod(".", 0o755)
    write("mine.json", '{"a": 1}')
    write("secret.json", '{"a": 1}')
    os.chmod("secret.json", 0o600)
    os.mkdir("theirs"); os.chown("theirs", 1234, 1234)
    f = open("draft", "w"); f.write("x"); f.flush()
    def stranger(line):
        os.setgroups([]); os.setgid(1234); os.setuid(1234)
        c = Channel()
        for name in ("mine.json", "secret.json"):
            c.refused(errno.EACCES, {"op": "update", "path": name, "merge": {}})
            c.refused(errno.EACCES, {"op": "begin", "path": name})
        c.refused(errno.EACCES, {"op": "update", "path": "made.json", "merge": {}})
        c.refused(errno.EPERM, {"op": "break", "path": "mine.json"})
        c.refused(errno.EPERM, {"op": "salvage"})
        c.refused(errno.EPERM, {"op": "publish", "path": "draft"})
        c.ask("update", path="theirs/a.json", merge={"a": 1})
        status = os.stat("theirs/a.json")
        equal((status.st_uid, status.st_gid), (1234, 1234))
        g = open("theirs/draft", "w"); g.write("y"); g.flush()
        everything = c.ask("status")
        equal([d["path"] for d in everything["drafts"]], ["theirs/draft"])
        assert "salvage" not in everything
        c.ask("publish", path="theirs/draft")
    worker = Worker(stranger)
    worker.done()
    equal(read("mine.json"), b'{"a": 1}')
    equal(os.stat("theirs/a.json").st_uid, 1234)
    assert not os.path.exists(f"{DATA}/mine.json.lock") and not os.path.exists(f"{DATA}/secret.json.lock")
"#,
        ));
    }
);

mount_only!(
    /// What the mount takes and replies is what the schema says, and nothing else.
    the_schema_is_true,
    Setup::needs(&["python:jsonschema"]),
    |m| {
        std::fs::write(m.tmp().join("control.schema.json"), SCHEMA).expect("the schema");
        m.py(&with_channel(
            r##"
from jsonschema import Draft202012Validator

with open(os.path.join(TMP, "control.schema.json")) as f:
    SCHEMA = json.load(f)
Draft202012Validator.check_schema(SCHEMA)

def are(name):
    return Draft202012Validator({**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{name}"}]})

message, request, reply = Draft202012Validator(SCHEMA), are("request"), are("reply")
replies = {op: are(f"{op}_reply") for op in (
    "update", "begin", "commit", "abort", "publish", "break",
    "locks", "drafts", "failures", "salvage", "stats", "status", "error")}
equal(len(SCHEMA["$defs"]["request"]["oneOf"]), len(replies) - 1)
c = Channel()

def send(asked):
    """The reply, which must be one, and that of this op."""
    try:
        os.write(c.fd, json.dumps(asked).encode())
        number = None
    except OSError as error:
        number = error.errno
    said = c.reply()
    for validator in (message, reply, replies[asked["op"] if said["ok"] else "error"]):
        validator.validate(said)
    assert not request.is_valid(said), said
    equal(said["ok"], number is None, said)
    if number is not None:
        assert getattr(errno, said["error"]["code"]) == number, said
    return said

def agree(asked):
    """The channel refuses its shape, or it is a request by the schema."""
    said = send(asked)
    code = None if said["ok"] else said["error"]["code"]
    shaped = code not in ("EINVAL", "EPROTONOSUPPORT")
    equal(request.is_valid(asked), shaped, f"{asked} {said}")
    equal(message.is_valid(asked), shaped, f"{asked} {said}")
    return code

def taken(op, **members):
    equal(agree({"op": op, **members}), None, members)

def fails_with(code, op, **members):
    equal(agree({"op": op, **members}), code, members)

def malformed(asked):
    equal(agree(asked), "EINVAL", asked)

def update(path="c.json", **members):
    return {"op": "update", "path": path, **members}

# Something for each list but that of failures.
write("c.json", '{"a": 1}')
write("bad.json", "{")
write("old", "old")
write("older", "older")
os.mkdir("d")
made = open("made", "w"); made.write("x"); made.flush()
edited = open("old", "r+"); edited.write("new"); edited.flush()
rewritten = open("older", "w"); rewritten.write("newer"); rewritten.flush()
one, two = peers(2)
one('f = open("job.lock", "w")')
two.ask('f = open("job.lock", "w")')
until(lambda: waiters("job.lock") == 1)
write("flocked.lock", ""); write("ranges.lock", "")
flocked = open("flocked.lock"); fcntl.flock(flocked, fcntl.LOCK_SH)
ranges = open("ranges.lock"); fcntl.lockf(ranges, fcntl.LOCK_SH)
def killed(line):
    k = open("killed", "w"); k.write("half"); k.flush()
    line.say("written")
    time.sleep(60)
worker = Worker(killed)
equal(worker.hear(), "written")
worker.kill(); worker.wait()
until(lambda: status()["salvage"])

for op in ("locks", "drafts", "failures", "salvage", "stats", "status"):
    taken(op)
    taken(op, version=1)
    for more in ({"all": True}, {"path": "c.json"}, {"version": "1"}, {"version": None}, {"version": True}):
        malformed({"op": op, **more})
everything = json.loads(read(".polystore/status.json"))
for validator in (message, reply, replies["status"]):
    validator.validate(everything)
for part in ("locks", "drafts", "salvage", "stats"):
    assert everything[part], part
kinds = {party["kind"] for lock in everything["locks"] for party in lock["holders"]}
equal(kinds, {"turn", "flock", "fcntl"})
equal({draft["kind"] for draft in everything["drafts"]}, {"new", "edit", "rewrite"})

# Accepted, and done.
taken("publish", path="made")
taken("break", path="job.lock")
two.answer()
taken("update", path="c.json", merge={"b": 12345678901234567890123, "c": None})
taken("update", path="c.json", merge={}, **{"return": True})
taken("update", path="d/new.json", patch=[], default=None, timeout=0, **{"return": False}, version=1)
taken("update", path="d/word.json", merge="\u00e9\U0001f600", timeout=3600)
taken("update", path="c.json", timeout=0.5, patch=[
    {"op": "add", "path": "/x~0y~1z", "value": None, "from": 1, "comment": "ignored"},
    {"op": "test", "path": "/x~0y~1z", "value": None},
    {"op": "copy", "path": "/ ", "from": ""},
    {"op": "move", "path": "", "from": "/ ", "value": 1},
    {"op": "replace", "path": "/a", "value": {}},
    {"op": "add", "path": "/", "value": 1},
    {"op": "add", "path": "/\n", "value": 1},
    {"op": "remove", "path": "/"}])
for members in ({"value": None}, {"merge": {"n": 1}}, {"patch": [], "return": True}):
    taken("begin", path="c.json", default={}, timeout=1)
    taken("commit", **members)
taken("begin", path="d/none.json", default=[])
fails_with("EBUSY", "begin", path="c.json")
fails_with("ENOMSG", "commit", patch=[{"op": "test", "path": "", "value": 1}])
taken("abort")
# Accepted, and failed.
fails_with("ESRCH", "abort")
fails_with("ESRCH", "commit", value={})
fails_with("ENOENT", "publish", path="c.json")
fails_with("ENOENT", "update", path="none.json", patch=[])
fails_with("EISDIR", "begin", path="d")
fails_with("ENOTDIR", "update", path="c.json/c.json", merge=1)
fails_with("EBADMSG", "update", path="bad.json", merge=1)
for name in ("...", ".a", "..a", "a..", "..\n", "\n", " ", "a\\b", ".polystore2", ".polystore\n", "d/.polystore",
             ".polystore-draft", "a.polystore-draft-1", "a" * 255, "\u00e9" * 127, "\U0001f600" * 63,
             "d/.../x", "/".join(["n" * 254] * 16) + "/" + "n" * 16):
    assert agree(update(name, merge={}, timeout=0)) in (None, "ENOENT", "ENAMETOOLONG"), name
# Of another version.
for version in (0, 2, -1, 1.5, 10 ** 30):
    fails_with("EPROTONOSUPPORT", "stats", version=version)
# No paths.
for name in ("", "/", "/c.json", "c.json/", "d//c.json", ".", "..", "./c.json", "d/.", "d/./c.json", "../c.json",
             "d/..", "d/../c.json", "c\0.json", ".polystore", ".polystore/control.json", ".polystore-draft-1",
             "d/.polystore-draft-", "a" * 256, "d/" + "a" * 256 + "/c", "a/" * 2048 + "a", None, 1, ["c.json"]):
    malformed(update(name, merge={}))
    for op in ("begin", "publish", "break"):
        malformed({"op": op, "path": name})
# No requests.
for asked in (
    {"op": "dance"}, {"op": None}, {"op": "Stats"}, {"path": "c.json"}, {}, {"op": "begin"}, {"op": "publish"},
    update(), update(value=1), update(merge={}, patch=[]), update(merge={}, value={}), update(merge={}, typo=1),
    update(merge={}, timeout=-1), update(merge={}, timeout=-1e-9), update(merge={}, timeout=3600.001),
    update(merge={}, timeout="1"), update(merge={}, timeout=None), update(merge={}, timeout=True),
    update(merge={}, **{"return": 1}), update(merge={}, **{"return": None}), update(merge={}, Default=1),
    {"op": "begin", "path": "c.json", "return": True}, {"op": "begin", "path": "c.json", "merge": {}},
    {"op": "commit"}, {"op": "commit", "value": 1, "default": 1}, {"op": "commit", "value": 1, "merge": 1},
    {"op": "commit", "value": 1, "path": "c.json"}, {"op": "commit", "value": 1, "timeout": 1},
    {"op": "abort", "path": "c.json"}, {"op": "publish", "path": "c.json", "timeout": 1},
    {"op": "break", "path": "c.json", "all": True}, [], ["stats"], "stats", 1, None,
):
    malformed(asked)
for patch in (
    {}, None, "", [1], [[]], [{}], [{"op": "add"}], [{"op": "add", "path": "/a"}], [{"path": "/a", "value": 1}],
    [{"op": "remove"}], [{"op": "remove", "path": None}], [{"op": "dance", "path": "/a"}], [{"op": 1, "path": "/a"}],
    [{"op": "test", "path": "/a", "from": "/a"}], [{"op": "replace", "path": "/a"}],
    [{"op": "move", "path": "/a"}], [{"op": "copy", "path": "/a", "from": 1}], [{"op": "copy", "from": "/a"}],
    [{"op": "move", "path": "/a", "from": "a"}], [{"op": "remove", "path": "a"}], [{"op": "remove", "path": "\n"}],
    [{"op": "remove", "path": "/~"}], [{"op": "remove", "path": "/~2"}], [{"op": "remove", "path": "/a~/b"}],
    [{"op": "test", "path": "", "value": 1}, {"op": "Test", "path": "", "value": 1}],
):
    malformed(update(patch=patch))
    malformed({"op": "commit", "patch": patch})
# Any mixture of members. None of these changes can fail but by a `test`.
random.seed(20)
ADD = {"op": "add", "path": "/a", "value": 1}
MEMBERS = {
    "version": [1, 1, 2, "1"],
    "path": ["c.json", "d/mixed.json", "../c.json", 1],
    "merge": [{"m": 1}, {}],
    "patch": [[], [ADD], [{"op": "test", "path": "/a", "value": 7}], [{**ADD, "path": "a"}], ADD],
    "value": [{"v": 1}],
    "default": [{}, {"a": 1}],
    "timeout": [0, 5, 5, -1, "5"],
    "return": [True, False, 1],
    "other": [1],
}
seen = {}
for _ in range(1000):
    op = random.choice(list(replies)[:-1] + ["update", "begin", "commit"])
    likely = {"update": ("path", random.choice(("merge", "patch"))), "begin": ("path",), "publish": ("path",),
              "break": ("path",), "commit": (random.choice(("value", "merge", "patch")),)}.get(op, ())
    names = [n for n in MEMBERS if random.random() < (0.9 if n in likely else 0.1)]
    if op == "update":
        send({"op": "abort"})
    code = agree({"op": op, **{n: random.choice(MEMBERS[n]) for n in names}})
    seen[code] = seen.get(code, 0) + 1
assert seen[None] >= 200 and seen["EINVAL"] >= 200, seen

# Not everything is a reply.
failure = {"path": "f", "when": "2024-02-29T12:00:00Z", "message": "m", "uid": 1}
party = {"kind": "turn", "shared": False, "pid": 1}
lock = {"path": "f", "holders": [party], "waiters": [{**party, "waited": 0.5}], "new": 1}
good = {"ok": True, "version": 1}
bad = {"ok": False, "version": 1, "error": {"code": "EACCES", "message": "m"}}
for said in (good, {**good, "new": 1}, {**good, "failures": [failure]}, {**good, "locks": [lock]},
             {**bad, "new": 1}, {**bad, "error": {**bad["error"], "new": 1}}):
    reply.validate(said)
for said in (
    {}, [], {"ok": True}, {"ok": True, "version": 2}, {"ok": 1, "version": 1}, {"ok": False, "version": 1},
    {**bad, "error": "EACCES"}, {**bad, "error": {"code": "EACCES"}}, {**bad, "error": {"message": "m"}},
    {**bad, "error": {"code": 13, "message": "m"}}, {**bad, "ok": True, "turn": "1"},
    {**good, "turn": -1}, {**good, "turn": 1.5}, {**good, "changed": 1}, {**good, "published": False},
    {**good, "broken": None}, {**good, "locks": {}}, {**good, "locks": [{**lock, "waiters": None}]},
    {**good, "locks": [{**lock, "holders": [{**party, "shared": 0}]}]}, {**good, "drafts": [{"path": "f"}]},
    {**good, "failures": [{**failure, "when": 1}]}, {**good, "salvage": [{"id": "1"}]}, {**good, "stats": []},
    {**good, "stats": {"opened": "1"}},
):
    assert not reply.is_valid(said), said
for op, validator in replies.items():
    if op != "abort":
        assert not validator.is_valid(good), op
"##,
        ));
    }
);

mount_only!(
    /// A full disk fails an update and loses nothing, of a file that is written in place, too.
    updates_on_a_full_disk,
    Setup::on_image("ext4", 24).and_options(&["--salvage", "0"]),
    |m| {
        m.py(&with_channel(
            r#"
c = Channel()
text = json.dumps({"x": "y" * 1_000_000})
write("one.json", text)
write("linked.json", text)
os.link("linked.json", "other.json")
write("in.direct", text)
with open(f"{DATA}/fill", "wb", 0) as f:
    try:
        while True:
            f.write(b"z" * 4096)
    except OSError as error:
        equal(error.errno, errno.ENOSPC)
for name in ("one.json", "linked.json"):
    c.refused(errno.ENOSPC, {"op": "update", "path": name, "merge": {"k": "v" * 500_000}})
    equal(read(name).decode(), text, name)
c.refused(errno.ENOSPC, {"op": "update", "path": "new.json", "merge": {"k": "v" * 500_000}})
equal(sorted(os.listdir(".")), sorted(["fill", "in.direct", "linked.json", "lost+found", "one.json", "other.json"]))
equal(read("other.json").decode(), text)
os.unlink(f"{DATA}/fill")
for name in ("one.json", "linked.json", "new.json"):
    c.ask("update", path=name, merge={"k": "v"})
    equal(json.loads(read(name))["k"], "v")
equal(read("other.json"), read("linked.json"))
"#,
        ));
    }
);

mount_only!(
    /// No user takes the channel, or the mount's memory, from others.
    users_have_their_own_share_of_the_channel,
    Setup::default().for_all_users(),
    |m| {
        m.py(&with_channel(
            r#"
if os.getuid() == 0:
    os.chmod(".", 0o777)
    def greedy(line):
        os.setgroups([]); os.setgid(1234); os.setuid(1234)
        channels, refused = [], 0
        for _ in range(60):
            c = Channel()
            channels.append(c)
            try:
                for _ in range(3):
                    os.write(c.fd, b'{"op": "update", "path": "x.json", "merge": "' + b"x" * 900_000 if not _ else b"x" * 900_000)
            except OSError as error:
                equal(error.errno, errno.EBUSY)
                refused += 1
        assert refused > 20, refused
        line.say("full")
        line.hear()
        for c in channels:
            try:
                c.close()
            except OSError:
                pass
        # Replies that are not read count as well, and so do defaults.
        write("big.json", json.dumps({"x": "y" * 5_000_000}))
        busy = []
        for op in ({"op": "begin", "path": "big.json"}, {"op": "update", "path": "big.json", "merge": {}, "return": True}):
            channels = [Channel() for _ in range(12)]
            for c in channels:
                try:
                    c.send(json.dumps(op)) if op["op"] != "begin" else os.write(c.fd, json.dumps(op).encode())
                    if op["op"] == "begin":
                        os.write(c.fd, b'{"op": "abort"}')
                except OSError as error:
                    busy.append(error.errno)
            for c in channels:
                c.close()
        assert set(busy) <= {errno.EBUSY} and busy, busy
        Channel().ask("update", path="big.json", merge={"fine": True})
    worker = Worker(greedy)
    equal(worker.hear(), "full")
    Channel().ask("stats")
    worker.say("go on")
    worker.done()
"#,
        ));
    }
);

mount_only!(
    /// A change is seen by its maker and by everybody else as soon as the write() returns, whatever they knew before.
    a_change_is_seen_at_once,
    |m| {
        m.py(&with_channel(
            r#"
other, = peers(1)
c = Channel()
def look(name):
    """What both find by the name: nothing, or the size by stat and the content."""
    code = f"(os.stat({name!r}).st_size, os.access({name!r}, os.R_OK), read({name!r})) if os.path.exists({name!r}) else None"
    here, there = eval(code), other(code)
    equal(here, there)
    return here
def sees(name, text):
    equal(look(name), (len(text), True, text.encode()))
for round in range(2):
    # It was known that there is none.
    name = f"made-{round}.json"
    equal(look(name), None)
    c.ask("update", path=name, merge={"n": 1})
    sees(name, '{\n  "n": 1\n}\n')
    assert name in os.listdir(".")
    # It was known, and nobody has it open.
    name = f"known-{round}.json"
    write(name, "{}")
    for reading in (False, True):
        # Others have it open, and keep what they have.
        if reading:
            fd = os.open(name, os.O_RDONLY)
            other(f"f = open({name!r}); f.read()")
            before = os.fstat(fd)
        time.sleep(0.1)
        look(name)
        merge = {"text": "x" * (round + 10)} if reading else {"n": 1}
        c.ask("update", path=name, merge=merge)
        now = read(f"{DATA}/{name}").decode()
        sees(name, now)
        equal(os.stat(name).st_ino, os.stat(f"{DATA}/{name}").st_ino)
        if reading:
            equal(os.fstat(fd).st_size, before.st_size)
            equal(len(os.pread(fd, 100, 0)), before.st_size)
            os.close(fd)
            other("f.close()")
    # It is written in place, and somebody has mapped it.
    name = f"linked-{round}.json"
    write(name, '{"a": 1}')
    os.link(name, f"{name}.other")
    look(name), look(f"{name}.other")
    other(f"f = open({name!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)")
    equal(other("bytes(m)"), b'{"a": 1}')
    c.ask("update", path=name, merge={"a": 2})
    sees(name, '{"a": 2}')
    sees(f"{name}.other", '{"a": 2}')
    equal(other("bytes(m)"), b'{"a": 2}')
    # Renamed to a name that was not there.
    write("a.json", "{}")
    look("a.json")
    name = f"renamed-{round}.json"
    os.rename("a.json", name)
    fd = os.open(name, os.O_RDONLY)
    c.ask("update", path=name, merge={"long": "x" * 50})
    sees(name, read(f"{DATA}/{name}").decode())
    os.close(fd)
# Only the first of many changes may take long.
start = time.time()
for n in range(100):
    look("made-0.json")
    fd = os.open("made-0.json", os.O_RDONLY)
    look("made-0.json")
    c.ask("update", path="made-0.json", merge={"n": n + 10})
    equal(json.loads(read("made-0.json"))["n"], n + 10)
    os.close(fd)
assert time.time() - start < 20, time.time() - start
"#,
        ));
    }
);
