"""A mount that belongs to an ordinary user and lets others in."""

from common import *
from people import *

# fusermount3 asks for the name of the user.
OWNER = 65534
CLONE_NEWNS, MNT_DETACH, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 2, 0x1000, 0x4000, 0x40000


class Owned:
    """Mounts `data` at `safe` as OWNER, in a mount namespace where fusermount3 lets ordinary users let others in."""

    def __enter__(self):
        call("unshare", CLONE_NEWNS)
        call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
        # The mounts of other tests must be able to end.
        for line in read("/proc/self/mountinfo").decode().splitlines():
            if " - fuse " in line or " - fuse." in line:
                libc.umount2(line.split()[4].encode().decode("unicode_escape").encode(), MNT_DETACH)
        write(f"{TMP}/fuse.conf", "user_allow_other\n")
        call("mount", f"{TMP}/fuse.conf".encode(), b"/etc/fuse.conf", None, MS_BIND, None)
        os.chmod(TMP, 0o755)
        self.data, self.safe = f"{TMP}/data", f"{TMP}/safe"
        make_dir(self.data, 0o755, OWNER)
        make_dir(self.safe, 0o755, OWNER)

        def serve(line):
            become(OWNER)
            program = os.path.dirname(SAFE) + "/bin/polystore"
            os.execv(program, ["polystore", "mount", "--allow-other", self.data, self.safe])

        self.daemon = Worker(serve)
        until(lambda: os.path.ismount(self.safe))
        return self

    def __exit__(self, *_):
        os.chdir("/")
        self.daemon.kill(signal.SIGTERM)
        until(lambda: not os.path.ismount(self.safe))
        self.daemon.done()
