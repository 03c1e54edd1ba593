"""A process of one user that performs operations and says what came of them.

Operations are dictionaries: `op` names a function below, the other members are its arguments.
A worker keeps numbered slots of open descriptors between operations.
"""

import base64
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import signal
import socket
import stat
import struct
import time
import traceback

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100


class Refused(Exception):
    """The operation has no meaning now: an empty slot."""


def _call(function, *arguments):
    result = getattr(libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def about(st):
    """What of a file's attributes must be the same everywhere."""
    size = st.st_size if stat.S_ISREG(st.st_mode) or stat.S_ISLNK(st.st_mode) else None
    return [oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink, size]


def digest(content):
    if len(content) < 48:
        return content.decode("latin-1")
    return f"{len(content)} bytes {hashlib.sha256(content).hexdigest()[:12]}"


def aligned(content):
    """The content in memory that O_DIRECT takes."""
    area = mmap.mmap(-1, max(len(content), 4096))
    area[: len(content)] = content
    return memoryview(area)[: len(content)]


class Worker:
    """What runs in the process."""

    def __init__(self, slots):
        self.slots = [None] * slots

    def fd(self, slot):
        if self.slots[slot] is None:
            raise Refused()
        return self.slots[slot]

    def inode(self, slot):
        """The number of the file in this slot."""
        try:
            return os.fstat(self.fd(slot)).st_ino
        except (Refused, OSError, TypeError):
            return None

    def perform(self, operation):
        arguments = {key: value for key, value in operation.items() if key not in ("op", "who")}
        try:
            return ["ok", getattr(self, "do_" + operation["op"])(**arguments)]
        except Refused:
            return ["none", None]
        except OSError as error:
            return ["errno", errno.errorcode.get(error.errno, str(error.errno))]

    # ---- opening ------------------------------------------------------------------

    def do_open(self, path, slot, flags, mode):
        try:
            if stat.S_ISFIFO(os.stat(path).st_mode):
                flags |= os.O_NONBLOCK
        except OSError:
            pass
        return self._keep(slot, os.open(path, flags, mode))

    def do_reopen(self, source, slot, flags):
        opened = self.do_open(f"/proc/self/fd/{self.fd(source)}", slot, flags, 0)
        if flags & os.O_TRUNC:
            opened["about"].pop()  # the size: the kernel asks for it without saying through which handle
        return opened

    def _keep(self, slot, fd):
        if self.slots[slot] is not None:
            os.close(self.slots[slot])
        self.slots[slot] = fd
        st = os.fstat(fd)
        return {"about": about(st), "regular": stat.S_ISREG(st.st_mode)}

    def do_dup(self, source, slot):
        fd = self.fd(source)
        if source == slot:
            raise Refused()
        return self._keep(slot, os.dup(fd))

    def do_close(self, slot):
        fd, self.slots[slot] = self.fd(slot), None
        os.close(fd)

    def do_peek(self, path):
        """Reads, and leaves nothing open."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return digest(os.read(fd, 1 << 20))
        finally:
            os.close(fd)

    def do_save(self, path, flags, mode, content):
        """Open, write, close: what most programs do."""
        fd = os.open(path, flags | os.O_NONBLOCK, mode)
        try:
            return os.write(fd, content.encode())
        finally:
            os.close(fd)

    # ---- descriptors --------------------------------------------------------------

    def must_be_aligned(self, fd, length, offset=None):
        """File systems do not agree on what O_DIRECT takes that is not aligned."""
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_DIRECT:
            position = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
            position |= os.fstat(fd).st_size if flags & os.O_APPEND else 0
            if position % 4096 or length % 4096:
                raise Refused()

    def do_read(self, slot, length):
        self.must_be_aligned(self.fd(slot), length)
        area = aligned(b"\0" * length)
        got = os.readv(self.fd(slot), [area])
        return digest(bytes(area[:got]))

    def do_pread(self, slot, length, offset):
        self.must_be_aligned(self.fd(slot), length, offset)
        area = aligned(b"\0" * length)
        got = os.preadv(self.fd(slot), [area], offset)
        return digest(bytes(area[:got]))

    def do_write(self, slot, text, length):
        self.must_be_aligned(self.fd(slot), length)
        return os.writev(self.fd(slot), [aligned(filled(text, length))])

    def do_pwrite(self, slot, text, length, offset):
        self.must_be_aligned(self.fd(slot), length, offset)
        return os.pwritev(self.fd(slot), [aligned(filled(text, length))], offset)

    def do_lseek(self, slot, offset, whence):
        return os.lseek(self.fd(slot), offset, whence)

    def do_ftruncate(self, slot, length):
        os.ftruncate(self.fd(slot), length)

    def do_fallocate(self, slot, mode, offset, length):
        _call("fallocate", self.fd(slot), mode, ctypes.c_long(offset), ctypes.c_long(length))

    def do_copy(self, source, slot, length, offset_in, offset_out):
        for fd in (self.fd(source), self.fd(slot)):
            self.must_be_aligned(fd, length, offset_in | offset_out)
        return os.copy_file_range(self.fd(source), self.fd(slot), length, offset_in, offset_out)

    def do_store(self, slot, text):
        """Writes through a shared mapping."""
        fd = self.fd(slot)
        if os.fstat(fd).st_size == 0:
            raise Refused()
        area = mmap.mmap(fd, 0)
        length = min(len(text), len(area))
        area[:length] = text[:length].encode()
        area.close()

    def do_fsync(self, slot):
        os.fsync(self.fd(slot))

    def do_fstat(self, slot):
        return about(os.fstat(self.fd(slot)))

    def do_setfl(self, slot, flags):
        fcntl.fcntl(self.fd(slot), fcntl.F_SETFL, flags)
        return fcntl.fcntl(self.fd(slot), fcntl.F_GETFL) & (os.O_APPEND | os.O_DIRECT | os.O_NONBLOCK)

    def do_flock(self, slot, how):
        fcntl.flock(self.fd(slot), how | (0 if how == fcntl.LOCK_UN else fcntl.LOCK_NB))

    def do_fcntl(self, slot, how, start, length, open_file):
        """F_SETLK or F_OFD_SETLK."""
        lock = struct.pack("hhqqi4x", how, 0, start, length, 0)
        fcntl.fcntl(self.fd(slot), 37 if open_file else fcntl.F_SETLK, lock)

    def do_getlk(self, slot, how, start, length):
        lock = struct.pack("hhqqi4x", how, 0, start, length, 0)
        kind, _, start, length, _ = struct.unpack("hhqqi4x", fcntl.fcntl(self.fd(slot), fcntl.F_GETLK, lock))
        return [kind] if kind == fcntl.F_UNLCK else [kind, start, length]

    def do_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)
        return about(os.fstat(self.fd(slot)))

    def do_fchown(self, slot, uid, gid):
        os.fchown(self.fd(slot), uid, gid)
        return about(os.fstat(self.fd(slot)))

    def do_fsetxattr(self, slot, name, value):
        os.setxattr(self.fd(slot), name, base64.b64decode(value))

    # ---- names --------------------------------------------------------------------

    def do_stat(self, path):
        return about(os.stat(path))

    def do_lstat(self, path):
        return about(os.lstat(path))

    def do_access(self, path, mode):
        return os.access(path, mode)

    def do_list(self, path):
        return sorted(os.listdir(path))

    def do_readlink(self, path):
        return os.readlink(path)

    def do_truncate(self, path, length):
        os.truncate(path, length)

    def do_rename(self, path, to, flags):
        _call("renameat2", AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(to), flags)

    def do_link(self, path, to, follow):
        os.link(path, to, follow_symlinks=follow)

    def do_linkfd(self, slot, to):
        os.link(f"/proc/self/fd/{self.fd(slot)}", to, follow_symlinks=True)

    def do_unlink(self, path):
        os.unlink(path)

    def do_symlink(self, target, path):
        os.symlink(target, path)

    def do_mkdir(self, path, mode):
        os.mkdir(path, mode)

    def do_rmdir(self, path):
        os.rmdir(path)

    def do_mknod(self, path, mode):
        os.mknod(path, mode)

    def do_chmod(self, path, mode):
        os.chmod(path, mode)
        return about(os.stat(path))

    def do_chown(self, path, uid, gid, follow):
        os.chown(path, uid, gid, follow_symlinks=follow)
        return about(os.stat(path, follow_symlinks=follow))

    def do_utime(self, path, times, follow):
        os.utime(path, tuple(times) if times else None, follow_symlinks=follow)
        st = os.stat(path, follow_symlinks=follow)
        return [int(st.st_atime), int(st.st_mtime)] if times else None

    def do_setxattr(self, path, name, value, flags):
        os.setxattr(path, name, base64.b64decode(value), flags)

    def do_getxattr(self, path, name):
        return base64.b64encode(os.getxattr(path, name)).decode()

    def do_removexattr(self, path, name):
        os.removexattr(path, name)

    def do_listxattr(self, path):
        return sorted(os.listxattr(path))

    def do_umask(self, mask):
        os.umask(mask)

    # ---- everything ---------------------------------------------------------------

    def do_tree(self, without):
        """What this user sees of the tree, without the names in `without`."""
        seen, without = {}, set(without)
        todo = ["."]
        while todo:
            above = todo.pop()
            try:
                names = sorted(os.listdir(above))
            except OSError as error:
                seen[above + "/"] = errno.errorcode[error.errno]
                continue
            for name in names:
                path = os.path.normpath(os.path.join(above, name))
                if path in without:
                    continue
                seen[path] = entry = self._entry(path)
                if entry and entry[0].startswith("0o4"):
                    todo.append(path)
        return seen

    def _entry(self, path):
        try:
            st = os.lstat(path)
        except OSError as error:
            return [errno.errorcode[error.errno]]
        entry = about(st)
        try:
            if stat.S_ISLNK(st.st_mode):
                return entry + [os.readlink(path)]
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb", 0) as f:
                    entry.append(digest(f.readall()))
        except OSError as error:
            entry.append(errno.errorcode[error.errno])
        try:
            names = os.listxattr(path, follow_symlinks=False)
            values = {n: base64.b64encode(os.getxattr(path, n, follow_symlinks=False)).decode() for n in sorted(names)}
            entry.append(values)
        except OSError as error:
            entry.append(errno.errorcode[error.errno])
        return entry


def filled(text, length):
    content = text.encode()
    return (content * (length // len(content) + 1))[:length]


class Process:
    """The driver's side: a worker of a user in a directory."""

    living = set()

    def __init__(self, user, directory, slots):
        self.line, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.line.close()
                for other in Process.living:
                    other.line.close()
                serve(theirs, user, directory, slots)
            except (ConnectionResetError, BrokenPipeError):  # the driver has no use for the answer
                pass
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        Process.living.add(self)
        self.buffer = b""

    def ask(self, operation):
        self.line.sendall(json.dumps(operation).encode() + b"\n")

    def answer(self, seconds):
        """What the worker answers, or None if it does not."""
        self.line.settimeout(seconds)
        while b"\n" not in self.buffer:
            try:
                more = self.line.recv(1 << 20)
            except TimeoutError:
                return None
            if not more:
                raise EOFError("a worker is gone")
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def end(self):
        """Waits for it to end; kills it if it does not."""
        Process.living.discard(self)
        self.line.close()
        deadline = time.time() + 5
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.time() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.0005)


def serve(line, user, directory, slots):
    os.chdir(directory)
    os.umask(user["umask"])
    os.setgroups(user["groups"])
    os.setresgid(*[user["gid"]] * 3)
    os.setresuid(*[user["uid"]] * 3)
    worker = Worker(slots)
    reader, writer = line.makefile("rb"), line.makefile("wb", buffering=0)
    while text := reader.readline():
        operation = json.loads(text)
        answer = {"result": worker.perform(operation), "inode": worker.inode(operation.get("slot"))}
        writer.write(json.dumps(answer).encode() + b"\n")
    os._exit(0)
