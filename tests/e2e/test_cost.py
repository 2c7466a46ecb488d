"""What a keep-alive request costs in its steady state: README's promise, counted."""
import collections
import itertools
import os
import re
import struct
import subprocess

from sp import main
from sp.client import tls_context
from sp.conf import forward, respond, static_tls
from sp.origin import chunked, echo, fixed
from sp.pebble import make_leaf
from sp.process import binary, is_sanitized
from sp.runner import Skip, comment

HERE = os.path.dirname(os.path.abspath(__file__))
REQUESTS = 200
HOSTS = 10000


def started(t, *scripts, **options):
    """A proxy of one worker: a client's connection that has been used, with one to the origin that has too."""
    o = t.origin(*(scripts or (fixed(b"hello"),)))
    port = t.port()
    p = t.proxy([respond("own", [port], "own", path="/own"), forward("all", [port], [o.port])], workers=1, **options)
    c = t.connect(port)
    for _ in range(20):
        c.get("/warm")
        c.get("/own")
    return p, o, c


class Counter:
    """The shim, built here, and what it has counted so far."""

    def __init__(self, t):
        if is_sanitized(binary()):
            raise Skip("a sanitizer has an allocator of its own")
        shim, self.file = t.path("count_malloc.so"), t.path("counts")
        compiler = os.environ.get("CC", "cc").split()
        t.need(compiler[0])
        subprocess.run(compiler + ["-shared", "-fPIC", "-O1", "-o", shim, os.path.join(HERE, "count_malloc.c")], check=True)
        with open(self.file, "wb") as f:
            f.write(bytes(32))
        self.env = {"LD_PRELOAD": shim, "COUNT_FILE": self.file}

    def read(self):
        """(allocated, freed) by us and the C library in our name, the same by OpenSSL."""
        with open(self.file, "rb") as f:
            numbers = struct.unpack("=4Q", f.read(32))
        return numbers[:2], numbers[2:]

    def check_steady(self, ask):
        """After a warm-up nothing is allocated or freed; OpenSSL's own numbers a call of ask come back."""
        for _ in range(20):  # the pools get what is needed at once
            ask()
        ours, openssl = self.read()
        assert ours[0] > 0, "the shim counts nothing"
        for _ in range(REQUESTS):
            ask()
        ours_then, openssl_then = self.read()
        assert ours_then == ours, f"allocated and freed in {REQUESTS} rounds: {ours} -> {ours_then}"
        return [(then - now) / REQUESTS for now, then in zip(openssl, openssl_then)]


def of_every_kind(c, r):
    """Chunks where the target says so, else an echo."""
    (chunked(b"x" * 3000, b"y" * 20000, b"z") if r.target == "/chunks" else echo)(c, r)


def ask_every_kind(c):
    """Heads of few and many fields, bodies both ways, sized and chunked, below and above the size of a buffer."""
    assert c.get("/plain").status == 200
    many = [(f"X-Field-{ix}", "value" * ix) for ix in range(14)] + [("Cookie", "a=b; " * 60)]
    assert c.get("/many", headers=many).status == 200
    for body in (b"x" * 1000, b"x" * 40000, [b"x" * 3000, b"y"], [b"x" * 30000, b"y" * 30000]):
        wanted = body if isinstance(body, bytes) else b"".join(body)
        assert c.request("POST", "/echo", body=body).response().body == wanted
    assert c.get("/chunks").body_bytes == 23001


def test_a_request_allocates_nothing(t):
    counter = Counter(t)
    _, o, c = started(t, of_every_kind, env=counter.env)

    def ask():
        ask_every_kind(c)
        assert c.get("/own").body == b"own"
    assert counter.check_steady(ask) == [0, 0]
    assert len(o.connections) == 1


def test_a_request_among_10000_hosts_allocates_nothing(t):
    counter = Counter(t)
    o, port = t.origin(echo), t.port()
    t.proxy([forward(f"r{ix}", [port], [o.port], domains=[f"host{ix}.test"]) for ix in range(HOSTS)], workers=1, env=counter.env)
    c = t.connect(port)
    hosts = itertools.count()

    def ask():
        assert c.get("/", host=f"host{next(hosts) * 7919 % HOSTS}.test").status == 200
    counter.check_steady(ask)
    assert len(o.connections) == 1


def test_a_request_over_tls_allocates_nothing_of_ours(t):
    """OpenSSL takes a buffer for a record and gives it back (SSL_MODE_RELEASE_BUFFERS), which is what an idle connection saves."""
    counter = Counter(t)
    o, port = t.origin(of_every_kind), t.port()
    cert = make_leaf(t.dir, "leaf", ["a.test"])
    t.proxy([forward("all", [port], [o.port], tls=static_tls(*cert))], workers=1, env=counter.env)
    c = t.connect(port, tls=tls_context(verify=False), server_name="a.test")
    for what, ask in ("a small GET", lambda: c.get("/plain")), ("heads and bodies of all sizes", lambda: ask_every_kind(c)):
        allocated, freed = counter.check_steady(ask)
        comment(f"{what}: OpenSSL allocates {allocated:.1f} times, and frees {freed:.1f}")
        assert abs(allocated - freed) < 1


def calls_during(t, p, work):
    """{system call: how often} of the worker while work runs."""
    t.need("strace")

    def name(task):
        with open(f"/proc/{p.pid}/task/{task}/comm") as f:
            return f.read().strip()
    worker, = [x for x in os.listdir(f"/proc/{p.pid}/task") if name(x).startswith("worker-")]
    file = t.path("strace")
    tracer = subprocess.Popen(["strace", "-p", worker, "-o", file], stderr=subprocess.PIPE, text=True)
    t.cleanup(tracer.kill)
    assert "attached" in tracer.stderr.readline()
    work()
    tracer.terminate()
    tracer.wait(10)
    tracer.stderr.close()
    with open(file) as f:
        return collections.Counter(re.findall(r"^(\w+)\(", f.read(), re.M))


def check_calls(t, body):
    p, o, c = started(t, fixed(body))

    def ask():
        for ix in range(REQUESTS):
            assert c.get(f"/{ix}").body == body
    count = calls_during(t, p, ask)
    # A tick of the wall clock or a ping of the control thread may come in between.
    assert count.pop("epoll_wait") <= 2 * REQUESTS + 20, count
    assert count["recvfrom"] == count["sendto"] == 2 * REQUESTS, count
    assert "epoll_ctl" not in count and sum(count.values()) <= 4 * REQUESTS + 20, count
    assert len(o.connections) == 1


def test_a_request_costs_two_receives_and_two_sends(t):
    check_calls(t, b"hello")


def test_so_does_one_with_a_longer_answer(t):
    check_calls(t, os.urandom(32 << 10))


def test_a_connection_for_one_request_costs_seven_calls(t):
    """Accepted, watched, closed with one call each; nothing is asked for in vain, nor waited for that is there."""
    p, o, c = started(t)
    port = c.sock.getpeername()[1]

    def ask():
        for ix in range(REQUESTS):
            with t.connect(port) as once:
                assert once.get(f"/{ix}", headers=[("Connection", "close")]).body == b"hello"
                assert once.wait_closed() == b""
    count = calls_during(t, p, ask)
    assert count.pop("epoll_wait") <= 2 * REQUESTS + 20, count
    assert count["recvfrom"] == count["sendto"] == 2 * REQUESTS, count
    assert count["close"] == count["epoll_ctl"] == REQUESTS, count
    assert count["accept4"] <= REQUESTS + 20 and sum(count.values()) <= 7 * REQUESTS + 40, count
    assert len(o.connections) == 1


def test_trailers_behind_a_head_that_fills_the_buffer_are_not_read_in_crumbs(t):
    """What room a long head leaves for the body says nothing of how much is read at once."""
    p, o, c = started(t)

    def ask(pad):
        c.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Pad: " + b"x" * pad +
               b"\r\n\r\n0\r\nX-Trailer: " + b"y" * 12000 + b"\r\n\r\n")
        assert c.response().body == b"hello"
        return len(o.requests[-1].raw_head)
    room = 16384 - 6 - 7 - ask(0)  # beside a chunk's framing
    count = calls_during(t, p, lambda: ask(room - 1))
    assert len(o.requests[-1].raw_head) == 16384 - 6 - 7 - 1
    assert count["recvfrom"] < 20, count


if __name__ == "__main__":
    main()
