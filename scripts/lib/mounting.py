"""A mount of a tool's own, in a mount namespace of its own, and what to do when it hangs."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLONE_NEWNS = 0x20000
MNT_DETACH = 2
MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 0x40000, 0x1000
libc = ctypes.CDLL(None, use_errno=True)


class Skipped(Exception):
    """The tool cannot run on this machine; says why."""


def require_root_and_fuse():
    if os.geteuid() != 0:
        raise Skipped("needs root: it acts as several users")
    if not os.path.exists("/dev/fuse"):
        raise Skipped("there is no /dev/fuse")


def main(tool, run):
    """Runs `run`, and says so if it cannot: exit code 77, or 1 where nothing may be skipped."""
    try:
        sys.exit(run())
    except Skipped as reason:
        print(f"{tool}: skipped: {reason}", file=sys.stderr)
        skipped = os.environ.get("POLYSTORE_TEST_SKIPPED")
        if skipped:
            with open(skipped, "a") as f:
                f.write(f"scripts/{tool}: {reason}\n")
        sys.exit(1 if os.environ.get("POLYSTORE_TEST_STRICT") == "1" else 77)


def build():
    """Builds the release binary and returns its path."""
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "-p", "polystore-mount"], cwd=ROOT, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release/polystore")


def _checked(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def private_mounts():
    """From here on, what this process and its children mount is nobody else's."""
    _checked(libc.unshare(CLONE_NEWNS), "unshare")
    _checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    let_go_of_others()


def let_go_of_others():
    """A copy of somebody's mount in this namespace would keep it alive after he has unmounted it."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        # Not fusectl, through which connections are aborted.
        lines = [line.split() for line in mounts if b" - fuse " in line or b" - fuse." in line]
    for line in lines:
        libc.umount2(line[4].decode("unicode_escape").encode("latin-1"), MNT_DETACH)


def bind(source, target):
    _checked(libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None), f"mount --bind {target}")


def unbind(target):
    libc.umount2(os.fsencode(target), 2)


class Mount:
    """`polystore mount` of DATA at MOUNT, in a fresh directory, with a plain directory beside them."""

    def __init__(self, binary, below=None, options=(), user=None):
        self.work = tempfile.mkdtemp(prefix="polystore.", dir=below)
        os.chmod(self.work, 0o755)
        self.options, self.user = list(options), user
        self.binary = os.path.join(self.work, "polystore")
        shutil.copy(binary, self.binary)
        self.data, self.safe, self.plain = (os.path.join(self.work, name) for name in ("data", "safe", "plain"))
        self.log_file = os.path.join(self.work, "mount.log")
        for path in (self.data, self.safe, self.plain):
            os.mkdir(path, 0o755)
            if user is not None:
                os.chown(path, user, user)
        self.daemon = None

    def become(self):
        if self.user is not None:
            os.setgroups([])
            os.setresgid(*[self.user] * 3)
            os.setresuid(*[self.user] * 3)

    def start(self):
        log = open(self.log_file, "ab")
        command = [self.binary, "mount", *self.options, self.data, self.safe]
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", preexec_fn=self.become)
        log.close()
        deadline = time.time() + 30
        while not self.answers():
            if self.daemon.poll() is not None or time.time() > deadline:
                raise RuntimeError(f"polystore mount did not come up:\n{self.log()}")
            time.sleep(0.005)

    def answers(self):
        """Whether a mount is there that lives: a dead one may have been there before it."""
        try:
            os.statvfs(self.safe)
            device = os.stat(self.safe).st_dev
        except OSError:
            return False
        self.connection = os.major(device) << 20 | os.minor(device)
        return device == self.device()

    def is_listed(self):
        return self.device() is not None

    def device(self):
        """The device number of the mount, as stat(2) would say it, without asking the mount."""
        found = None
        with open("/proc/self/mountinfo") as f:
            for line in f:
                fields = line.split()
                if fields[4] == self.safe:
                    major, minor = map(int, fields[2].split(":"))
                    found = os.makedev(major, minor)
        return found

    def log(self):
        with open(self.log_file, errors="replace") as f:
            return f.read()

    def abort(self):
        """Ends the connection: every program in the mount gets an error."""
        path = f"/sys/fs/fuse/connections/{self.connection}/abort"
        if not os.path.exists("/sys/fs/fuse/connections/" + str(self.connection)):
            subprocess.run(["mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections"], capture_output=True)
        try:
            with open(path, "w") as f:
                f.write("1")
        except OSError as error:
            print(f"abort of connection {self.connection}: {error}", file=sys.stderr)

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def unmount(self, seconds=60):
        """Unmounts in peace; returns what is wrong, or None."""
        command = [self.binary, "unmount", self.safe]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, preexec_fn=self.become)
            if done.returncode != 0:
                return f"polystore unmount: {done.stdout}{done.stderr}"
            code = self.daemon.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"the mount does not end within {seconds} s:\n{stacks([self.daemon.pid])}"
        if code != 0:
            return f"the mount ended with {code}:\n{self.log()}"
        if "panicked" in self.log():
            return f"the mount panicked:\n{self.log()}"
        left = self.staged()
        return f"left in .polystore: {left}" if left else None

    def staged(self):
        """What is left in .polystore, apart from salvage."""
        found = []
        for above, _, names in os.walk(os.path.join(self.data, ".polystore")):
            relative = os.path.relpath(above, self.data)
            found += [os.path.join(relative, name) for name in names if not relative.startswith(".polystore/salvage")]
        return found

    def remove(self):
        """Leaves nothing behind, whatever state the mount is in."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.abort()
            self.daemon.kill()
            self.daemon.wait()
        while self.is_listed() and libc.umount2(os.fsencode(self.safe), 2) == 0:
            pass
        shutil.rmtree(self.work, ignore_errors=True)


def stacks(pids):
    """Where the threads of these processes are in the kernel."""
    lines = []
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in sorted(threads, key=int):
            base = f"/proc/{pid}/task/{thread}"
            said = []
            for name in ("comm", "wchan", "syscall", "stack"):
                try:
                    with open(f"{base}/{name}") as f:
                        said.append(f.read().strip())
                except OSError:
                    said.append("?")
            comm, wchan, syscall, stack = said
            if wchan == "futex_do_wait":  # idle
                continue
            lines.append(f"  {pid}/{thread} {comm}: {state(base)} {wchan} syscall {syscall.split(' ')[0]}")
            lines += ["      " + line for line in stack.splitlines()[:12]]
    return "\n".join(lines)


def state(proc):
    """The state letter of a process or thread, or None if it is gone."""
    try:
        with open(f"{proc}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return None
