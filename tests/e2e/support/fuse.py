"""The smallest file system in user space: runs in a sandbox as root, mounts an empty
directory at its argument, answers the kernel's first questions itself, and unmounts.
Standard library only."""

import ctypes
import os
import struct
import sys
import threading

INIT, GETATTR, DESTROY = 26, 3, 38
HEADER = struct.Struct("<IIQQIIII")
libc = ctypes.CDLL(None, use_errno=True)


def call(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve(fd):
    while True:
        try:
            request = os.read(fd, 1 << 17)
        except OSError:
            return  # unmounted
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        error, body = -38, b""
        if opcode == INIT:
            minor = struct.unpack_from("<II", request, HEADER.size)[1]
            error, body = 0, struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), 0, 0, 0, 0, 4096, 1, 0, 0, 0)
        elif opcode == GETATTR and node == 1:
            # Valid for an hour; a directory with 0751 and the times of the epoch.
            attributes = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40751, 2, 0, 0, 0, 4096, 0)
            error, body = 0, struct.pack("<QII", 3600, 0, 0) + attributes
        if opcode != DESTROY:
            os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def main(target):
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    call(libc.mount(b"none", target.encode(), b"fuse", 0, options))
    threading.Thread(target=serve, args=(fd,), daemon=True).start()
    print(oct(os.stat(target).st_mode))
    call(libc.umount2(target.encode(), 2))


main(sys.argv[1])
