"""A scripted raw origin: it records the exact bytes of each request and answers what the script says.

A script is a function (connection, request) called once a request; connection.send(bytes), .close(), .reset(). With several
scripts, the n-th request of the origin's life gets the n-th (the last one repeats).
"""
import socket
import ssl
import struct

from .listening import Listening


class Request:
    def __init__(self, head, connection_ix, request_ix):
        self.raw_head = head
        lines = head[:-4].decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ")
        self.headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines[1:])]
        self.body, self.body_bytes, self.trailers = b"", 0, []
        self.connection_ix, self.request_ix = connection_ix, request_ix
        self.is_complete = False

    def header(self, name, default=None):
        values = self.all(name)
        return values[0] if values else default

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]


class Connection:
    def __init__(self, origin, sock, ix):
        self.origin, self.sock, self.ix = origin, sock, ix
        self.buffer = b""
        self.is_closed = False

    def send(self, data):
        self.sock.sendall(data)

    def close(self):
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

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def read_until(self, mark):
        while mark not in self.buffer:
            self.fill()
        part, self.buffer = self.buffer.split(mark, 1)
        return part + mark

    def read_body(self, request, keep=True, pace=None):
        """Reads the rest of the request; called by the origin before the script unless the script wants it itself."""
        if request.is_complete:
            return
        if request.header("transfer-encoding"):
            while True:
                size = int(self.read_until(b"\r\n").split(b";")[0], 16)
                if size == 0:
                    break
                self.take(size, request, keep, pace)
                assert self.read_until(b"\r\n") == b"\r\n"
            while True:
                line = self.read_until(b"\r\n")
                if line == b"\r\n":
                    break
                name, _, value = line[:-2].decode("latin-1").partition(":")
                request.trailers.append((name, value.strip()))
        else:
            self.take(int(request.header("content-length", "0")), request, keep, pace)
        request.is_complete = True

    def take(self, cnt, request, keep, pace):
        while cnt:
            if not self.buffer:
                self.fill()
            part, self.buffer = self.buffer[:cnt], self.buffer[cnt:]
            cnt -= len(part)
            request.body_bytes += len(part)
            if keep:
                request.body += part
            if pace:
                pace(request.body_bytes)


class Origin(Listening):
    def __init__(self, test, *scripts, port=None, reads_body=True, backlog=512, listen=True, host="127.0.0.1", tls=None):
        """tls: an ssl.SSLContext of the server side, or (chain file, key file)."""
        self.scripts = scripts or (fixed(b"origin\n"),)
        self.reads_body = reads_body
        self.tls_errors, self.requests = [], []
        self.listen(test, port, host, tls, backlog, listen)

    def make(self, sock, ix):
        return Connection(self, sock, ix)

    def serve(self, connection):
        try:
            if self.tls:
                connection.sock = self.tls.wrap_socket(connection.sock, server_side=True)
            while not connection.is_closed:
                head = connection.read_until(b"\r\n\r\n")
                with self.lock:
                    request = Request(head, connection.ix, len(self.requests))
                    self.requests.append(request)
                    self.lock.notify_all()
                if self.reads_body:
                    connection.read_body(request)
                self.scripts[min(request.request_ix, len(self.scripts) - 1)](connection, request)
                if not connection.is_closed and not request.is_complete:
                    connection.read_body(request)
        except ssl.SSLError as e:
            self.tls_errors.append(str(e))
        except (EOFError, OSError):
            pass
        finally:
            if not connection.is_closed:
                connection.close()

    def wait_requests(self, cnt, timeout_s=10.0):
        with self.lock:
            ok = self.lock.wait_for(lambda: len(self.requests) >= cnt, timeout_s)
            assert ok, f"origin got {len(self.requests)} requests, wanted {cnt}"
            return self.requests[cnt - 1]

    @property
    def last(self):
        return self.requests[-1]

    def targets(self):
        with self.lock:
            return [r.target for r in self.requests]


# Scripts
def answer(status=200, body=b"", headers=(), reason="OK", framing=True):
    lines = [f"HTTP/1.1 {status} {reason}"] + [f"{n}: {v}" for n, v in headers]
    if framing:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def fixed(body=b"origin\n", status=200, headers=()):
    data = answer(status, body, headers)
    head_only = data[:len(data) - len(body)] if body else data
    return lambda c, r: c.send(head_only if r.method == "HEAD" else data)


def raw(*parts, close=False):
    """Sends the parts as they are, then closes if asked."""
    def script(c, _r):
        for part in parts:
            c.send(part)
        if close:
            c.close()
    return script


def chunked(*parts, trailers=(), status=200):
    def script(c, _r):
        c.send(f"HTTP/1.1 {status} OK\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in parts:
            c.send(b"%x\r\n%s\r\n" % (len(part), part))
        c.send(b"0\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in trailers) + b"\r\n")
    return script


def hang(c, _r):
    """Never answers; ends when the other side closes."""
    c.fill()


def close_now(c, _r):
    c.close()


def big(size, block=b"x" * 65536):
    """A sized body of any length, written as the socket takes it."""
    def script(c, _r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            part = block[:left]
            c.send(part)
            left -= len(part)
    return script


def echo(c, r):
    """The request's body and a few of its fields back."""
    c.send(answer(200, r.body, [("X-Method", r.method), ("X-Target", r.target), ("X-Connection", str(r.connection_ix))]))
