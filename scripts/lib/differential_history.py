"""Random histories: what six processes of three users do, from a seed alone."""

import base64
import fcntl
import os
import random
import struct

A, B, GROUP = 61001, 61002, 61100
USERS = [
    ("A1", {"uid": A, "gid": A, "groups": [GROUP], "umask": 0o022}),
    ("A2", {"uid": A, "gid": A, "groups": [GROUP], "umask": 0}),
    ("B1", {"uid": B, "gid": B, "groups": [GROUP], "umask": 0o022}),
    ("B2", {"uid": B, "gid": GROUP, "groups": [], "umask": 0o077}),
    ("R1", {"uid": 0, "gid": 0, "groups": [], "umask": 0o022}),
    ("R2", {"uid": 0, "gid": 0, "groups": [GROUP], "umask": 0}),
]
SLOTS = 6

# name, mode, owner, group, access ACL, default ACL
DIRECTORIES = [
    ("sticky", 0o1777, 0, 0, None, None),
    ("sticky-a", 0o1777, A, A, None, None),
    ("setgid", 0o2775, 0, GROUP, None, None),
    ("setgid-a", 0o2777, A, GROUP, None, None),
    ("acl", 0o755, 0, 0, "ub:rwx", None),
    ("default", 0o777, 0, 0, None, "ub:rw-"),
    ("private", 0o700, A, A, None, None),
    ("closed", 0o755, 0, 0, None, None),
    ("open", 0o777, 0, 0, None, None),
    ("group", 0o770, 0, GROUP, None, None),
]
NAMES = ["f", "g", "c.json", "c.json.lock", "t.lock", "x.log", "y.log", "d", "s"]
MODES = [0o644, 0o600, 0o666, 0o664, 0o640, 0o755, 0o622, 0o400, 0o000, 0o4755, 0o2755, 0o2644, 0o6777, 0o4711]
# Sizes about the limits of pages, and of what the mount keeps without a name.
LENGTHS = [0, 1, 7, 100, 511, 4095, 4096, 4097, 8192, 65536, 70000]

SETPCAP = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


def acl(entries):
    """The value of system.posix_acl_*: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def acl_of(user, permissions, group=5, other=4, owner=7):
    none = 0xFFFFFFFF
    mask = permissions | group
    return acl([(1, owner, none), (2, permissions, user), (4, group, none), (0x10, mask, none), (0x20, other, none)])


VALUES = {
    "user.a": [b"1", b"another value", b""],
    "user.b": [b"x" * 200],
    "user.polystore.turn": [b"1"],
    "trusted.t": [b"roots"],
    "security.capability": [SETPCAP, b"junk"],
    "system.posix_acl_access": [acl_of(B, 6), acl_of(B, 0), acl_of(A, 7, 0, 0), acl([(1, 6, 0xFFFFFFFF), (4, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]), b"junk"],
    "system.posix_acl_default": [acl_of(B, 7), acl_of(A, 4, 0, 0)],
}


class History:
    """Draws operations; everything comes from the one generator."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.serial = 0
        self.favourites = [name for name, *_ in self.random.sample(DIRECTORIES, 3)]
        self.users = [name for name, _ in self.random.sample(USERS, 4)]
        self.opened = {name: set() for name, _ in USERS}
        self.files = prepare(self)
        self.made = [name for name, *_ in self.files if name.split("/")[0] in self.favourites]

    def draw(self, number):
        return [self.operation() for _ in range(number)]

    def path(self):
        r = self.random
        # A few directories and names at a time, so that operations meet.
        if r.random() < 0.6:
            return r.choice(self.made)
        directory = r.choice(self.favourites) if r.random() < 0.8 else r.choice(DIRECTORIES)[0]
        path = f"{directory}/{r.choice(NAMES)}"
        return f"{path}/{r.choice(NAMES)}" if r.random() < 0.06 else path

    def text(self):
        self.serial += 1
        return f"<{self.serial}>"

    def operation(self):
        r = self.random
        self.who = r.choice(self.users)
        kind = r.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        operation = {"who": self.who, "op": kind, **getattr(self, "draw_" + kind)()}
        if kind in ("mkdir", "mknod") or operation.get("flags", 0) & os.O_CREAT and kind in ("open", "save"):
            self.made.append(operation["path"])
        if kind in ("link", "rename"):
            self.made.append(operation["to"])
        del self.made[:-20]
        if kind in ("open", "reopen", "dup"):
            self.opened[self.who].add(operation["slot"])
        if kind == "close":
            self.opened[self.who].discard(operation["slot"])
        return operation

    def slot(self, free=False):
        """A slot to open something in, or one that may have something open."""
        opened = sorted(self.opened[self.who])
        if free or not opened:
            return self.random.randrange(SLOTS)
        return self.random.choice(opened)

    def flags(self):
        r = self.random
        flags = r.choices([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH], [3, 3, 4, 1])[0]
        for flag, chance in (
            (os.O_CREAT, 0.4), (os.O_EXCL, 0.1), (os.O_TRUNC, 0.3), (os.O_APPEND, 0.15),
            (os.O_NOFOLLOW, 0.05), (os.O_DIRECTORY, 0.04), (os.O_DIRECT, 0.08), (os.O_SYNC, 0.03), (os.O_NOATIME, 0.02),
        ):  # fmt: skip
            if r.random() < chance:
                flags |= flag
        if flags & os.O_EXCL and not flags & os.O_CREAT:
            flags &= ~os.O_EXCL  # undefined otherwise
        if flags & os.O_CREAT and flags & os.O_DIRECTORY:
            flags &= ~os.O_DIRECTORY  # kernels differ
        return flags

    def draw_open(self):
        return {"path": self.path(), "slot": self.slot(True), "flags": self.flags(), "mode": self.random.choice(MODES)}

    def draw_reopen(self):
        flags = self.flags() & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_PATH)
        return {"source": self.slot(), "slot": self.slot(True), "flags": flags}

    def draw_dup(self):
        return {"source": self.slot(), "slot": self.slot(True)}

    def draw_close(self):
        return {"slot": self.slot()}

    draw_fstat = draw_fsync = draw_close

    def draw_peek(self):
        return {"path": self.path()}

    draw_stat = draw_lstat = draw_readlink = draw_unlink = draw_rmdir = draw_listxattr = draw_peek

    def draw_list(self):
        return {"path": self.random.choice(DIRECTORIES)[0]}

    def draw_access(self):
        return {"path": self.path(), "mode": self.random.randrange(8)}

    def draw_save(self):
        r = self.random
        flags = os.O_WRONLY | r.choice([os.O_TRUNC, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL, 0, os.O_APPEND, os.O_CREAT | os.O_APPEND])
        return {"path": self.path(), "flags": flags, "mode": r.choice(MODES), "content": self.text() * r.choice([1, 3, 500])}

    def draw_read(self):
        return {"slot": self.slot(), "length": self.random.choice([512, 4096, 8192, 65536])}

    def draw_pread(self):
        return {**self.draw_read(), "offset": self.random.choice([0, 512, 4096])}

    def draw_write(self):
        return {"slot": self.slot(), "text": self.text(), "length": self.random.choice([1, 5, 512, 4096, 4096, 8192, 12288])}

    def draw_pwrite(self):
        return {**self.draw_write(), "offset": self.random.choice([0, 3, 512, 4096, 65536])}

    def draw_lseek(self):
        r = self.random
        return {"slot": self.slot(), "offset": r.choice([0, 0, 512, 4096, -1]), "whence": r.choice([0, 1, 2])}

    def draw_ftruncate(self):
        return {"slot": self.slot(), "length": self.random.choice(LENGTHS)}

    def draw_fallocate(self):
        r = self.random
        mode = r.choice([0, 0, 1, 1, 3, 0x10, 0x11, 2, 0x40])
        return {"slot": self.slot(), "mode": mode, "offset": r.choice([0, 100, 4096]), "length": r.choice([0, 1, 4096, 20000])}

    def draw_copy(self):
        r = self.random
        offsets = {"offset_in": r.choice([0, 10]), "offset_out": r.choice([0, 50, 4096])}
        return {"source": self.slot(), "slot": self.slot(), "length": r.choice([1, 4096, 100000]), **offsets}

    def draw_store(self):
        return {"slot": self.slot(), "text": self.text()}

    def draw_setfl(self):
        return {"slot": self.slot(), "flags": self.random.choice([0, os.O_APPEND, os.O_DIRECT, os.O_NONBLOCK])}

    def draw_flock(self):
        return {"slot": self.slot(), "how": self.random.choice([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_EX, fcntl.LOCK_UN])}

    def draw_getlk(self):
        r = self.random
        how = r.choice([fcntl.F_RDLCK, fcntl.F_WRLCK])
        return {"slot": self.slot(), "how": how, "start": r.choice([0, 10]), "length": r.choice([0, 1, 10])}

    def draw_fcntl(self):
        drawn = self.draw_getlk()
        if self.random.random() < 0.3:
            drawn["how"] = fcntl.F_UNLCK
        return {**drawn, "open_file": self.random.random() < 0.3}

    def draw_fchmod(self):
        return {"slot": self.slot(), "mode": self.random.choice(MODES)}

    def owner(self):
        r = self.random
        # Not -1 for both: the kernel asks no FUSE server for that.
        uid = r.choice([-1, 0, A, B])
        return {"uid": uid, "gid": r.choice([0, A, B, GROUP] + ([] if uid == -1 else [-1, -1]))}

    def draw_fchown(self):
        return {"slot": self.slot(), **self.owner()}

    def draw_truncate(self):
        return {"path": self.path(), "length": self.random.choice(LENGTHS)}

    def draw_rename(self):
        return {"path": self.path(), "to": self.path(), "flags": self.random.choice([0, 0, 0, 1, 2])}

    def draw_link(self):
        return {"path": self.path(), "to": self.path(), "follow": self.random.random() < 0.3}

    def draw_linkfd(self):
        return {"slot": self.slot(), "to": self.path()}

    def draw_symlink(self):
        return {"target": "../" + self.path() if self.random.random() < 0.7 else self.random.choice(NAMES), "path": self.path()}

    def draw_mkdir(self):
        return {"path": self.path(), "mode": self.random.choice([0o755, 0o777, 0o700, 0o2775, 0o1777, 0o6755])}

    def draw_mknod(self):
        r = self.random
        kind = r.choice([0o010000, 0o100000, 0o100000, 0o140000])
        return {"path": self.path(), "mode": kind | r.choice(MODES)}

    def draw_chmod(self):
        return {"path": self.path(), "mode": self.random.choice(MODES + [0o777, 0o1777])}

    def draw_chown(self):
        return {"path": self.path(), "follow": self.random.random() < 0.7, **self.owner()}

    def draw_utime(self):
        r = self.random
        return {"path": self.path(), "times": r.choice([None, [1000, 2000], [5, 5]]), "follow": r.random() < 0.7}

    def attribute(self):
        name = self.random.choice(list(VALUES))
        return name, base64.b64encode(self.random.choice(VALUES[name])).decode()

    def draw_setxattr(self):
        name, value = self.attribute()
        return {"path": self.path(), "name": name, "value": value, "flags": self.random.choice([0, 0, 1, 2])}

    def draw_fsetxattr(self):
        name, value = self.attribute()
        return {"slot": self.slot(), "name": name, "value": value}

    def draw_getxattr(self):
        return {"path": self.path(), "name": self.attribute()[0]}

    draw_removexattr = draw_getxattr

    def draw_umask(self):
        return {"mask": self.random.choice([0, 0o022, 0o077, 0o002])}


WEIGHTS = {
    "open": 14, "save": 8, "close": 10, "reopen": 3, "dup": 1, "peek": 4, "stat": 2, "lstat": 1, "list": 1, "access": 1,
    "readlink": 0.5, "read": 3, "pread": 2, "write": 5, "pwrite": 3, "lseek": 2, "ftruncate": 3, "fallocate": 2, "copy": 1.5,
    "store": 1.5, "fsync": 0.5, "fstat": 2, "setfl": 1, "flock": 2, "fcntl": 2, "getlk": 1, "fchmod": 2, "fchown": 1,
    "fsetxattr": 1.5, "truncate": 2, "rename": 5, "link": 2.5, "linkfd": 0.7, "unlink": 4, "symlink": 1.5, "mkdir": 1, "rmdir": 1,
    "mknod": 1.5, "chmod": 4, "chown": 2, "utime": 1, "setxattr": 3, "getxattr": 1, "removexattr": 1, "listxattr": 1, "umask": 0.5,
}  # fmt: skip


def prepare(history):
    """What lies in the directories at the beginning, drawn from the same generator."""
    r = history.random
    files = []
    for directory, *_ in DIRECTORIES:
        for name in r.sample(NAMES, 4):
            if name not in ("d", "s"):
                owner = r.choice([0, A, B])
                files.append((f"{directory}/{name}", r.choice(MODES), owner, r.choice([owner, GROUP]), r.choice([0, 20, 5000])))
    return files


def lay_out(directory, files):
    """Makes the directories and files, as root."""
    os.umask(0)
    values = {"ub:rwx": acl_of(B, 7), "ub:rw-": acl_of(B, 6, 4, 0)}
    for name, mode, uid, gid, access, default in DIRECTORIES:
        path = os.path.join(directory, name)
        os.mkdir(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        for attribute, value in (("access", access), ("default", default)):
            if value:
                os.setxattr(path, f"system.posix_acl_{attribute}", values[value])
    for name, mode, uid, gid, length in files:
        path = os.path.join(directory, name)
        with open(path, "wb") as f:
            f.write((name.encode() * length)[:length])
        os.chown(path, uid, gid)
        os.chmod(path, mode)
