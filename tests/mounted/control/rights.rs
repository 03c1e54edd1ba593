//! What the control channel does for whom: nobody gets more from it than a plain directory gives him.

use super::CHANNEL;
use crate::harness::{Plain, Setup, Who, run};

/// What the scripts share. They run as root, and say who does what.
const USERS: &str = r#"
from people import become, make, make_dir

A, B, GROUP = 61001, 61002, 61100

def as_user(uid, function, **how):
    """Does it in a process of that user; what it returns."""
    def work(line):
        become(uid, **how)
        line.say(repr(function()))
    worker = Worker(work)
    answer = worker.hear()
    worker.done()
    return eval(answer)

def update(path, **more):
    return {"op": "update", "path": path, "merge": {"x": 1}, **more}
"#;

fn for_all_users(script: &'static str) {
    thread_local! {
        static SCRIPT: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
    }
    SCRIPT.set(script);
    let setup = Setup::default().for_all_users();
    run(Who::Root, &setup, Plain::DoesNotApply, |m| {
        m.py(&format!("{CHANNEL}{USERS}{}", SCRIPT.get()));
    });
}

/// An ordinary user's mount cannot find out what others may do.
#[test]
fn an_ordinary_users_mount_does_nothing_for_others() {
    for_all_users(
        r#"
from owned import Owned, OWNER
with Owned() as mounted:
    data, safe = mounted.data, mounted.safe
    for name, mode in ((".profile", 0o644), ("secret.json", 0o600), ("open.json", 0o666)):
        make(f"{data}/{name}", '{"secret": 1}', mode, OWNER)
    make_dir(f"{data}/private", 0o700, OWNER); make(f"{data}/private/x.json", '{"secret": 1}', 0o666, OWNER)
    make_dir(f"{data}/open", 0o777, OWNER)
    CONTROL = f"{safe}/.polystore/control.json"
    def owner():
        os.chdir(safe)
        global held, draft
        held, draft = open("job.lock", "w"), open("draft", "w")
        draft.write("x"); draft.flush()
        return Channel().ask("begin", path="secret.json")["value"]
    def keeps(line):
        become(OWNER)
        line.say(owner())
        line.hear()
    keeper = Worker(keeps)
    equal(keeper.hear(), "{'secret': 1}")
    def stranger():
        c = Channel()
        for path in (".profile", "secret.json", "open.json", "private/x.json", "new.json", "open/new.json", "none/x"):
            c.refused(errno.EACCES, update(path))
            c.refused(errno.EACCES, {"op": "begin", "path": path})
            c.refused(errno.EACCES, {"op": "publish", "path": path})
            c.refused(errno.EPERM, {"op": "break", "path": path})
        c.refused(errno.EPERM, {"op": "salvage"})
        seen = c.ask("status")
        equal((seen["locks"], seen["drafts"], seen["failures"], "salvage" in seen), ([], [], [], False))
        assert seen["stats"]["drafts"] >= 1, seen
        equal({key for key in json.loads(read(f"{safe}/.polystore/status.json"))}, {"ok", "version", "locks", "drafts", "failures", "stats"})
    as_user(B, stranger)
    as_user(B, stranger, groups=(OWNER,))
    keeper.kill()
    keeper.wait()
    for name in (".profile", "secret.json", "open.json", "private/x.json"):
        equal(read(f"{data}/{name}"), b'{"secret": 1}', name)
    for uid in (OWNER, 0):
        as_user(uid, lambda: Channel().ask("update", path="secret.json", merge={"by": uid}))
        equal(json.loads(read(f"{data}/secret.json")), {"secret": 1, "by": uid})
    assert not os.path.exists(f"{data}/new.json") and os.listdir(f"{data}/open") == []
"#,
    );
}

/// A descriptor that was handed over, or that a set-user-id program has inherited, makes no requests as its user.
#[test]
fn requests_count_for_who_opened_and_writes() {
    for_all_users(
        r#"
os.chmod(".", 0o755)
make("roots.json", "{}", 0o600, 0)
make("as.json", "{}", 0o600, A)
def refused(c):
    for request in (update("roots.json"), update("as.json"), {"op": "commit", "value": {"x": 2}}, {"op": "abort"}, {"op": "status"}):
        fails(errno.EPERM, os.write, c.fd, json.dumps(request).encode())
    fails(errno.EPERM, os.write, c.fd, b"{")
    fails(errno.EPERM, os.read, c.fd, 100)
mine, theirs = socket.socketpair()
def others(line):
    os.setgroups([])
    os.setresgid(A, A, GROUP)
    os.setresuid(A, A, A)
    c = Channel()
    c.ask("begin", path="as.json")
    socket.send_fds(theirs, [b"x"], [c.fd])
    line.hear()
    # Another group.
    os.setegid(GROUP)
    fails(errno.EPERM, os.write, c.fd, b'{"op": "abort"}')
    fails(errno.EPERM, os.read, c.fd, 1)
    os.setegid(A)
    c.ask("commit", value={"x": 3})
worker = Worker(others)
passed = Channel()
os.close(passed.fd)
passed.fd = socket.recv_fds(mine, 1, 1)[1][0]
refused(passed)
as_user(B, lambda: refused(passed))
worker.say("go on")
worker.done()
equal(json.loads(read("as.json")), {"x": 3})
own = Channel()
own.ask("begin", path="roots.json")
as_user(A, lambda: refused(own))
own.ask("commit", value={"x": 4})
equal(json.loads(read("roots.json")), {"x": 4})
# What there is to see has no such risk.
f = open(".polystore/status.json")
equal(as_user(A, lambda: json.loads(os.pread(f.fileno(), 1 << 20, 0))["ok"]), True)
"#,
    );
}

/// Everybody sees what is his.
#[test]
fn lists_show_what_is_ones_own() {
    for_all_users(
        r#"
os.chmod(".", 0o777)
make_dir("private", 0o700)
held, draft = open("private/job.lock", "w"), open("private/draft", "w")
draft.write("x"); draft.flush()
def own():
    c = Channel()
    lock, new = open("mine.lock", "w"), open("mine", "w")
    new.write("x"); new.flush()
    lists = c.ask("status")
    names = [[entry["path"] for entry in lists[kind]] for kind in ("locks", "drafts", "failures")]
    holders = lists["locks"][0]["holders"]
    return names, holders[0]["uid"], holders[0]["process"].startswith("python"), "salvage" in lists
for uid in (A, B):
    equal(as_user(uid, own), ([["mine.lock"], ["mine"], []], uid, True, False))
    os.unlink("mine.lock"); os.unlink("mine")
equal(len(Channel().ask("drafts")["drafts"]), 1)
"#,
    );
}

/// The rules of fs.protected_symlinks and fs.protected_regular hold, whatever these are set to.
#[test]
fn what_others_put_into_a_shared_directory_is_not_followed() {
    for_all_users(
        r#"
os.chmod(".", 0o755)
make_dir("sticky", 0o1777); make_dir("open", 0o777); make_dir("victims", 0o777); make_dir("bs", 0o1777, B)
for uid in (A, B):
    make(f"victims/{uid}.json", "{}", 0o600, uid)
make("victims/0.json", "{}", 0o600, 0)
def link(path, target, uid):
    os.symlink(target, path)
    os.lchown(path, uid, uid)
for place in ("sticky", "open", "bs"):
    for uid in (0, A, B):
        for target in (0, A, B):
            link(f"{place}/{uid}-{target}", f"../victims/{target}.json", uid)
        link(f"{place}/dir-{uid}", "../victims", uid)
    link(f"{place}/twice", f"{A}-{B}", B)
def ask(path):
    try:
        Channel().ask("update", path=path, merge={"n": random.random()})
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
def rule():
    for place, owner in (("sticky", 0), ("open", None), ("bs", B)):
        for uid in (0, A, B):
            expected = "done" if owner is None or uid in (B, owner) else "EACCES"
            equal(as_user(B, lambda: ask(f"{place}/{uid}-{B}")), expected, (place, uid))
            equal(as_user(B, lambda: ask(f"{place}/dir-{uid}/{B}.json")), expected, (place, uid, "middle"))
            expected = "done" if owner is None or uid in (0, owner) else "EACCES"
            equal(ask(f"{place}/{uid}-0"), expected, (place, uid, "root"))
            equal(ask(f"{place}/dir-{uid}/0.json"), expected, (place, uid, "root, middle"))
    equal(as_user(B, lambda: ask("sticky/twice")), "EACCES")
    equal(as_user(B, lambda: ask("open/twice")), "done")
    # Files.
    for mode, expected in ((0o1777, "EACCES"), (0o777, "done")):
        os.chmod("sticky", mode)
        make("sticky/f.json", "{}", 0o666, A)
        equal(as_user(B, lambda: ask("sticky/f.json")), expected, oct(mode))
        equal(ask("sticky/f.json"), expected, oct(mode))
        os.chmod("sticky/f.json", 0o666)
        equal(as_user(A, lambda: ask("sticky/f.json")), "done")
        os.unlink("sticky/f.json")
    os.chmod("sticky", 0o1777)
    make("sticky/f.json", "{}", 0o666, 0)
    equal(as_user(B, lambda: ask("sticky/f.json")), "done", "its directory's owner's")
    os.unlink("sticky/f.json")
settings = {name: f"/proc/sys/fs/protected_{name}" for name in ("symlinks", "regular")}
were = {path: read(path) for path in settings.values()}
try:
    for value in (b"0", b"1"):
        for path in settings.values():
            write(path, value)
        rule()
finally:
    for path, value in were.items():
        write(path, value)
"#,
    );
}

/// What was checked is what is read, changed and replaced.
#[test]
fn a_name_that_is_swapped_gives_nothing_away() {
    for_all_users(
        r#"
make_dir("d", 0o777)
place = f"{DATA}/d"
# Whoever reads the data directory as this user finds it.
for above in (DATA, os.path.dirname(DATA)):
    os.chmod(above, 0o755)
os.chmod(".", 0o755)
def victim():
    make(f"{place}/new", '{"secret": true}', 0o600, 0)
    os.setxattr(f"{place}/new", "user.secret", b"1")
    os.rename(f"{place}/new", f"{place}/v.json")
make("d/x.json", '{"mine": true}', 0o644, A)
victim()
def swapping(line):
    become(A)
    while not line.waiting(0):
        for _ in range(100):
            try:
                renameat2(f"{place}/x.json", f"{place}/v.json", RENAME_EXCHANGE)
            except FileNotFoundError:
                pass
        # Without a pause hardly any update would find its file twice.
        time.sleep(random.choice((0.0001, 0.003)))
def updating(line):
    become(A)
    c, done = Channel(), 0
    while not line.waiting(0):
        for op in (update("d/x.json", merge={"n": random.random()}, **{"return": True}), {"op": "begin", "path": "d/x.json"}, {"op": "commit", "value": {"mine": random.random()}}):
            try:
                assert "secret" not in json.dumps(c.send(json.dumps(op)))
                done += op["op"] == "update"
            except OSError as error:
                assert error.errno in (errno.EACCES, errno.EAGAIN, errno.ESRCH, errno.EBUSY), error
                if error.errno == errno.EBUSY:
                    c.ask("abort")
    assert done > 5, done
workers = [Worker(swapping), Worker(updating)]
end, missing, seen = time.time() + 6, 0, 0
while time.time() < end:
    roots = False
    for name in ("x.json", "v.json"):
        try:
            fd = os.open(f"{place}/{name}", os.O_RDONLY)
        except FileNotFoundError:
            continue
        text, status = os.pread(fd, 1000, 0), os.fstat(fd)
        if status.st_uid == 0:
            roots = True
            equal((text, stat.S_IMODE(status.st_mode)), (b'{"secret": true}', 0o600))
        else:
            equal((status.st_uid, stat.S_IMODE(status.st_mode), os.listxattr(fd)), (A, 0o644, []))
            assert b"secret" not in text, text
        os.close(fd)
    # It may be replaced, as in any directory where this user may make names.
    seen, missing = seen + roots, 0 if roots else missing + 1
    if missing > 5:
        victim()
    time.sleep(0.001)
assert seen > 100, seen
for worker in workers:
    worker.say("stop")
    worker.done()
"#,
    );
}

/// As a write() by the same user would.
#[test]
fn an_update_takes_set_id_bits_away() {
    for_all_users(
        r#"
make_dir("d", 0o777)
os.chmod(".", 0o755)
def bits(path):
    return oct(stat.S_IMODE(os.stat(path).st_mode))
for linked in (False, True):
    for uid in (A, B, 0):
        for mode in (0o4777, 0o2777, 0o6777, 0o777):
            make("d/f", "{}", 0o666, A); make(f"{PLAIN}/f", "{}", 0o666, A)
            os.chmod(PLAIN, 0o755); os.chmod(os.path.dirname(PLAIN), 0o755)
            os.chmod("d/f", mode); os.chmod(f"{PLAIN}/f", mode)
            if linked:
                os.link("d/f", "d/other")
            as_user(uid, lambda: write(f"{PLAIN}/f", "{}", "r+b"))
            as_user(uid, lambda: Channel().ask("update", path="d/f", merge={"n": 1}))
            equal(bits("d/f"), bits(f"{PLAIN}/f"), (linked, uid, oct(mode)))
            equal(os.stat("d/f").st_uid, A)
            for name in os.listdir("d"):
                os.unlink(f"d/{name}")
"#,
    );
}

/// Nobody opens so much that others cannot.
#[test]
fn handles_are_counted_by_user() {
    for_all_users(
        r#"
os.chmod(".", 0o755)
def many(line):
    become(A)
    channels = []
    try:
        while len(channels) < 2000:
            channels.append(Channel())
    except OSError as error:
        equal(error.errno, errno.EMFILE)
    assert 100 < len(channels) < 1000, len(channels)
    fails(errno.EMFILE, os.open, ".polystore/status.json", os.O_RDONLY)
    line.say("full")
    line.hear()
    channels.pop().close()
    until(lambda: can_open())
def can_open():
    try:
        Channel().close()
        return True
    except OSError:
        return False
worker = Worker(many)
equal(worker.hear(), "full")
as_user(B, lambda: Channel().ask("stats"))
worker.say("go on")
worker.done()
"#,
    );
}

/// What one user's documents take is bounded, and others do not wait for them.
#[test]
fn big_documents_take_bounded_memory_and_hold_up_nobody() {
    for_all_users(
        r#"
SIZE = 16 << 20
os.chmod(".", 0o777)
texts = {
    "numbers.json": "[1" + ",1" * (SIZE // 2 - 2) + "]",
    "lists.json": "[[]" + ",[]" * (SIZE // 3 - 2) + "]",
    "names.json": "{" + ",".join(f'"{n:x}":{n % 10}' for n in range(SIZE // 11)) + "}",
    "records.json": "[" + ",".join(f'{{"id": {n}, "name": "number {n}", "flag": true}}' for n in range(SIZE // 55)) + "]",
}
for name, text in texts.items():
    assert SIZE // 2 < len(text) <= SIZE, (name, len(text))
    make(f"{DATA}/{name}", text, 0o644, A)
make("small.json", "{}", 0o644, B)
def serves(pid):
    try:
        # The guard of the mount has the same command line.
        named = read(f"/proc/{pid}/comm") == b"polystore\n"
        return named and read(f"/proc/{pid}/cmdline").split(b"\0")[-2:-1] == [SAFE.encode()]
    except OSError:
        return False
daemon, = [pid for pid in os.listdir("/proc") if pid.isdigit() and serves(pid)]
def peak():
    status = read(f"/proc/{daemon}/status").decode()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10
def greedy(line):
    become(A)
    done = {}
    def work(name):
        for op in ({"op": "begin"}, update(None, **{"return": True}), {"op": "update", "patch": [{"op": "add", "path": "/x", "value": 1}]}, {"op": "update", "patch": [{"op": "add", "path": "/-", "value": 1}]}):
            c = Channel()
            request = {**op, "path": name}
            try:
                os.write(c.fd, json.dumps(request).encode())
                done[op["op"]] = done.get(op["op"], 0) + 1
                reply = b""
                while not reply.endswith(b"\n"):
                    reply += os.read(c.fd, 1 << 20)
                assert reply.startswith(b'{"ok":true,'), reply[:100]
            except OSError as error:
                assert error.errno in (errno.EBUSY, errno.EMSGSIZE, errno.EINVAL), (name, op, error)
            c.close()
    threads = [threading.Thread(target=work, args=(name,)) for name in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    line.say(repr(done))
write(f"/proc/{daemon}/clear_refs", "5")
before = peak()
worker = Worker(greedy)
def small(line):
    become(B)
    c, times = Channel(), []
    while not line.waiting(0):
        start = time.time()
        c.ask("update", path="small.json", merge={"n": start})
        times.append(time.time() - start)
        time.sleep(0.01)
    times.sort()
    line.say(repr((len(times), times[len(times) // 2], times[-1])))
other = Worker(small)
done = eval(worker.hear())
worker.done()
other.say("stop")
many, median, longest = eval(other.hear())
other.done()
# A merge patch needs no value of the document, a begin neither.
assert done["begin"] >= 1 and done["update"] >= 4, done
equal(json.loads(read("names.json"))["x"], 1)
assert many > 5 and median < 0.5 and longest < 5, (many, median, longest)
assert peak() - before < 700, (before, peak())
"#,
    );
}
