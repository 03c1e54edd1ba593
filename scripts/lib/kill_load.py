"""The load under which the mount is killed: programs whose files say themselves whether they are whole.

A version of a file is lines "NAME NUMBER" and nothing else, so many of them as NUMBER says. Each
program notes, in memory that it shares with the one that checks, which number it has begun to save
and which it has closed.
"""

import fcntl
import json
import mmap
import os
import random
import re
import struct
import time

PAGES = 8


def version(name, number):
    return f"{name} {number:08}\n".encode() * (1 + number * 7919 % 600)


def number_of(name, content):
    """The number of the version that this is, or None if it is not whole."""
    found = re.match(rb"\S+ (\d{8})\n", content)
    return int(found[1]) if found and version(name, int(found[1])) == content else None


class Progress:
    """What one program has begun and closed."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 4096)

    def begin(self, number):
        struct.pack_into("<Q", self.memory, 0, number)

    def close(self, number):
        struct.pack_into("<Q", self.memory, 8, number)

    def read(self):
        return struct.unpack_from("<QQ", self.memory, 0)


def save(path, content, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    fd = os.open(path, flags, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest):]
    finally:
        os.close(fd)


class Program:
    """One kind of program; `step` saves version `number` of its file, or of one of its own."""

    names_each = False  # whether each number is a file of its own

    def __init__(self, directory, index):
        self.directory, self.progress = directory, Progress()
        self.name = f"{type(self).__name__.lower()}{index}"
        self.path = os.path.join(directory, self.name)

    def label(self, number):
        return f"{self.name}-{number}" if self.names_each else self.name

    def content(self, number):
        # Of all rounds no two versions are the same: salvage is searched for them.
        return version(f"{os.path.basename(self.directory)}/{self.label(number)}", number)

    def run(self):
        self.open()
        number = 0
        while True:
            number += 1
            self.progress.begin(number)
            self.step(number)
            self.progress.close(number)

    def open(self):
        pass

    def found(self, directory, number):
        """The number of the version in place: 0 if there is none, None if what is there is not whole."""
        try:
            with open(os.path.join(directory, self.label(number)), "rb") as f:
                content = f.read()
        except FileNotFoundError:
            return 0
        return self.check(content, number)

    def check(self, content, number):
        return number_of(f"{os.path.basename(self.directory)}/{self.label(number)}", content)


class Create(Program):
    names_each = True

    def step(self, number):
        save(f"{self.path}-{number}", self.content(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)


class Rewrite(Program):
    def step(self, number):
        save(self.path, self.content(number))


class Rename(Program):
    def step(self, number):
        save(self.path + ".tmp", self.content(number))
        os.rename(self.path + ".tmp", self.path)


class Edit(Program):
    def open(self):
        save(self.path, self.content(0))

    def step(self, number):
        with open(self.path, "r+b", 0) as f:
            content = self.content(number)
            half = len(content) // 2
            f.write(content[:half])
            f.write(content[half:])
            f.truncate()


class Store(Program):
    """Writes through a shared mapping."""

    def open(self):
        save(self.path, bytes(PAGES * 4096))

    def step(self, number):
        with open(self.path, "r+b", 0) as f:
            with mmap.mmap(f.fileno(), PAGES * 4096) as area:
                for page in range(PAGES):
                    area[page * 4096 : page * 4096 + 8] = struct.pack("<Q", number)
                area.flush()

    def check(self, content, number):
        numbers = {struct.unpack_from("<Q", content, page * 4096)[0] for page in range(PAGES)} if len(content) == PAGES * 4096 else set()
        # Before the first version is closed there may be an empty one: open() makes it.
        return numbers.pop() if len(numbers) == 1 else 0 if not content else None


class Update(Program):
    """Asks the control channel, which makes and changes documents in the same directory."""

    names_each = True

    def open(self):
        root = os.path.dirname(self.directory)
        self.channel = os.open(f"{root}/.polystore/control.json", os.O_RDWR)

    def step(self, number):
        path = f"{os.path.basename(self.directory)}/{self.name}-{number}"
        request = {"op": "update", "path": path, "merge": {"n": number, "pad": f"{number}," * 500}}
        os.write(self.channel, json.dumps(request).encode())
        if number % 3 == 0:
            os.read(self.channel, 65536)

    def check(self, content, number):
        try:
            value = json.loads(content)
        except ValueError:
            return None
        return value["n"] if value["pad"] == f"{value['n']}," * 500 else None


class Turn(Program):
    """Increments a JSON file that all of its kind share, in turns."""

    def open(self):
        self.name, self.path = "shared.json", os.path.join(self.directory, "shared.json")

    def step(self, number):
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(fd, "r+") as f:
            value = json.loads(f.read() or "[0, 0]")
            f.seek(0)
            json.dump([value[0] + 1] * 2, f)
            f.truncate()

    def found(self, directory, number):
        return number  # several share it: see `whole`

    @staticmethod
    def whole(directory):
        try:
            with open(os.path.join(directory, "shared.json")) as f:
                first, second = json.loads(f.read() or "[0, 0]")
            return first == second
        except FileNotFoundError:
            return True
        except ValueError:
            return False


class Lock(Program):
    """Waits for a lock that others of its kind hold."""

    def open(self):
        self.fd = os.open(os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT, 0o666)

    def step(self, number):
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        time.sleep(random.random() * 0.01)
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def found(self, directory, number):
        return number


class Look(Lock):
    """Lists and reads, with the directory as its own."""

    def open(self):
        os.chdir(self.directory)

    def step(self, number):
        for entry in list(os.scandir("."))[-20:]:
            try:
                entry.stat()
                with open(entry.name, "rb") as f:
                    f.read(100)
            except (FileNotFoundError, PermissionError):
                pass


LOAD = [(Create, 3), (Update, 3), (Rewrite, 1), (Rename, 2), (Edit, 1), (Store, 1), (Turn, 2), (Lock, 2), (Look, 1)]


def programs(directory):
    return [kind(directory, index) for kind, number in LOAD for index in range(number)]
