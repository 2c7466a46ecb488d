"""A TCP (or TLS) server for tunnels: each connection is handed to a function on a thread of its own.

TcpServer(test, handler): handler(peer) with peer.recv(), .recv_exact(n), .send(), .half_close(), .close(), .reset();
peer.proxy holds the PROXY header's bytes when wants_proxy. Connections are kept in .peers, their ends in .ended.
"""
import socket
import struct

from .listening import Listening


class Peer:
    def __init__(self, server, sock, ix):
        self.server, self.sock, self.ix = server, sock, ix
        self.buffer = b""
        self.proxy = None
        self.is_eof = self.is_closed = False
        self.got_bytes = 0

    def recv(self, cap=65536):
        """b"" at the end."""
        if self.buffer:
            part, self.buffer = self.buffer[:cap], self.buffer[cap:]
            return part
        data = self.sock.recv(cap)
        self.got_bytes += len(data)
        if not data:
            self.is_eof = True
        return data

    def recv_exact(self, cnt):
        data = b""
        while len(data) < cnt:
            part = self.recv(cnt - len(data))
            if not part:
                raise EOFError(f"{len(data)} of {cnt} bytes")
            data += part
        return data

    def recv_until(self, mark):
        data = b""
        while mark not in data:
            part = self.recv()
            if not part:
                raise EOFError(repr(data[:200]))
            data += part
        head, self.buffer = data.split(mark, 1)[0] + mark, data.split(mark, 1)[1] + self.buffer
        return head

    def recv_all(self):
        parts = []
        while True:
            part = self.recv()
            if not part:
                return b"".join(parts)
            parts.append(part)

    def send(self, data):
        self.sock.sendall(data)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        if self.is_closed:
            return
        self.is_closed = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        self.is_closed = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def echo(peer):
    while True:
        data = peer.recv()
        if not data:
            return
        peer.send(data)


def sink(peer):
    while peer.recv():
        pass


def read_proxy_header(peer):
    """The bytes of a PROXY header of either version, which must be there."""
    first = peer.recv_exact(12)
    if first == b"\r\n\r\n\0\r\nQUIT\n":
        head = peer.recv_exact(4)
        return first + head + peer.recv_exact(struct.unpack("!H", head[2:])[0])
    peer.buffer = first + peer.buffer
    line = peer.recv_until(b"\r\n")
    assert line.startswith(b"PROXY "), line
    return line


class TcpServer(Listening):
    def __init__(self, test, handler=echo, port=None, host="127.0.0.1", tls=None, wants_proxy=False, listen=True, backlog=1024):
        """tls: (chain file, key file) or an ssl.SSLContext."""
        self.handler, self.wants_proxy = handler, wants_proxy
        self.ended, self.errors = 0, []
        self.listen(test, port, host, tls, backlog, listen)

    @property
    def peers(self):
        return self.connections

    def make(self, sock, ix):
        return Peer(self, sock, ix)

    def serve(self, peer):
        try:
            if self.wants_proxy:
                peer.proxy = read_proxy_header(peer)
            if self.tls:
                peer.sock = self.tls.wrap_socket(peer.sock, server_side=True)
            self.handler(peer)
        except (OSError, EOFError, ValueError) as e:
            with self.lock:
                self.errors.append(e)
        finally:
            if not peer.is_closed:
                peer.close()
            with self.lock:
                self.ended += 1
                self.lock.notify_all()

    def wait_peers(self, cnt, timeout_s=10.0):
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.peers) >= cnt, timeout_s), f"{len(self.peers)} connections, wanted {cnt}"
            return self.peers[cnt - 1]

    def wait_ended(self, cnt, timeout_s=10.0):
        with self.lock:
            assert self.lock.wait_for(lambda: self.ended >= cnt, timeout_s), f"{self.ended} connections ended, wanted {cnt}"
