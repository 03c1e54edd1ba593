"""What the Python parts of the scenarios share. They run with the mount as working directory."""

import ctypes
import ctypes.util
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

DATA = os.environ["DATA"]
SAFE = os.environ["SAFE"]
PLAIN = os.environ["PLAIN"]
TMP = os.environ["TMPDIR"]

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def call(function, *arguments):
    """A function of libc that returns a negative value on error."""
    result = getattr(libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
    return result


def renameat2(old, new, flags):
    call("renameat2", AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def fallocate(fd, mode, offset, length):
    call("fallocate", fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, content, mode="wb"):
    with open(path, mode) as f:
        f.write(content.encode() if isinstance(content, str) else content)


def equal(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what}: {short(actual)} instead of {short(expected)}")


def short(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:140]} ... {text[-140:]} ({len(value)} long)"


def fails(number, function, *arguments, **keywords):
    """The call must fail with this errno."""
    try:
        function(*arguments, **keywords)
    except OSError as error:
        got, expected = errno.errorcode.get(error.errno), errno.errorcode[number]
        if got != expected:
            raise AssertionError(f"{named(function)}{arguments}: {got}, not {expected}")
        return
    raise AssertionError(f"{named(function)}{arguments} did not fail with {errno.errorcode[number]}")


def named(function):
    return getattr(function, "__name__", type(function).__name__)


def until(condition, what="it is so", seconds=20):
    """Waits until the condition holds."""
    deadline = time.time() + seconds
    while not condition():
        if time.time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def status():
    """What the mount says of itself."""
    with open(os.path.join(SAFE, ".polystore/status.json")) as f:
        return json.load(f)


def waiters(path):
    """How many wait for their turn at this file, by its path in the mount."""
    locks = [lock for lock in status()["locks"] if lock["path"] == path]
    return sum(len(lock["waiters"]) for lock in locks)


class Peer:
    """Another process that does what it is told, for steps in a fixed order.

    Peers are siblings: none descends from another, nor from what another opened.
    """

    def __init__(self):
        self.worker = Worker(Peer.serve)

    @staticmethod
    def serve(line):
        names = dict(globals())
        while True:
            code = json.loads(line.hear())
            line.say("begun")
            try:
                try:
                    answer = eval(code, names)
                except SyntaxError:
                    exec(code, names)
                    answer = None
                if not isinstance(answer, (int, str, bytes, list, tuple, bool, type(None))):
                    answer = None
                line.say(repr(("ok", answer)))
            except OSError as error:
                line.say(repr(("errno", error.errno)))
            except BaseException as error:
                line.say(repr(("error", f"{code}: {error!r}")))

    def ask(self, code):
        """Starts it; `answer` waits for the end."""
        self.worker.say(json.dumps(code))
        equal(self.worker.hear(), "begun")

    def answer(self):
        import ast

        kind, value = ast.literal_eval(self.worker.hear())
        if kind == "errno":
            raise OSError(value, os.strerror(value))
        if kind == "error":
            raise AssertionError(value)
        return value

    def __call__(self, code):
        self.ask(code)
        return self.answer()

    def waits(self, seconds=0.2):
        """True if what was asked for has not been answered after that time."""
        return not self.worker.line.waiting(seconds)

    def kill(self, number=signal.SIGKILL):
        self.worker.kill(number)
        self.worker.wait()


def peers(number):
    return [Peer() for _ in range(number)]


class Worker:
    """A forked process that runs function(connection, *arguments); ends with 0 if that returned."""

    def __init__(self, function, *arguments):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            code = 1
            try:
                function(Line(theirs), *arguments)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        theirs.close()
        self.line = Line(ours)

    def say(self, text):
        self.line.say(text)

    def hear(self):
        return self.line.hear()

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)

    def lives(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self):
        """How it ended: an exit code, or the number of a signal below 0."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def done(self):
        equal(self.wait(), 0, "a worker's exit code")


class Line:
    """Whole lines of text between two processes."""

    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def say(self, text):
        self.connection.sendall(str(text).encode() + b"\n")

    def hear(self):
        while b"\n" not in self.buffer:
            more = self.connection.recv(65536)
            if not more:
                raise EOFError("the other side is gone")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def waiting(self, seconds):
        """True if there is something to hear within that time."""
        return b"\n" in self.buffer or bool(select.select([self.connection], [], [], seconds)[0])
