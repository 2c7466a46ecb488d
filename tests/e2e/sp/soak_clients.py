"""The clients of the soak test. A kind of traffic is a function that does one thing through the proxy and raises when an answer
is not what it must be; each is repeated by some threads until the test says stop."""
import base64
import os
import random
import select
import signal
import socket
import ssl
import struct
import threading
import time
import traceback

from .client import Client, Closed, tls_context
from .soak import PATTERN, accept_key, frame, pattern
from .wait import pause

FLAP_STATUSES = (200, 502, 503, 504)
SHOWN_FAILURES = 3


class Traffic:
    """What the kinds share in one process. plan: ports and names, see the test."""

    def __init__(self, plan):
        self.plan, self.ports, self.limit_s = plan, plan["ports"], plan["limit_s"]
        self.tls = tls_context(ca_file=plan["ca"])
        self.is_over = threading.Event()
        self.lock = threading.Lock()
        self.counts = {}

    def client(self, port, name=None, **options):
        return Client(self.ports[port], tls=self.tls if name else None, server_name=name, timeout_s=self.limit_s, **options)

    def count(self, kind, what, cnt=1):
        with self.lock:
            of = self.counts.setdefault(kind, {"done": 0, "failed": 0, "slowest_s": 0.0, "failures": []})
            of[what] = of.get(what, 0) + cnt

    def note(self, kind, spent_s, failure=None):
        self.count(kind, "failed" if failure else "done")
        with self.lock:
            of = self.counts[kind]
            of["slowest_s"] = max(of["slowest_s"], spent_s)
            if failure and len(of["failures"]) < SHOWN_FAILURES:
                of["failures"].append(f"after {spent_s:.2f} s: {failure}")

    def repeat(self, kind, act, gap_s, seed):
        rng = random.Random(seed)
        while not self.is_over.is_set():
            begin = time.monotonic()
            failure = None
            try:
                act(self, rng)
            except Exception:
                failure = traceback.format_exc(limit=-3)
            self.note(kind, time.monotonic() - begin, failure)
            self.is_over.wait(gap_s * rng.uniform(0.5, 1.5))


def check(response, status, body):
    assert response.status == status, f"status {response.status}, wanted {status}"
    assert response.body == body, f"{len(response.body)} bytes that differ from the {len(body)} wanted"


def some_requests(traffic, rng, client, host, cnt):
    for _ in range(cnt):
        if traffic.is_over.is_set():
            return
        size = rng.choice((0, 1, 100, 4000, 20000, 150000))
        if rng.random() < 0.6:
            check(client.get(f"/b/{size}", host), 200, pattern(size))
        else:
            body = pattern(size)
            if size and rng.random() < 0.5:
                check(client.request("POST", "/echo", host, body=body).response(), 200, body)
            else:
                check(client.request("PUT", "/echo", host, body=body).response(), 200, body)
        pause(0.01)


# Healthy routes: not one may fail
def http_keep_alive(traffic, rng):
    with traffic.client("web") as c:
        some_requests(traffic, rng, c, "web.test", rng.randrange(1, 60))


def http_short(traffic, rng):
    with traffic.client("web") as c:
        check(c.get("/b/300", "web.test", headers=[("Connection", "close")]), 200, pattern(300))
        assert c.wait_closed() == b""


def http_own(traffic, _rng):
    with traffic.client("web") as c:
        check(c.get("/own", "web.test"), 200, b"own")


def http_slow_reader(traffic, rng):
    size = 3 << 20

    def pace(got):
        if rng.random() < 0.02 and not traffic.is_over.is_set():
            pause(0.05)
    with traffic.client("web", rcvbuf=8192) as c:
        response = c.request("GET", f"/b/{size}", "web.test").response(pace=pace)
        check(response, 200, pattern(size))


def http_abandoned(traffic, rng):
    """Clients that go away at any moment."""
    with traffic.client("web") as c:
        c.send(b"GET /b/2000000 HTTP/1.1\r\nHost: web.test\r\n\r\n"[:rng.choice((1, 10, 30, 100))])
        if rng.random() < 0.5:
            pause(rng.uniform(0, 0.05))
        if rng.random() < 0.5:
            reset(c.sock)


def tls_terminated(traffic, rng):
    with traffic.client("tls", "own.test") as c:
        some_requests(traffic, rng, c, "own.test", rng.randrange(1, 20))


def tls_reencrypted(traffic, rng):
    with traffic.client("tls", "again.test") as c:
        some_requests(traffic, rng, c, "again.test", rng.randrange(1, 20))


def tls_refused(traffic, _rng):
    try:
        traffic.client("tls", "nobody.test").close()
    except ssl.SSLError as e:
        assert "UNRECOGNIZED_NAME" in str(e).upper(), e
        return
    raise AssertionError("a name without a route was served")


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def echo_through(c, rng, total):
    """Sends and reads back at once, from one thread as TLS demands; each byte is compared, and the end travels both ways where
    there is no TLS."""
    start = rng.randrange(len(PATTERN) - 1)
    wanted = memoryview((PATTERN[start:] + PATTERN * (total // len(PATTERN) + 1))[:total])
    is_plain = not isinstance(c.sock, ssl.SSLSocket)
    timeout_s = c.sock.gettimeout()
    c.sock.setblocking(False)
    sent = got = 0
    while got < total:
        if sent < total:
            try:
                sent += c.sock.send(wanted[sent:sent + (1 << 16)])
                if sent == total and is_plain:
                    c.half_close()
            except (BlockingIOError, ssl.SSLWantWriteError):
                pass
        try:
            part = c.sock.recv(1 << 16)
            assert part, f"an end after {got} of {total} bytes"
            assert part == wanted[got:got + len(part)], f"wrong bytes between {got} and {got + len(part)}"
            got += len(part)
        except (BlockingIOError, ssl.SSLWantReadError):
            wait_for(c, sent < total, timeout_s)
    c.sock.settimeout(timeout_s)
    if is_plain:
        assert c.sock.recv(1) == b"", "more bytes than were sent"


def wait_for(c, wants_write, timeout_s):
    poll = select.poll()
    poll.register(c.sock, select.POLLIN | (select.POLLOUT if wants_write else 0))
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError("nothing moves")


def passthrough_short(traffic, rng):
    with traffic.client("tls", "pass.test") as c:
        echo_through(c, rng, rng.randrange(1, 2000))


def passthrough_bulk(traffic, rng):
    with traffic.client("tls", "pass.test") as c:
        echo_through(c, rng, rng.randrange(1 << 18, 1 << 21))


def tls_to_tcp(traffic, rng):
    with traffic.client("tls", "raw.test") as c:
        echo_through(c, rng, rng.randrange(1, 200000))


def tcp_short(traffic, rng):
    with traffic.client("raw") as c:
        echo_through(c, rng, rng.randrange(1, 3000))


def tcp_bulk(traffic, rng):
    with traffic.client("raw") as c:
        echo_through(c, rng, rng.randrange(1 << 20, 1 << 22))


def tcp_slow_reader(traffic, rng):
    size = 1 << 20
    with traffic.client("raw", rcvbuf=8192) as c:
        sender = threading.Thread(target=lambda: (c.sock.sendall(pattern(size)), c.half_close()), daemon=True)
        sender.start()
        got = b""
        while len(got) < size:
            if rng.random() < 0.01 and not traffic.is_over.is_set():
                pause(0.05)
            part = c.sock.recv(8192)
            assert part, f"an end after {len(got)} bytes"
            got += part
        assert got == pattern(size) and c.sock.recv(1) == b""
        sender.join(20)


def tcp_reset(traffic, rng):
    with traffic.client("raw") as c:
        size = rng.choice((0, 10, 100000))
        c.send(pattern(size))
        if size and rng.random() < 0.5:
            c.sock.recv(1)
        reset(c.sock)


def tcp_long(traffic, rng):
    """One tunnel until the end of the test."""
    with traffic.client("raw") as c:
        while not traffic.is_over.is_set():
            part = pattern(rng.randrange(1, 5000))
            c.send(part)
            assert exactly(c, len(part)) == part
            pause(0.1)
        c.half_close()
        assert c.sock.recv(1) == b""


def exactly(c, cnt):
    got = c.buffer[:cnt]
    c.buffer = c.buffer[cnt:]
    while len(got) < cnt:
        part = c.sock.recv(cnt - len(got))
        assert part, f"an end after {len(got)} of {cnt} bytes"
        got += part
    return got


def upgrade(c, host, rng):
    key = base64.b64encode(rng.randbytes(16)).decode()
    c.request("GET", "/chat", host, [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                                     ("Sec-WebSocket-Key", key)])
    response = c.response()
    assert response.status == 101, response
    assert response.header("sec-websocket-accept") == accept_key(key), response


def messages(c, rng, cnt, is_over=lambda: False):
    for _ in range(cnt):
        if is_over():
            break
        payload = pattern(rng.choice((0, 5, 125, 126, 3000, 70000)))
        opcode = 2
        if len(payload) <= 125 and rng.random() < 0.3:
            opcode = 9
        c.send(frame(opcode, payload, rng.randbytes(4)))
        wanted = frame(10 if opcode == 9 else opcode, payload)
        assert exactly(c, len(wanted)) == wanted, "another message came back"
        pause(0.005)
    c.send(frame(8, b"\x03\xe8", rng.randbytes(4)))
    wanted = frame(8, b"\x03\xe8")
    assert exactly(c, len(wanted)) == wanted, "no close frame came back"


def websocket_short(traffic, rng):
    with traffic.client("web") as c:
        upgrade(c, "web.test", rng)
        messages(c, rng, rng.randrange(0, 30))
        assert c.wait_closed() == b""


def websocket_tls_long(traffic, rng):
    with traffic.client("tls", "own.test") as c:
        upgrade(c, "own.test", rng)
        messages(c, rng, 1 << 30, traffic.is_over.is_set)


def websocket_cut(traffic, rng):
    with traffic.client("web") as c:
        upgrade(c, "web.test", rng)
        c.send(frame(2, pattern(50000), b"abcd")[:rng.randrange(1, 50000)])
        if rng.random() < 0.5:
            reset(c.sock)


def proxy_header(rng):
    source = f"192.0.2.{rng.randrange(1, 250)}"
    if rng.random() < 0.5:
        return f"PROXY TCP4 {source} 198.51.100.1 {rng.randrange(1, 65536)} 443\r\n".encode()
    addresses = socket.inet_aton(source) + socket.inet_aton("198.51.100.1") + struct.pack("!HH", rng.randrange(1, 65536), 443)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


def proxied_http(traffic, rng):
    with traffic.client("proxied") as c:
        c.send(proxy_header(rng))
        some_requests(traffic, rng, c, "web.test", rng.randrange(1, 10))


def proxied_tcp(traffic, rng):
    with traffic.client("proxied_raw") as c:
        c.send(proxy_header(rng))
        echo_through(c, rng, rng.choice((10, 3000, 300000)))


def proxied_lies(traffic, rng):
    """From a client that the port does not trust."""
    with traffic.client("distrusted") as c:
        c.send(proxy_header(rng))
        assert c.wait_closed() == b""


# Groups whose targets die and come back: an answer, or an error that says so, in time
def flapping_http(traffic, rng, method="GET"):
    with traffic.client("flap") as c:
        for _ in range(rng.randrange(1, 12)):
            if traffic.is_over.is_set():
                return
            begin = time.monotonic()
            response = c.request(method, "/b/700", "flap.test", body=b"x" * 50 if method == "POST" else None).response()
            spent_s = time.monotonic() - begin
            assert response.status in FLAP_STATUSES, response
            assert response.status != 200 or response.body == pattern(700), response
            assert spent_s < traffic.plan["flap_s"], f"{response.status} after {spent_s:.1f} s"
            traffic.count("flapping_http" if method == "GET" else "flapping_post", str(response.status))
            if response.header("connection", "").lower() == "close":
                return
            pause(0.01)


def flapping_post(traffic, rng):
    flapping_http(traffic, rng, "POST")


def flapping_websocket(traffic, rng):
    with traffic.client("flap") as c:
        try:
            upgrade(c, "flap.test", rng)
            messages(c, rng, 20)
        except (AssertionError, Closed, OSError) as e:
            if isinstance(e, TimeoutError):
                raise
            traffic.count("flapping_websocket", "cut")


def flapping_tcp(traffic, rng):
    """Its end may come at any moment; what came until then was right, and the end does come."""
    total = rng.choice((10, 5000, 300000))
    what = "whole"
    try:
        with traffic.client("flap_raw") as c:
            echo_through(c, rng, total)
    except TimeoutError:
        raise
    except (AssertionError, OSError) as e:
        if "wrong bytes" in str(e):
            raise
        what = "cut"
    traffic.count("flapping_tcp", what)


# kind: (function, threads, seconds between two). Process by process, so that none has much more to do than another.
PROCESSES = (
    {"http_keep_alive": (http_keep_alive, 4, 0.01), "http_short": (http_short, 2, 0.01), "http_own": (http_own, 1, 0.02),
     "http_slow_reader": (http_slow_reader, 1, 0.1), "http_abandoned": (http_abandoned, 2, 0.02),
     "proxied_http": (proxied_http, 2, 0.02), "proxied_tcp": (proxied_tcp, 1, 0.02), "proxied_lies": (proxied_lies, 1, 0.1)},
    {"tls_terminated": (tls_terminated, 2, 0.02), "tls_reencrypted": (tls_reencrypted, 2, 0.02),
     "tls_refused": (tls_refused, 1, 0.1), "passthrough_short": (passthrough_short, 2, 0.02),
     "passthrough_bulk": (passthrough_bulk, 1, 0.05), "tls_to_tcp": (tls_to_tcp, 1, 0.02),
     "websocket_tls_long": (websocket_tls_long, 1, 0)},
    {"tcp_short": (tcp_short, 2, 0.01), "tcp_bulk": (tcp_bulk, 1, 0.05), "tcp_slow_reader": (tcp_slow_reader, 1, 0.1),
     "tcp_reset": (tcp_reset, 1, 0.02), "tcp_long": (tcp_long, 2, 0), "websocket_short": (websocket_short, 2, 0.02),
     "websocket_cut": (websocket_cut, 1, 0.05)},
    {"flapping_http": (flapping_http, 6, 0.01), "flapping_post": (flapping_post, 2, 0.02),
     "flapping_websocket": (flapping_websocket, 1, 0.05), "flapping_tcp": (flapping_tcp, 3, 0.02)},
)
KINDS = {kind: of for process in PROCESSES for kind, of in process.items()}


def run_clients(plan, ix, line):
    """A child process: traffic until the line says something, then the counts."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    traffic = Traffic(plan)
    threads = []
    for kind, (act, cnt, gap_s) in PROCESSES[ix].items():
        for number in range(cnt):
            seed = f"{plan['seed']} {kind} {number}"
            threads.append((kind, threading.Thread(target=traffic.repeat, args=(kind, act, gap_s, seed), daemon=True)))
    for _, thread in threads:
        thread.start()
    line.recv()
    traffic.is_over.set()
    end = time.monotonic() + traffic.limit_s * 2
    for kind, thread in threads:
        thread.join(max(0.1, end - time.monotonic()))
        if thread.is_alive():
            traffic.note(kind, traffic.limit_s * 2, "hangs")
    line.send(traffic.counts)
    line.close()
    os._exit(0)
