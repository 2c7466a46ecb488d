"""A network namespace of the test's own, so that ports (80 included) cannot collide with anything on the machine."""
import array
import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNET = 0x40000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)
_next_port = 10000
entered = False


def enter():
    """Moves this process, before it has threads, to a new namespace with lo up. False: the machine does not allow it."""
    global entered
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        entered = _libc.unshare(CLONE_NEWNET) == 0
    if not entered and _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        try:
            with open("/proc/self/setgroups", "w") as f:
                f.write("deny")
            with open("/proc/self/uid_map", "w") as f:
                f.write(f"0 {uid} 1")
            with open("/proc/self/gid_map", "w") as f:
                f.write(f"0 {gid} 1")
            entered = True
        except OSError:
            return False
    if entered:
        raise_loopback()
    return entered


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = array.array("b", struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(s, SIOCGIFFLAGS, request)
        flags = struct.unpack("16sh22x", request.tobytes())[1] | IFF_UP
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags))


def free_port():
    """A port nobody has: counted up in an own namespace (below the ephemeral range), else chosen by the kernel."""
    global _next_port
    if entered:
        _next_port += 1
        return _next_port
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
