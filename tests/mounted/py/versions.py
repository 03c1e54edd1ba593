"""Content that shows whether it is whole: length and hash of what follows stand in front."""

import hashlib
import os
import struct

HEADER = struct.Struct("<QQ32s")


def version(number, size):
    """Version `number`, with a body of `size` bytes."""
    seed = hashlib.sha256(f"{number} {size}".encode()).digest()
    body = (seed * (size // len(seed) + 1))[:size]
    return HEADER.pack(number, size, hashlib.sha256(body).digest()) + body


def number_of(content):
    """The number of the version that this is, if it is a whole one."""
    if len(content) < HEADER.size:
        raise AssertionError(f"torn: {len(content)} bytes are not even a header")
    number, size, digest = HEADER.unpack_from(content)
    body = content[HEADER.size:]
    if len(body) != size:
        raise AssertionError(f"torn: version {number} has {len(body)} of {size} bytes")
    if hashlib.sha256(body).digest() != digest:
        raise AssertionError(f"torn: version {number} is mixed with another")
    return number


def read_version(path):
    with open(path, "rb") as f:
        return number_of(f.read())


def write_version(path, number, size, pieces=4, flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    """Rewrites `path` in several writes, as programs do."""
    content = version(number, size)
    step = len(content) // pieces + 1
    fd = os.open(path, flags, 0o666)
    try:
        for start in range(0, len(content), step):
            os.write(fd, content[start:start + step])
    finally:
        os.close(fd)
