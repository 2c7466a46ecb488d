"""Long bodies of HTTP by splice: every byte and no other, ends that are cut, what comes behind them, nothing held back."""
import hashlib
import os
import socket
import threading

from sp import main
from sp.client import Closed
from sp.conf import forward, tcp
from sp.load import reset
from sp.origin import answer
from sp.tcp import TcpServer
from sp.wait import pause, records, until

KIB = 1 << 10
MIB = 1 << 20
BLOCK = os.urandom(5 * MIB)
END = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend"


def started(t, *scripts, reads_body=True, **options):
    """A proxy of one worker that writes an access log, before one origin; returns (port, origin, proxy, log file)."""
    o = t.origin(*scripts, reads_body=reads_body)
    port, path = t.port(), t.path("access.log")
    p = t.proxy([forward("all", [port], [o.port])], workers=1, global_={"log": {"level": "info", "access": path}}, **options)
    return port, o, p, path


def splices(p):
    return p.metric("smartproxy_splices_total")


def size_of(r):
    return int(r.target[1:])


def served(c, r):
    """As many bytes as the target says, the head by itself."""
    c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size_of(r))
    c.send(BLOCK[:size_of(r)])


def test_bodies_of_sizes_around_every_limit(t):
    def script(c, r):
        if r.method == "POST":
            c.send(answer(200, hashlib.sha256(r.body).hexdigest().encode()))
        else:
            served(c, r)
    port, o, p, path = started(t, script)
    c = t.connect(port)
    sizes = [at + off for at in (16 * KIB, 64 * KIB, 80 * KIB, 144 * KIB, 256 * KIB, 336 * KIB) for off in (-1, 0, 1)] + [MIB, 5 * MIB]
    for size in sizes:
        assert c.get(f"/{size}").body == BLOCK[:size], size
        c.request("POST", "/", body=BLOCK[:size])
        assert c.response().body.decode() == hashlib.sha256(BLOCK[:size]).hexdigest(), size
    assert splices(p) >= 4
    assert len(o.connections) == 1, "not kept"
    total = sum(sizes)
    got = records(path, 2 * len(sizes))
    assert [int(r["bytes_in"]) for r in got] == [n for size in sizes for n in (0, size)]
    assert all(size < int(r["bytes_out"]) < size + 500 for size, r in zip(sizes, got[::2])), got
    assert p.metric("smartproxy_upstream_bytes_total", 'direction="in"') >= total
    c.close()
    o.stop()
    p.wait_fds()


def test_what_comes_behind_a_length_is_no_part_of_the_body(t):
    def script(c, r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIB + BLOCK[:MIB] + END)
    port, o, p, _ = started(t, script)
    c = t.connect(port)
    for _ in range(3):
        assert c.get("/").body == BLOCK[:MIB]
    assert c.buffer == b"" and splices(p) >= 1
    assert len(o.connections) == 3, "a connection with more on it was kept"


def test_a_request_behind_a_long_upload_is_the_next_one(t):
    def script(c, r):
        c.send(answer(200, hashlib.sha256(r.body).hexdigest().encode() + r.target.encode()))
    port, o, p, _ = started(t, script)
    c = t.connect(port)
    head = b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MIB
    behind = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(3):
        sender = threading.Thread(target=c.send, args=(head + BLOCK[:MIB] + behind,))
        sender.start()
        assert c.response().body.decode() == hashlib.sha256(BLOCK[:MIB]).hexdigest() + "/up"
        assert c.response().body.endswith(b"/behind")
        sender.join()
    assert splices(p) >= 1 and len(o.connections) == 1


def test_slow_receivers_get_every_byte(t):
    def script(c, r):
        if r.method == "POST":
            c.read_body(r, pace=lambda _: pause(0.002))
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5 * MIB) + BLOCK)
    port, o, p, _ = started(t, script, reads_body=False)
    c = t.connect(port, rcvbuf=64 * KIB)
    c.request()
    assert c.response(pace=lambda _: pause(0.002)).body == BLOCK
    c.request("POST", "/", body=BLOCK)
    assert c.response().body == BLOCK
    assert o.last.body == BLOCK and splices(p) >= 3


def test_sockets_that_splice_refuses_are_asked_once(t):
    t.need("strace")
    file = t.path("strace")

    def script(c, r):
        if r.method == "POST":
            c.send(answer(200, hashlib.sha256(r.body).hexdigest().encode()))
        else:
            served(c, r)
    strace = ["strace", "-f", "-qq", "-e", "trace=splice", "-e", "inject=splice:error=EINVAL", "-e", "signal=none", "-o", file]
    port, _, p, _ = started(t, script, wrapper=strace, env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
    c = t.connect(port, timeout_s=60)
    for ix in range(3):
        assert c.get(f"/{5 * MIB}").body == BLOCK
        c.request("POST", "/", body=BLOCK)
        assert c.response().body.decode() == hashlib.sha256(BLOCK).hexdigest()
    c.close()
    p.stop()
    with open(file) as f:
        cnt = sum("splice(" in line for line in f)
    assert 1 <= cnt <= 6, f"{cnt} calls for six bodies"


def test_nothing_is_held_back(t):
    """What has come reaches the client, whatever is still to come, in pieces of all sizes."""
    sizes = [300 * KIB, 1, 70 * KIB, 2, 500 * KIB, 17, 16 * KIB, 100, 90 * KIB, 64 * KIB]
    turn = threading.Semaphore(0)

    def script(c, _r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(sizes))
        at = 0
        for size in sizes:
            assert turn.acquire(timeout=15)
            c.send(BLOCK[at:at + size])
            at += size
    port, _, p, _ = started(t, script)
    c = t.connect(port)
    for _ in range(3):
        c.request()
        c.head()
        body = b""
        for size in sizes:
            turn.release()
            while len(c.buffer) < size:
                c.fill()
            assert len(c.buffer) == size
            body, c.buffer = body + c.buffer, b""
        assert body == BLOCK[:len(body)]
    assert splices(p) >= 3


def test_urgent_bytes_keep_their_place(t):
    """Whether they come at once, or to a body that goes by splice already."""
    turn = threading.Semaphore(0)
    wanted = BLOCK[:MIB] + b"!" + BLOCK[MIB:2 * MIB]

    def script(c, r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(wanted) + BLOCK[:MIB])
        assert r.target == "/" or turn.acquire(timeout=15)
        c.sock.send(b"!", socket.MSG_OOB)
        c.send(BLOCK[MIB:2 * MIB])
    port, _, p, _ = started(t, script)
    with t.connect(port) as c:
        c.request(target="/late").head()
        while len(c.buffer) < MIB:
            c.fill()
        assert splices(p) == 1
        turn.release()
        while len(c.buffer) < len(wanted):
            c.fill()
        assert c.buffer == wanted
    c = t.connect(port)
    for _ in range(3):
        assert c.get("/").body == wanted


def send_urgent(sock, before, behind):
    """Urgent data that the end follows at once, and that splice would take for it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(before)
    sock.send(b"!", socket.MSG_OOB)
    sock.sendall(behind)
    sock.shutdown(socket.SHUT_WR)


def read_end(sock):
    """All that comes, to an end in good order."""
    parts = [sock.recv(MIB)]
    while parts[-1]:
        parts.append(sock.recv(MIB))
    return b"".join(parts)


def test_an_end_behind_urgent_bytes_cuts_nothing_off_a_body(t):
    def script(c, r):
        if r.method == "POST":
            c.send(answer(200, hashlib.sha256(r.body).hexdigest().encode()))
            return
        size = size_of(r)
        length = b"Content-Length: %d\r\n" % (size + 1001) if r.header("X-Sized") else b""
        send_urgent(c.sock, b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + length + b"\r\n" + BLOCK[:size], BLOCK[:1000])
        c.close()
    port, _, p, path = started(t, script)
    for ix in range(60):
        size = (200 * KIB, 400 * KIB, 800 * KIB)[ix % 3]
        wanted = BLOCK[:size] + b"!" + BLOCK[:1000]
        for headers in ([], [("X-Sized", "yes")]):
            with t.connect(port) as c:
                c.request("GET", f"/{size}", headers=headers, version="1.0")
                assert c.wait_closed().endswith(b"\r\n\r\n" + wanted), (ix, headers)
        with t.connect(port) as c:
            head = b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(wanted)
            send_urgent(c.sock, head + BLOCK[:size], BLOCK[:1000])
            assert c.response().body.decode() == hashlib.sha256(wanted).hexdigest(), ix
    assert {r["end"] for r in records(path, 180)} == {"done"} and splices(p) > 0


def test_an_end_behind_urgent_bytes_cuts_nothing_off_a_tunnel(t):
    got = []

    def handler(peer):
        asked = peer.recv_all()
        got.append(asked)
        send_urgent(peer.sock, asked, BLOCK[:1000])
    server = TcpServer(t, handler)
    port = t.port()
    p = t.proxy([tcp("all", [port], [server.port])], workers=1)
    for ix in range(60):
        size = (200 * KIB, 400 * KIB, 800 * KIB)[ix % 3]
        with t.connect(port) as c:
            send_urgent(c.sock, BLOCK[:size], BLOCK[:1000])
            wanted = BLOCK[:size] + b"!" + BLOCK[:1000]
            assert read_end(c.sock) == wanted + b"!" + BLOCK[:1000], ix
        assert got.pop() == wanted, ix
    assert splices(p) > 0


def test_a_body_to_the_end_of_the_connection(t):
    def script(c, _r):
        c.send(b"HTTP/1.1 200 OK\r\n\r\n" + BLOCK)
        c.close()
    port, _, p, path = started(t, script)
    before = splices(p)
    with t.connect(port) as c:
        c.request(version="1.0").head()
        try:
            while True:
                c.fill()
        except Closed:
            assert c.buffer == BLOCK
    assert splices(p) == before + 1
    with t.connect(port) as c:
        assert c.get("/").body == BLOCK, "chunked for HTTP/1.1"
    assert [r["end"] for r in records(path, 2)] == ["done", "done"]


def test_a_cut_answer_is_seen_as_cut(t):
    def script(c, r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5 * MIB) + BLOCK[:2 * MIB])
        if r.target == "/reset":
            c.reset()
        else:
            c.close()
    port, o, p, path = started(t, script)
    for target in ("/close", "/reset", "/close"):
        with t.connect(port) as c:
            c.request("GET", target)
            try:
                c.response()
                raise AssertionError("not cut")
            except Closed:
                pass
    for r in records(path, 3):
        assert r["end"] == "upstream_gone" and int(r["bytes_out"]) <= 2 * MIB + 300, r
    o.stop()
    p.wait_fds()


def test_a_client_that_goes_leaves_nothing_behind(t):
    go_on = threading.Event()

    def script(c, r):
        if r.method == "POST":
            go_on.wait(15)
            c.read_body(r)
        served(c, r)
    port, o, p, path = started(t, script, reads_body=False)
    for ix in range(6):
        c = t.connect(port, rcvbuf=8 * KIB)
        c.request("GET", f"/{5 * MIB}")
        while len(c.buffer) < 100 * KIB:
            c.fill()
        (reset if ix % 2 else lambda x: x.close())(c)
    c = t.connect(port)
    c.send(b"POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (5 * MIB) + BLOCK[:200 * KIB])
    o.wait_requests(7)
    c.close()
    assert {r["end"] for r in records(path, 7)} == {"client_gone"}
    go_on.set()
    with t.connect(port) as c:
        assert c.get(f"/{MIB}").body == BLOCK[:MIB]
    o.stop()
    p.wait_fds()


def test_the_last_client_that_goes_leaves_no_pipe_open(t):
    port, o, p, path = started(t)
    for ix, leave in enumerate((lambda c: c.close(), lambda c: c.half_close(), reset)):
        with t.connect(port) as c:
            c.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (5 * MIB) + BLOCK[:2 * MIB])
            request = o.wait_requests(ix + 1)
            until(lambda: request.body_bytes == 2 * MIB, 15, "the target has what came")
            leave(c)
            assert [r["end"] for r in records(path, ix + 1)] == ["client_gone"] * (ix + 1)
        p.wait_fds()
    assert splices(p) >= 1


def test_an_early_answer_to_a_long_upload(t):
    def script(c, r):
        while len(c.buffer) < 300 * KIB:
            c.fill()
        c.send(answer(403, b"no", [("Connection", "close")]))
        c.fill()
        c.close()
    port, o, p, path = started(t, script, reads_body=False)
    for _ in range(3):
        c = t.connect(port)
        c.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + BLOCK[:MIB])
        r = c.response()
        assert (r.status, r.body) == (403, b"no")
        c.close()
    assert [r["status"] for r in records(path, 3)] == ["403"] * 3
    o.stop()
    p.wait_fds()


def test_a_target_that_stops_taking_an_upload(t):
    def script(c, r):
        while len(c.buffer) < 300 * KIB:
            c.fill()
        c.reset()
    port, o, p, path = started(t, script, reads_body=False)
    for _ in range(3):
        with t.connect(port) as c:
            c.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * MIB) + BLOCK[:MIB])
            assert c.response().status == 502
    assert len(o.requests) == 3, "a body that had begun was sent again"
    o.stop()
    p.wait_fds()


if __name__ == "__main__":
    main()
