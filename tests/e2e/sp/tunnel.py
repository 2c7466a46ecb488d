"""The three kinds of tunnel as clients see them: raw TCP, TCP behind TLS, TLS passed through.

Ends(test, handler) has one origin and a proxy with a port for each kind; ends.open(kind) is a connected client with send,
recv, recv_exact, recv_all, half_close, reset. The handler does not see a passed-through ClientHello.
"""
import socket
import ssl
import struct

from .client import Client, Closed, tls_context
from .conf import forward, passthrough, static_tls, tcp
from .origin import fixed
from .pebble import make_ca, make_leaf
from .tcp import TcpServer, echo

KINDS = ("tcp", "tls", "passthrough")
NAME = "a.test"
# What HTTP would do with a connection, and as far as it goes, does in these tests.
SHORT = {"header": "2s", "idle": "1s", "response": "2s", "total": "3s", "hello": "2s"}
TIMEOUT_S = 60


def hello_bytes(server_name=NAME, alpn=None):
    """A ClientHello as OpenSSL writes it."""
    out = ssl.MemoryBIO()
    obj = tls_context(verify=False, alpn=alpn).wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    try:
        obj.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class RawEnd:
    def __init__(self, port, rcvbuf=None):
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT_S)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, cap=65536):
        return self.sock.recv(cap)

    def recv_exact(self, cnt):
        data = b""
        while len(data) < cnt:
            part = self.recv(min(cnt - len(data), 1 << 18))
            assert part, f"{len(data)} of {cnt} bytes"
            data += part
        return data

    def recv_all(self):
        """To an end in good order; a reset or a cut TLS session raises."""
        parts = []
        while True:
            part = self.recv()
            if not part:
                return b"".join(parts)
            parts.append(part)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


class TlsEnd(RawEnd):
    """TLS whose close_notify ends one direction only, which ssl.SSLSocket cannot do."""

    def __init__(self, port, context, server_name=NAME, rcvbuf=None):
        super().__init__(port, rcvbuf)
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inward, self.outward, server_hostname=server_name)
        self.run(self.tls.do_handshake)

    def flush(self):
        data = self.outward.read()
        if data:
            self.sock.sendall(data)

    def run(self, call, *args):
        while True:
            try:
                value = call(*args)
                self.flush()
                return value
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(65536)
                if data:
                    self.inward.write(data)
                else:
                    self.inward.write_eof()

    def send(self, data):
        for ix in range(0, len(data), 1 << 16):
            self.run(self.tls.write, data[ix:ix + (1 << 16)])

    def recv(self, cap=65536):
        try:
            return self.run(self.tls.read, cap)
        except ssl.SSLZeroReturnError:
            return b""

    def half_close(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


def skip_hello(peer):
    """What a target of a passthrough route gets before the payload of these tests (which never begins with 0x16)."""
    first = peer.recv_exact(1)
    if first != b"\x16":
        peer.buffer = first + peer.buffer
        return
    head = peer.recv_exact(4)
    peer.recv_exact(struct.unpack("!H", head[2:])[0])


class Ends:
    def __init__(self, t, handler=echo, origin=None, target=None, **options):
        """origin: a TcpServer instead of an own one; target: a port instead of an origin; options: of the proxy."""
        def behind_hello(peer):
            skip_hello(peer)
            handler(peer)
        self.test = t
        self.origin = origin if origin or target else TcpServer(t, behind_hello)
        self.target = target or self.origin.port
        ca = make_ca(t.dir)
        self.context = tls_context(ca_file=ca[0])
        self.ports = {kind: t.port() for kind in KINDS}
        self.http = t.port()
        self.web = t.origin(fixed(b"web"))
        cert = make_leaf(t.dir, "a", [NAME], ca)
        self.routes = [tcp("tcp", [self.ports["tcp"]], [self.target]),
                       tcp("tls", [self.ports["tls"]], [self.target], [NAME], static_tls(*cert)),
                       passthrough("passthrough", [self.ports["passthrough"]], [self.target], [NAME]),
                       forward("http", [self.http], [self.web.port])]
        self.proxy = t.proxy(self.routes, **options)
        self.hello = hello_bytes()

    def open(self, kind, rcvbuf=None):
        port = self.ports[kind]
        end = TlsEnd(port, self.context, rcvbuf=rcvbuf) if kind == "tls" else RawEnd(port, rcvbuf)
        self.test.cleanup(end.close)
        if kind == "passthrough":
            end.send(self.hello)
        return end

    def outlive_http(self, cnt=3):
        """Returns when connections of HTTP, opened now, have been ended by timeouts.idle, cnt times in a row."""
        for _ in range(cnt):
            with Client(self.http, timeout_s=TIMEOUT_S) as c:
                assert c.get("/").body == b"web"
                try:
                    c.fill()
                    raise AssertionError("bytes that nobody asked for")
                except Closed:
                    pass


def black_hole(t, host="127.0.0.1"):
    """A port where no SYN is answered: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind((host, t.port()))
    listener.listen(0)
    t.cleanup(listener.close)
    address = listener.getsockname()
    first = socket.create_connection(address, 10)
    t.cleanup(first.close)
    for _ in range(3):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(address)
        t.cleanup(s.close)
    return address[1]
