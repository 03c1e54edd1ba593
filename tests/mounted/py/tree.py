"""Compares two directory trees: tree.py PROPERTIES ONE OTHER.

PROPERTIES is a comma-separated list: `content`, `mode`, `owner`, `times` (of modification, to
the nanosecond), `links` (which names are one file), `xattrs` (ACLs among them), `-NAME` to leave
out every path that contains NAME. `all` is everything but names left out.
"""

import hashlib
import os
import stat
import sys

ALL = ("content", "mode", "owner", "times", "links", "xattrs")


def describe(path, properties):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    found = {"kind": stat.filemode(status.st_mode)[0]}
    if kind == stat.S_IFLNK:
        found["target"] = os.readlink(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        found["device"] = status.st_rdev
    if "content" in properties and kind == stat.S_IFREG:
        with open(path, "rb") as f:
            content = f.read()
        found["size"] = status.st_size
        found["content"] = hashlib.sha256(content).hexdigest()
        if len(content) < 200:
            found["text"] = content
    if "mode" in properties:
        found["mode"] = oct(stat.S_IMODE(status.st_mode))
    if "owner" in properties:
        found["owner"] = (status.st_uid, status.st_gid)
    if "times" in properties:
        found["mtime"] = status.st_mtime_ns
    if "xattrs" in properties and kind in (stat.S_IFREG, stat.S_IFDIR):
        names = sorted(os.listxattr(path))
        found["xattrs"] = [(name, os.getxattr(path, name)) for name in names]
    return found, (status.st_dev, status.st_ino), status.st_nlink, kind


def listing(top, properties, left_out):
    tree, names_of = {}, {}
    for directory, directories, files in os.walk(top):
        directories[:] = [d for d in directories if d != ".polystore"]
        for name in [""] * (directory == top) + directories + files:
            path = os.path.join(directory, name) if name else top
            relative = os.path.relpath(path, top)
            if any(part in relative for part in left_out):
                continue
            tree[relative], inode, links, kind = describe(path, properties)
            if "links" in properties and kind == stat.S_IFREG:
                names_of.setdefault(inode, []).append(relative)
                tree[relative]["links"] = links
    for names in names_of.values():
        for name in names:
            tree[name]["same file as"] = sorted(names)
    return tree


def main():
    words = sys.argv[1].split(",")
    left_out = [word[1:] for word in words if word.startswith("-")]
    properties = ALL if "all" in words else words
    one, other = (listing(top, properties, left_out) for top in sys.argv[2:4])
    differences = []
    for name in sorted(set(one) | set(other)):
        if one.get(name) != other.get(name):
            differences.append(f"{name}\n  {one.get(name)}\n  {other.get(name)}")
    if differences:
        shown = "\n".join(differences[:20])
        sys.exit(f"{len(differences)} paths differ in {sys.argv[2]} and {sys.argv[3]}:\n{shown}")
    if not one:
        sys.exit("nothing to compare")


main()
