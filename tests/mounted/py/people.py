"""Processes of other users, and files that belong to them."""

from common import *


def become(uid, gid=None, groups=()):
    os.setgroups(list(groups))
    os.setresgid(*[gid or uid] * 3)
    os.setresuid(*[uid] * 3)


def user(uid, groups=()):
    """A process of that user that does what it is told, in the directory that it was made in."""
    peer = Peer()
    peer(f"os.umask(0); os.setgroups({list(groups)}); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})")
    return peer


def answer(peer, code):
    """What came of it, or the name of its errno."""
    try:
        return peer(code)
    except OSError as error:
        return errno.errorcode[error.errno]


def make(path, content, mode, uid):
    write(path, content)
    os.chown(path, uid, uid)
    os.chmod(path, mode)


def make_dir(path, mode, uid=0):
    os.mkdir(path)
    os.chown(path, uid, uid)
    os.chmod(path, mode)
