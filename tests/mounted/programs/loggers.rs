//! Programs that write for ever, and those that read along or rotate.

use crate::harness::same;

same!(
    /// A logger that keeps its log open, a reader that follows it, and somebody who empties it.
    a_log_is_followed,
    |m| {
        m.py(r#"
import logging
for name in ("app.log", "app.txt"):
    log = logging.getLogger(name)
    log.addHandler(logging.FileHandler(name))
    log.propagate = False
    log.warning("line 0")
    follower = subprocess.Popen(["tail", "-n", "+1", "-F", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for n in range(1, 20):
        log.warning(f"line {n}")
    heard = b""
    while heard.count(b"\n") < 20:
        assert select.select([follower.stdout], [], [], 20)[0], heard
        heard += os.read(follower.stdout.fileno(), 10_000)
    equal(heard, b"".join(b"line %d\n" % n for n in range(20)), name)
    subprocess.run(f": > {name}", shell=True, check=True)
    equal(read(name), b"")
    log.warning("after")
    equal(read(name), b"after\n")
    while b"after" not in heard:
        assert select.select([follower.stdout], [], [], 20)[0], heard
        heard += os.read(follower.stdout.fileno(), 10_000)
    follower.kill()
    follower.wait()
"#);
    }
);

same!(
    /// `>> log` by eight shells, `tee -a`, and a redirected child, all into one file.
    many_append,
    |m| {
        m.sh(r#"
            for w in $(seq 8); do (for n in $(seq 100); do echo "worker $w line $n" >> lines; done) & done
            (for n in $(seq 100); do echo "tee line $n"; done | tee -a lines > /dev/null) &
            python3 -c 'import subprocess
with open("lines", "a") as f: subprocess.run("for n in $(seq 100); do echo child line $n; done", shell=True, stdout=f, check=True)' &
            wait
            test $(wc -l < lines) = 1000; test $(sort -u lines | wc -l) = 1000
            if grep -Evx '(worker [1-8]|tee|child) line [0-9]+' lines; then exit 1; fi"#);
    }
);

same!(
    /// A daemon goes on while its log is rotated, in each way.
    log_rotation,
    Setup::needs(&["logrotate"]),
    |m| {
        m.py(r#"
daemon, = peers(1)
def rotate(name, how):
    write(f"{TMP}/conf-{name}", f'"{os.getcwd()}/{name}" {{\n rotate 3\n {how}\n}}\n')
    os.chmod(f"{TMP}/conf-{name}", 0o644)
    subprocess.run(["logrotate", "-f", "-s", f"{TMP}/state-{name}", f"{TMP}/conf-{name}"], check=True)

os.mkdir("logs", 0o755)
os.chdir("logs")
daemon('os.chdir("logs")')
for name in ("copied.log", "copied.txt"):
    daemon(f'f = open("{name}", "ab", 0)')
    daemon('f.write(b"one\\n")')
    rotate(name, "copytruncate")
    daemon('f.write(b"two\\n")')
    equal((read(name), read(f"{name}.1")), (b"two\n", b"one\n"), name)
    rotate(name, "copytruncate\n compress")
    daemon('f.write(b"three\\n")')
    import gzip
    equal((read(name), gzip.decompress(read(f"{name}.1.gz"))), (b"three\n", b"two\n"), name)
for name in ("created.log", "created.txt"):
    daemon(f'f = open("{name}", "ab", 0)')
    daemon('f.write(b"one\\n")')
    rotate(name, "create 0640")
    daemon('f.write(b"still the old\\n")')
    equal((read(name), read(f"{name}.1")), (b"", b"one\nstill the old\n"), name)
    equal(stat.S_IMODE(os.stat(name).st_mode), 0o640)
    daemon(f'f = open("{name}", "ab", 0)')
    daemon('f.write(b"new\\n")')
    equal(read(name), b"new\n")
# Python's own rotation.
import logging.handlers
log = logging.getLogger("rotating")
log.addHandler(logging.handlers.RotatingFileHandler("r.txt", maxBytes=100, backupCount=3))
log.propagate = False
for n in range(30):
    log.warning(f"message {n:03}")
whole = b"".join(read(name) for name in ("r.txt.3", "r.txt.2", "r.txt.1", "r.txt"))
assert whole.endswith(b"".join(b"message %03d\n" % n for n in range(10, 30))[-len(whole):]), whole
"#);
    }
);

same!(
    /// A system logger, run by hand with a configuration of its own.
    rsyslog,
    Setup::needs(&["rsyslogd"]),
    |m| {
        m.py(r#"
os.mkdir("spool")
write("rsyslog.conf", f"""
global(workDirectory="{SAFE}/spool")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{TMP}/log" CreatePath="off" UseSpecialParser="on")
template(name="plain" type="string" string="%msg%\\n")
*.* action(type="omfile" file="{SAFE}/messages" template="plain" asyncWriting="off" flushOnTXEnd="on")
*.* action(type="omfile" file="{SAFE}/messages.log" template="plain")
""")
daemon = subprocess.Popen(["rsyslogd", "-n", "-f", f"{SAFE}/rsyslog.conf", "-i", f"{SAFE}/rsyslog.pid"], stderr=subprocess.DEVNULL)
def until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert daemon.poll() is None, "rsyslogd has ended"
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
until(lambda: os.path.exists(f"{TMP}/log"), "no socket")
line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
line.connect(f"{TMP}/log")
def content(name):
    return read(name) if os.path.exists(name) else b""
def says(text):
    line.send(b"<13>Oct 11 22:14:15 test: " + text)
    for name in ("messages", "messages.log"):
        until(lambda: text + b"\n" in content(name), f"{text} is not in {name}: {content(name)}")
for n in range(10):
    says(b"message number %d" % n)
equal(content("messages").count(b"\n"), 10 + content("messages").count(b"rsyslog"), "lines")
subprocess.run(": > messages", shell=True, check=True)
says(b"after it was emptied")
assert b"number" not in content("messages") and b"\0" not in content("messages"), content("messages")
os.rename("messages", "messages.1")
line.send(b"<13>Oct 11 22:14:15 test: renamed")
until(lambda: b"renamed" in content("messages.1"), "the renamed file is the daemon's")
daemon.send_signal(signal.SIGHUP)
time_limit = time.monotonic() + 20
while b"fresh" not in content("messages"):
    assert time.monotonic() < time_limit, "no new file after SIGHUP"
    line.send(b"<13>Oct 11 22:14:15 test: fresh")
    time.sleep(0.05)
daemon.terminate()
equal(daemon.wait(20), 0)
"#);
    }
);
