"""Which operations must give the same result in the mount as in a plain directory.

A mount differs on purpose while a file is being written: others see the old version, who reads
goes on with the version that was opened. This module knows, from the plain directory alone, which
files are being written by whom, so that operations whose results may differ are left out:

- a file that a process has open for writing is no other process's to touch by name,
- a handle that reads is *stale* once the file's content has changed: it may only be closed,
- what is opened with O_TRUNC is not seen by name until it is written,
- a hard link of a file that is being edited is one of the published version,
- what is being made is in no listing,
- what a process empties with O_TRUNC while it edits it is another version, which the edit replaces,
- a descriptor that was opened through /proc/self/fd does not see what others of its process write,
- a lock file that the mount made is its maker's when a program opens it,
- an O_PATH descriptor does not keep a file that has no name any more: no FUSE server knows of it.

Files that are written in place (`*.log`, appends) have none of this.
"""

import os
from dataclasses import dataclass

CHANGES = {"write", "pwrite", "ftruncate", "fallocate", "copy", "store"}
SLOT_ONLY = CHANGES | {"read", "pread", "lseek", "fsync", "fstat", "setfl", "flock", "fcntl", "getlk", "fchmod", "fchown", "fsetxattr", "linkfd", "dup", "reopen"}
ATTRIBUTES = {"chmod", "chown", "utime", "setxattr", "getxattr", "removexattr", "listxattr", "access"}


@dataclass
class Handle:
    ino: int
    writer: bool
    in_place: bool
    blind: bool
    name: str
    only_path: bool = False
    apart: bool = False
    stale: bool = False

    def drafts(self):
        return self.writer and not self.in_place


class Tracking:
    def __init__(self, plain, data, turns, about):
        self.plain, self.data, self.about = plain, data, about
        self.turns = turns
        self.handles = {}

    # ---- before -------------------------------------------------------------------

    def comparable(self, who, operation):
        """Whether the operation's result must be the same."""
        if self.turns and self.takes_turn(who, operation):
            return False
        for key in ("slot", "source"):
            handle = self.handles.get((who, operation.get(key)))
            replaced = key == "slot" and operation["op"] in ("open", "reopen", "dup", "close")
            if handle and not replaced and handle.stale:
                return False
            if handle and not replaced and any(h.drafts() for (w, _), h in self.others(who) if h.ino == handle.ino):
                return False
        paths = [operation[key] for key in ("path", "to") if key in operation]
        if any(self.is_hidden(path) for path in paths):
            return False
        touched = {ino for path in paths for ino in self.inodes(path, operation)}
        for (owner, _), handle in self.handles.items():
            if handle.ino in touched and handle.drafts():
                if owner != who or handle.blind:
                    return False
                if operation["op"] in ("link", "list") or (operation["op"] == "rename" and operation["flags"] == 2):
                    return False
        if operation["op"] == "store" and self.about(who, operation["slot"]).mode & 0o6000:
            return False  # which the mount takes away at a store through a mapping, too
        source = operation.get("source" if operation["op"] in ("reopen", "dup") else "slot")
        handle = self.handles.get((who, source))
        if handle and handle.only_path and self.about(who, source).links == 0:
            return False
        handle = self.handles.get((who, operation.get("slot")))
        if handle and handle.blind and operation["op"] in ("fstat", "fchmod", "fchown", "store"):
            return False
        if operation.get("flags", 0) & os.O_TRUNC and operation["op"] in ("open", "reopen", "save"):
            source = self.handles.get((who, operation.get("source")))
            if source:
                touched.add(source.ino)
            if any(h.drafts() and h.ino in touched for h in self.handles.values()):
                return False
        if operation["op"] == "linkfd":
            handle = self.handles.get((who, operation["slot"]))
            return not (handle and any(h.ino == handle.ino and h.drafts() for h in self.handles.values()))
        return True

    def is_hidden(self, path):
        """Whether it is a lock file that the mount has made for itself."""
        path = os.path.realpath(os.path.join(self.plain, path))
        beside = os.path.join(self.data, os.path.relpath(path, self.plain))
        return os.path.lexists(beside) and not os.path.lexists(path)

    def others(self, who):
        return [(key, handle) for key, handle in self.handles.items() if key[0] != who]

    def inodes(self, path, operation):
        """The files that the operation may find under this name."""
        found = set()
        full = os.path.join(self.plain, path)
        for look in (os.lstat, os.stat):
            try:
                found.add(look(full).st_ino)
            except OSError:
                pass
        try:
            found.add(os.stat(os.path.dirname(full)).st_ino)
        except OSError:
            pass
        if operation["op"] in ("rmdir", "rename", "list") and os.path.isdir(full):
            found.update(entry.inode() for entry in os.scandir(full))
        return found

    def takes_turn(self, who, operation):
        """Whether the operation takes part in taking turns and lasts: a plain directory has none."""
        kind = operation["op"]
        if kind == "open":
            writes = operation["flags"] & 3 or operation["flags"] & (os.O_CREAT | os.O_TRUNC)
            return bool(writes and turn_taking(os.path.realpath(os.path.join(self.plain, operation["path"]))))
        handle = self.handles.get((who, operation.get("source" if kind == "reopen" else "slot")))
        return kind in ("reopen", "flock", "fcntl") and handle is not None and turn_taking(handle.name)

    # ---- after --------------------------------------------------------------------

    def note(self, who, operation, result, ino):
        """Takes note of what succeeded in the plain directory; `ino` is of the slot's file, if there is one."""
        kind, key = operation["op"], (who, operation.get("slot"))
        if kind == "close":
            self.handles.pop(key, None)
        if result[0] != "ok":
            return
        if kind in ("open", "reopen", "dup"):
            self.opened(who, operation, result[1], ino)
        elif kind in CHANGES and key in self.handles:
            handle = self.handles[key]
            handle.blind = False
            self.changed(handle.ino, who, handle.in_place, handle)
        elif kind in ("save", "truncate"):
            try:
                changed = os.stat(os.path.join(self.plain, operation["path"])).st_ino
            except OSError:
                return
            self.changed(changed, None, self.is_in_place(operation.get("path"), operation.get("flags", 0), changed))

    def opened(self, who, operation, value, ino):
        key = who, operation["slot"]
        if operation["op"] == "dup":
            self.handles[key] = Handle(**vars(self.handles[who, operation["source"]]))
            return
        self.handles.pop(key, None)
        flags = operation["flags"]
        if operation["op"] == "reopen":
            name = self.handles[who, operation["source"]].name if (who, operation["source"]) in self.handles else "f"
        else:
            name = os.path.realpath(os.path.join(self.plain, operation["path"]))
        if flags & os.O_PATH:
            self.handles[key] = Handle(ino, False, False, False, name, True)
            return
        in_place = self.is_in_place(name, flags, ino)
        writer = value["regular"] and bool(flags & 3 or flags & os.O_TRUNC)
        truncates = bool(flags & os.O_TRUNC) and value["regular"]
        if truncates:
            self.changed(ino, None, in_place)
        apart = operation["op"] == "reopen" and not in_place
        self.handles[key] = Handle(ino, writer, in_place, truncates and not in_place, name, apart=apart)

    def is_in_place(self, name, flags, ino):
        same = [handle for handle in self.handles.values() if handle.ino == ino]
        if any(handle.drafts() for handle in same):
            return False
        name = os.path.realpath(os.path.join(self.plain, name))
        return name.endswith(".log") or bool(flags & os.O_APPEND and flags & 3) or any(h.writer and h.in_place for h in same)

    def changed(self, ino, who, in_place, through=None):
        """Notes that a process changed a file, and who does not see it."""
        if in_place:
            return
        for (owner, _), handle in self.handles.items():
            sees = owner == who and handle.writer and not handle.apart and not (through and through.apart)
            if handle.ino == ino and handle is not through and not sees:
                handle.stale = True

    def being_written(self):
        """Names of the plain tree that are not to be compared."""
        written = {handle.ino for handle in self.handles.values() if handle.drafts()}
        names = []
        for above, directories, files in os.walk(self.plain):
            for name in directories + files:
                path = os.path.join(above, name)
                if os.lstat(path).st_ino in written:
                    names.append(os.path.relpath(path, self.plain))
        return names


def turn_taking(name):
    return name.endswith((".json", ".lock"))
