"""HTTP/1.1 through the proxy: framing, order, back-pressure, reuse, retry, actions, time-outs, statuses."""
import threading

from sp import main, until
from sp.client import Client, Closed
from sp.conf import block, forward, redirect, respond
from sp.origin import answer, big, chunked, echo, fixed, hang, raw

MIB = 1 << 20


def one(t, *scripts, origin=None, workers=1, **options):
    """A proxy of one worker before one origin; returns (port, origin, proxy)."""
    o = t.origin(*scripts, **(origin or {}))
    port = t.port()
    return port, o, t.proxy([forward("all", [port], [o.port])], workers=workers, **options)


def test_keep_alive_serves_many_requests_on_one_connection(t):
    port, o, p = one(t, fixed(b"hello"))
    c = t.connect(port)
    for ix in range(20):
        r = c.get(f"/{ix}")
        assert (r.status, r.body) == (200, b"hello"), r
    assert o.targets() == [f"/{ix}" for ix in range(20)]
    assert len(o.connections) == 1, "upstream connection is not reused"
    c.close()
    o.stop()
    p.wait_fds()


def test_pipelined_requests_are_answered_in_order(t):
    def script(c, r):
        c.send(answer(200, r.target.encode()))
    port = t.port()
    o = t.origin(script)
    t.proxy([respond("local", [port], "local", path="/local/*"), forward("all", [port], [o.port])], workers=1)
    c = t.connect(port)
    wanted = []
    data = b""
    for ix in range(50):
        target = f"/local/{ix}" if ix % 3 == 0 else f"/far/{ix}"
        wanted.append(b"local" if ix % 3 == 0 else target.encode())
        data += f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    c.send(data)
    assert [c.response().body for _ in wanted] == wanted


def test_pipelined_post_bodies_are_kept_apart(t):
    port, _, _ = one(t, echo)
    c = t.connect(port)
    c.request("POST", "/a", body=b"first").request("POST", "/b", body=[b"sec", b"ond"]).request("GET", "/c")
    got = [(r.header("x-target"), r.body) for r in (c.response(), c.response(), c.response())]
    assert got == [("/a", b"first"), ("/b", b"second"), ("/c", b"")], got


def test_bodies_of_all_sizes_both_ways(t):
    port, o, _ = one(t, echo)
    c = t.connect(port)
    for size in (0, 1, 2, 4095, 16383, 16384, 16385, 65536, *range(80 * 1024 - 520, 80 * 1024 + 8, 44), 300001, 3 * MIB):
        body = bytes((size + ix) & 0xff for ix in range(251)) * (size // 251 + 1)
        body = body[:size]
        c.request("POST", f"/sized/{size}", body=body)
        assert c.response().body == body, f"sized {size}"
        parts = [body[ix:ix + 9973] for ix in range(0, size, 9973)]
        c.request("POST", f"/chunked/{size}", body=parts)
        assert c.response().body == body, f"chunked {size}"
        assert o.last.body == body


def test_chunked_answers_reach_the_client_whole(t):
    parts = [b"a", b"b" * 16384, b"c" * 100000, b"d"]
    port, _, _ = one(t, chunked(*parts))
    c = t.connect(port)
    for _ in range(3):
        assert c.get().body == b"".join(parts)


def test_bytes_one_by_one(t):
    port, o, _ = one(t, echo)
    c = t.connect(port)
    c.send_slowly(b"POST /slow HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n"
                  b"3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: example.test\r\n\r\n")
    assert c.response().body == b"abcd"
    assert c.response().header("x-target") == "/next"
    assert o.requests[0].header("x-a") == "b"


def test_answers_arriving_byte_by_byte(t):
    def drip(c, r):
        for byte in answer(200, b"dripping", [("X-Y", "z")]):
            c.send(bytes([byte]))
    port, _, _ = one(t, drip)
    c = t.connect(port)
    for _ in range(2):
        r = c.get()
        assert r.body == b"dripping" and r.header("x-y") == "z"


def test_download_of_100_mib_to_a_slow_reader_needs_no_memory(t):
    size = 100 * MIB
    port, _, p = one(t, big(size))
    before = p.rss_kib()
    c = t.connect(port, rcvbuf=65536)
    c.request("GET", "/big")
    highest = [0]

    def pace(done):
        if done // (4 * MIB) != highest[0] // (4 * MIB):
            p.check_growth(before)
        highest[0] = done
    r = c.response(keep=False, pace=pace)
    assert r.body_bytes == size and highest[0] == size


def test_download_stalled_by_the_client_stalls_the_origin(t):
    sent = [0]

    def script(c, _r):
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(64 * 16):
            c.send(b"x" * 65536)
            sent[0] += 65536
    port, _, p = one(t, script)
    before = p.rss_kib()
    c = t.connect(port, rcvbuf=16384)
    c.request("GET", "/big")
    last = [-1, 0]

    def is_stalled():
        last[1] = last[1] + 1 if sent[0] == last[0] and sent[0] else 0
        last[0] = sent[0]
        return last[1] >= 20
    until(is_stalled, 20, "the origin stalls", 0.02)
    assert sent[0] < 40 * MIB, f"{sent[0]} bytes went into a client that does not read"
    p.check_growth(before)
    assert c.response(keep=False).body_bytes == 64 * MIB


def test_upload_of_100_mib_to_a_slow_origin_needs_no_memory(t):
    size = 100 * MIB
    port, o, p = one(t, lambda c, r: (c.read_body(r, keep=False), c.send(answer(200, b"%d" % r.body_bytes))),
                     origin={"reads_body": False})
    before = p.rss_kib()
    c = t.connect(port)
    for framing in ("sized", "chunked"):
        if framing == "sized":
            c.send(f"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
        else:
            c.send("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        block_ = b"y" * MIB
        for ix in range(100):
            c.send(block_ if framing == "sized" else b"%x\r\n%s\r\n" % (MIB, block_))
            if ix % 10 == 9:
                p.check_growth(before)
        if framing == "chunked":
            c.send(b"0\r\n\r\n")
        assert c.response().body == b"%d" % size, framing


def test_expect_100_continue_is_answered_before_the_body(t):
    port, o, _ = one(t, echo)
    c = t.connect(port)
    c.send("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert c.line() == "HTTP/1.1 100 Continue" and c.fields() == []
    c.send(b"hello")
    r = c.response()
    assert r.status == 200 and r.body == b"hello" and not r.interim
    # A client that does not wait is served too.
    c.request("POST", "/f", headers=[("Expect", "100-continue")], body=b"now")
    assert c.response().body == b"now"


def test_expect_of_a_request_without_a_route_gets_no_100(t):
    port = t.port()
    t.proxy([respond("a", [port], domains=["a.test"])])
    c = t.connect(port)
    c.send("POST /e HTTP/1.1\r\nHost: b.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    r = c.response()
    assert r.status == 404 and not r.interim


def test_head_has_no_body_and_keeps_the_connection(t):
    port = t.port()
    o = t.origin(fixed(b"twelve bytes"))
    t.proxy([respond("local", [port], "local", path="/local"), forward("all", [port], [o.port])], workers=1)
    c = t.connect(port)
    for target, length in (("/far", "12"), ("/local", "5")):
        c.request("HEAD", target)
        r = c.response("HEAD")
        assert r.status == 200 and r.header("content-length") == length, r
        assert c.get(target).status == 200


def test_answers_without_a_body(t):
    port, _, _ = one(t, raw(b"HTTP/1.1 204 No Content\r\n\r\n"), raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: x\r\n\r\n"),
                     fixed(b"after"))
    c = t.connect(port)
    assert c.get().status == 204
    r = c.get()
    assert r.status == 304 and r.header("etag") == "x"
    assert c.get().body == b"after"


def test_interim_103_is_passed_to_1_1_and_not_to_1_0(t):
    port, _, _ = one(t, raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n" + answer(200, b"final")))
    r = t.connect(port).get()
    assert [(i.status, i.header("link")) for i in r.interim] == [(103, "</a.css>; rel=preload")] and r.body == b"final"
    c = t.connect(port)
    c.request(version="1.0")
    r = c.response()
    assert not r.interim and r.body == b"final"


def test_trailers_of_answers(t):
    port, _, _ = one(t, chunked(b"body", trailers=[("X-Checksum", "abc"), ("Content-Length", "9"), ("Host", "evil")]))
    c = t.connect(port)
    c.request(headers=[("TE", "trailers")])
    r = c.response()
    assert r.body == b"body"
    names = [n.lower() for n, _ in r.trailers]
    assert "content-length" not in names and "host" not in names, r.trailers
    assert ("x-checksum", "abc") in [(n.lower(), v) for n, v in r.trailers], r.trailers


def test_trailers_of_requests_never_become_headers(t):
    port, o, _ = one(t, echo)
    c = t.connect(port)
    c.send("POST /t HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Forwarded-For: 9.9.9.9\r\n"
           "Content-Length: 7\r\nX-Sum: 1\r\n\r\n")
    assert c.response().body == b"abc"
    names = [n.lower() for n, _ in o.last.trailers]
    assert "content-length" not in names and "x-forwarded-for" not in names, o.last.trailers
    assert not o.last.header("x-sum")


def test_early_answer_reaches_a_client_that_still_sends(t):
    port, _, p = one(t, lambda c, r: (c.send(answer(413, b"too much", [("Connection", "close")], "No")), c.read_body(r, keep=False)),
                     origin={"reads_body": False})
    c = t.connect(port)
    c.send(f"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {50 * MIB}\r\n\r\n")
    c.send(b"x" * 1000)
    r = c.response()
    assert r.status == 413 and r.body == b"too much", r


def test_early_answer_then_the_rest_of_the_upload(t):
    def script(c, r):
        c.send(answer(200, b"early"))
        c.read_body(r, keep=False)
    port, o, _ = one(t, script, origin={"reads_body": False})
    c = t.connect(port)
    c.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1000)
    assert c.response().body == b"early"
    try:
        c.send(b"x" * 1999000)
        r = c.get("/next")
        assert r.body == b"early"
    except (Closed, BrokenPipeError, ConnectionResetError):
        assert t.connect(port).get("/next").status == 200 # closing instead is allowed; nothing may be mixed up


def test_http_1_0_clients(t):
    port, o, _ = one(t, chunked(b"chunked ", b"answer"), chunked(b"two"), fixed(b"sized"))
    c = t.connect(port)
    c.request(version="1.0")
    r = c.response()
    assert r.status == 200 and not r.all("transfer-encoding") and r.body == b"chunked answer", r
    assert c.wait_closed() == b""
    c = t.connect(port)
    c.request(version="1.0", host=None) # Host is not required
    assert c.response().status in (200, 400)
    c = t.connect(port)
    c.request(version="1.0", headers=[("Connection", "keep-alive")])
    r = c.response()
    assert r.body == b"sized"
    if r.header("connection", "").lower() == "keep-alive":
        assert c.get(version="1.0").body == b"sized"


def test_connection_close_is_honoured(t):
    port, _, _ = one(t, fixed(b"bye"))
    c = t.connect(port)
    c.request(headers=[("Connection", "close")])
    r = c.response()
    assert r.body == b"bye" and r.header("connection", "").lower() == "close", r
    assert c.wait_closed() == b""


def test_a_last_answer_reaches_a_slow_reader_whole(t):
    """The connection is closed behind it, when the client has said that it sends no more; what it reads is a FIN."""
    port, _, _ = one(t, big(8 * MIB))
    for method, body in (("GET", None), ("POST", b"x" * 1000)):
        c = t.connect(port, rcvbuf=16384)
        r = c.request(method, headers=[("Connection", "close")], body=body).response()
        assert r.status == 200 and len(r.body) == 8 * MIB
        assert c.sock.recv(1) == b""


def test_a_last_answer_is_not_lost_to_bytes_behind_its_request(t):
    """A reset, which a close would be while they are unread, could take the answer from a client that has not read it yet."""
    port, _, _ = one(t, big(MIB))
    for more in (b"\r\n", b"x" * 100, b"x" * 300000):
        c = t.connect(port, rcvbuf=16384)
        c.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + more)
        r = c.response()
        assert r.status == 200 and len(r.body) == MIB, more[:2]
        assert c.sock.recv(1) == b""


def test_a_last_answer_is_not_lost_to_a_crlf_behind_a_body(t):
    """Some clients send one, late. The connection is read for a second yet: one try of five hits it on any machine."""
    port, _, p = one(t, big(256 * 1024))

    def is_whole(cnt):
        c = t.connect(port, rcvbuf=16384)
        c.request("POST", headers=[("Connection", "close")], body=b"x")
        until(lambda: p.metric("smartproxy_responses_total", 'class="2xx"') >= cnt, 10, "the answer was sent")
        c.send(b"\r\n")
        try:
            return len(c.response().body) == 256 * 1024
        except (ConnectionResetError, Closed):
            return False
    assert any(is_whole(cnt) for cnt in range(1, 6))


def test_answers_that_end_with_the_connection(t):
    port, o, _ = one(t, raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True), fixed(b"next"))
    c = t.connect(port)
    assert c.get().body == b"until the end"
    if c.is_eof:
        c = t.connect(port)
    assert c.get().body == b"next"


def test_client_half_close_still_gets_its_answer(t):
    gate = threading.Event()

    def script(c, r):
        gate.wait(10)
        c.send(answer(200, b"late"))
    port, o, _ = one(t, script)
    c = t.connect(port)
    c.request()
    c.half_close()
    o.wait_requests(1)
    gate.set()
    assert c.response().body == b"late"


def test_upstream_connections_are_pooled(t):
    port, o, p = one(t, fixed(b"x"))
    for _ in range(10):
        with Client(port) as c:
            assert c.get().status == 200
    assert len(o.connections) == 1, f"{len(o.connections)} connections for 10 requests in a row"
    o.stop()
    p.wait_fds()


def test_upstream_bytes_after_an_answer_poison_nothing(t):
    port, o, _ = one(t, raw(answer(200, b"good") + answer(200, b"POISON")), fixed(b"clean"))
    assert t.connect(port).get("/1").body == b"good"
    for ix in range(3):
        assert t.connect(port).get(f"/{ix + 2}").body == b"clean"
    assert o.requests[1].connection_ix != 0, "the poisoned connection was used again"


def dying_pool(t, first, **options):
    """An origin that closes the connection when a second request arrives on it."""
    def script(c, r):
        if r.target == "/warm" or r.connection_ix > 0:
            c.send(answer(200, b"ok"))
        else:
            c.close()
    port, o, p = one(t, script, **options)
    assert t.connect(port).get("/warm").body == b"ok"
    return port, o


def test_retry_of_a_get_on_a_stale_connection(t):
    port, o = dying_pool(t, "GET")
    assert t.connect(port).get("/again").body == b"ok"
    assert o.targets() == ["/warm", "/again", "/again"]


def test_no_retry_of_a_post_whose_body_was_sent(t):
    port, o = dying_pool(t, "POST")
    c = t.connect(port)
    c.request("POST", "/once", body=b"charge my card")
    assert c.response().status == 502
    assert o.targets() == ["/warm", "/once"]


def test_retry_happens_once(t):
    def script(c, r):
        if r.target == "/warm":
            c.send(answer(200, b"ok"))
        else:
            c.close()
    port, o, _ = one(t, script)
    t.connect(port).get("/warm")
    assert t.connect(port).get("/x").status == 502
    assert o.targets().count("/x") <= 2


def test_idle_connection_closed_by_the_origin_harms_no_post(t):
    port, o, p = one(t, echo)
    assert t.connect(port).get("/warm").status == 200
    o.connections[0].sock.shutdown(2)
    until(lambda: o.connections[0].is_closed, 5, "origin's side closed")
    until(lambda: p.fd_cnt() <= p.begin_fds + 1, 5, "the proxy let go of the dead connection")
    c = t.connect(port)
    c.request("POST", "/once", body=b"data")
    assert c.response().body == b"data"


def test_round_robin_and_weights(t):
    origins = [t.origin(fixed(str(ix).encode())) for ix in range(3)]
    port, weighted = t.port(), t.port()
    heavy = forward("heavy", [weighted], [origins[0].port, origins[1].port])
    heavy["action"]["targets"][1]["weight"] = 3
    even = forward("all", [port], [o.port for o in origins])
    for route in (heavy, even):
        route["action"]["balance"] = "round-robin"
    t.proxy([even, heavy], workers=1)
    c = t.connect(port)
    got = [c.get().body for _ in range(9)]
    assert sorted(got) == [b"0"] * 3 + [b"1"] * 3 + [b"2"] * 3, got
    assert len(set(got[:3])) == 3, got
    c = t.connect(weighted)
    got = [c.get().body for _ in range(16)]
    assert got.count(b"0") == 4 and got.count(b"1") == 12, got


def test_a_dead_target_is_passed_over(t):
    alive = t.origin(fixed(b"alive"))
    port = t.port()
    t.proxy([forward("all", [port], [t.port(), alive.port])], workers=1)
    c = t.connect(port)
    got = [c.get().status for _ in range(6)]
    assert got.count(200) >= 3 and set(got) <= {200, 502, 503}, got


def test_redirect_templates(t):
    port = t.port()
    t.proxy([redirect("q", [port], "https://{host}{path}{query}", 302, path="/q"),
             redirect("p", [port], "http://{host}:{port}/moved", 308, path="/p"),
             redirect("r", [port], "https://{host}{path}", 301)])
    c = t.connect(port)
    r = c.get("/a/b?x=1", host=f"www.example.test:{port}")
    assert (r.status, r.header("location")) == (301, "https://www.example.test/a/b"), r
    r = c.get("/q?a=1&b=2")
    assert (r.status, r.header("location")) == (302, "https://example.test/q?a=1&b=2"), r
    r = c.get("/p")
    assert (r.status, r.header("location")) == (308, f"http://example.test:{port}/moved"), r


def test_redirect_cannot_be_split(t):
    port = t.port()
    t.proxy([redirect("r", [port], "https://{host}{path}")])
    c = t.connect(port)
    r = c.get("/%0d%0aSet-Cookie:%20a=b")
    assert r.status == 301 and not r.all("set-cookie"), r
    assert "\r" not in r.header("location") and "\n" not in r.header("location")


def test_respond_and_block(t):
    port = t.port()
    custom = respond("r", [port], "pong\n", status=418, path="/ping")
    custom["action"]["headers"] = ({"name": "X-One", "value": "1"},)
    t.proxy([custom, block("b", [port], path="/no"),
             respond("empty", [port], "", path="/empty")])
    c = t.connect(port)
    r = c.get("/ping")
    assert (r.status, r.body, r.header("x-one")) == (418, b"pong\n", "1"), r
    assert c.get("/no").status == 403
    r = c.get("/empty")
    assert r.status == 200 and r.body == b""
    c.request("POST", "/ping", body=b"x" * 100000)
    r = c.response()
    assert r.status == 418
    if r.header("connection", "").lower() != "close":
        assert c.get("/ping").status == 418


def test_matching(t):
    port = t.port()
    t.proxy([respond("exact", [port], "exact", domains=["a.test"], path="/x"),
             respond("prefix", [port], "prefix", domains=["a.test"], path="/x/*"),
             respond("star", [port], "star", domains=["*.a.test"]),
             respond("deep", [port], "deep", domains=["**.a.test"]),
             respond("post", [port], "post", domains=["a.test"], methods=["POST"]),
             respond("rest", [port], "rest")])
    c = t.connect(port)

    def body(target, host, method="GET"):
        c.request(method, target, host)
        return c.response().body.decode()
    assert body("/x", "a.test") == "exact"
    assert body("/x/", "a.test") == "prefix" and body("/x/y/z", "a.test") == "prefix"
    assert body("/xy", "a.test") == "rest"
    assert body("/", "www.a.test") == "star" and body("/", "WWW.A.TEST:123") == "star"
    assert body("/", "b.www.a.test") == "deep"
    assert body("/", "a.test", "POST") == "post"
    assert body("/", "other.test") == "rest"


def test_forwarding_fields(t):
    port, o, _ = one(t, fixed())
    t.connect(port).get("/", host=f"www.example.test:{port}", headers=[
        ("X-Forwarded-For", "1.2.3.4"), ("Connection", "X-Secret, keep-alive"), ("X-Secret", "1"), ("Keep-Alive", "x"),
        ("Proxy-Connection", "x"), ("Proxy-Authorization", "Basic x"), ("TE", "gzip"), ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAA"), ("X-Kept", "yes"), ("Cookie", "a=b"), ("Authorization", "Basic y")])
    r = o.last
    assert r.version == "HTTP/1.1" and r.header("host") == f"www.example.test:{port}"
    assert r.header("x-kept") == "yes" and r.header("cookie") == "a=b" and r.header("authorization") == "Basic y"
    for gone in ("x-secret", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "http2-settings"):
        assert not r.all(gone), f"{gone} was forwarded"
    assert "gzip" not in (r.header("te") or "")
    assert ", ".join(r.all("x-forwarded-for")).endswith("127.0.0.1"), r.headers
    assert r.header("x-forwarded-proto") == "http"
    assert r.header("x-forwarded-host") == f"www.example.test:{port}"
    assert "127.0.0.1" in r.header("forwarded", "") and "proto=http" in r.header("forwarded", ""), r.headers


def test_heads_are_written_in_one_form(t):
    """Whatever white space a head came with and whatever is left out of it: "name: value" is what goes on, in order."""
    lines = ["A: 1", "B:2", "C:  3 ", "D: 4\t", "E:", "F:\t6", "Keep-Alive: x", "G: 7 7", "H: 8", "under_score: x", "I: 9 \t", "J: 10"]
    kept = "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: \r\nF: 6\r\nG: 7 7\r\nH: 8\r\nI: 9\r\nJ: 10\r\n"
    sent = "\r\n".join(lines)
    head = f"HTTP/1.1 299 As it is\r\n{sent}\r\nContent-Length: 02\r\nK: 11\r\nDate:  today\r\n\r\nok"
    port, o, _ = one(t, raw(head.encode()))
    for _ in range(2):  # a new connection and a kept one
        c = t.connect(port)
        c.send(f"GET /a?b HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\n{sent}\r\nHost: h.test\r\nTE: x\r\nK: 11\r\n\r\n")
        got = b""
        while not got.endswith(b"\r\n\r\nok"):
            part = c.sock.recv(65536)
            assert part, got
            got += part
        assert got.decode() == f"HTTP/1.1 299 As it is\r\n{kept}K: 11\r\nDate: today\r\nContent-Length: 2\r\n\r\nok", got
        assert o.last.raw_head.decode() == f"GET /a?b HTTP/1.1\r\nHost: h.test\r\n{kept}K: 11\r\n" \
            "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h.test\r\n" \
            "Forwarded: for=127.0.0.1;host=\"h.test\";proto=http\r\n\r\n", o.last.raw_head


def test_forwarded_of_an_ipv6_client_is_quoted(t):
    port, o, _ = one(t, fixed())
    c = t.connect(port, host="::1")
    for _ in range(2):
        c.get("/", host="h.test")
        assert o.last.header("x-forwarded-for") == "::1"
        assert o.last.header("forwarded") == 'for="[::1]";host="h.test";proto=http', o.last.headers


def test_client_cannot_nominate_forwarding_fields_away(t):
    port, o, _ = one(t, fixed())
    t.connect(port).get("/", headers=[("Connection", "Host, X-Forwarded-For, Authorization, Content-Length"),
                                      ("Authorization", "Basic y")])
    r = o.last
    assert r.header("host") and r.header("x-forwarded-for") and r.header("authorization") == "Basic y"


def test_hop_by_hop_fields_of_answers_are_dropped(t):
    port, _, _ = one(t, raw(answer(200, b"x", [("Connection", "X-Internal"), ("X-Internal", "1"), ("Keep-Alive", "timeout=5"),
                                               ("X-Public", "2")])))
    r = t.connect(port).get()
    assert r.header("x-public") == "2" and not r.all("x-internal") and not r.all("keep-alive"), r


def test_absolute_form(t):
    port, o, _ = one(t, fixed())
    c = t.connect(port)
    assert c.get("http://example.test/path?q", host="example.test").status == 200
    assert o.last.target == "/path?q"
    assert c.get("http://other.test/", host="example.test").status == 400


def check_error(r, status):
    assert r.status == status, f"wanted {status}: {r}"
    assert r.body and len(r.body) < 1000 and r.header("content-type", "").startswith("text/plain"), r


def test_status_404_and_421(t):
    port = t.port()
    t.proxy([respond("a", [port], domains=["a.test"])])
    c = t.connect(port)
    check_error(c.get("/", host="b.test"), 404)
    assert c.get("/", host="a.test").status == 200


def test_status_408_when_the_head_does_not_come(t):
    port = t.port()
    t.proxy([respond("a", [port])], timeouts={"header": "400ms"})
    c = t.connect(port)
    c.send("GET / HTTP/1.1\r\nHost: a")
    check_error(c.response(), 408)
    assert c.wait_closed() == b""


def test_slow_head_is_measured_as_a_whole(t):
    """A byte now and then does not extend the deadline."""
    port = t.port()
    t.proxy([respond("a", [port])], timeouts={"header": "500ms"})
    c = t.connect(port)
    try:
        c.send_slowly(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 20, step=3, interval_s=0.05)
    except OSError:
        pass
    try:
        assert c.response().status == 408
    except Closed:
        pass


def test_idle_connection_is_closed_silently(t):
    port = t.port()
    t.proxy([respond("a", [port])], timeouts={"idle": "300ms"})
    c = t.connect(port)
    assert c.get().status == 200
    assert c.wait_closed() == b""


def test_status_413(t):
    port, o, _ = one(t, echo, limits={"body": "1000 B"})
    c = t.connect(port)
    c.request("POST", "/fits", body=b"x" * 1000)
    assert c.response().status == 200
    c.send("POST /sized HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n")
    check_error(c.response(), 413)
    assert "/sized" not in o.targets()
    c = t.connect(port)
    try:
        c.request("POST", "/chunked", body=[b"x" * 600, b"y" * 600])
        check_error(c.response(), 413)
    except Closed:
        raise AssertionError("no answer to a chunked body beyond the limit") from None


def test_status_414_and_431(t):
    port = t.port()
    t.proxy([respond("a", [port])])
    check_error(t.connect(port).get("/" + "a" * 9000), 414)
    check_error(t.connect(port).get(headers=[("X-Big", "b" * 70000)]), 431)
    check_error(t.connect(port).get(headers=[(f"X-{ix}", "c") for ix in range(120)]), 431)
    assert t.connect(port).get("/" + "a" * 7000, headers=[(f"X-{ix}", "c" * 300) for ix in range(90)]).status == 200


def test_status_505(t):
    port = t.port()
    t.proxy([respond("a", [port])])
    c = t.connect(port)
    c.send("GET / HTTP/2.0\r\nHost: a\r\n\r\n")
    check_error(c.response(), 505)


def test_status_502_for_bad_answers(t):
    bad = [b"garbage\r\n\r\n", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
           b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
           b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
           b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n",
           b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
           b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"]
    port, o, _ = one(t, *[raw(data, close=True) for data in bad])
    for data in bad:
        cnt = len(o.requests)
        c = t.connect(port)
        c.request("POST", "/bad", body=b"")
        r = c.response()
        assert r.status == 502, f"{data[:60]!r} gave {r}"
        assert len(o.requests) == cnt + 1
    check_error(r, 502)


def test_status_502_when_nobody_listens(t):
    port = t.port()
    t.proxy([forward("a", [port], [t.port()])])
    r = t.connect(port).get()
    check_error(r, 502)


def test_status_504_when_the_answer_does_not_come(t):
    port, o, p = one(t, hang, timeouts={"response": "300ms"})
    c = t.connect(port)
    check_error(c.get(), 504)
    until(lambda: o.connections[0].is_closed, 5, "the upstream connection is closed")


def test_status_504_when_the_connection_does_not_come(t):
    # A listener whose queue is full answers no SYN.
    o = t.origin(backlog=0, listen=False)
    o.listener.listen(0)
    fillers = [t.connect(o.port)]
    import socket
    for _ in range(3):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", o.port))
        t.cleanup(s.close)
        fillers.append(s)
    port = t.port()
    t.proxy([forward("a", [port], [o.port])], timeouts={"connect": "300ms"})
    check_error(t.connect(port).get(), 504)


def test_answer_cut_in_the_middle_is_not_completed(t):
    port, _, _ = one(t, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", close=True),
                     raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", close=True))
    for _ in range(2):
        c = t.connect(port)
        try:
            r = c.get()
            raise AssertionError(f"a cut answer looks complete: {r}")
        except Closed:
            pass


def test_client_that_leaves_frees_the_upstream(t):
    port, o, p = one(t, big(1 << 40))
    begin = p.fd_cnt()
    clients = [t.connect(port) for _ in range(10)]
    for c in clients:
        c.request()
        c.line()
    for c in clients:
        c.close()
    until(lambda: p.fd_cnt() <= begin, 10, "descriptors are back")
    until(lambda: all(x.is_closed for x in o.connections), 10, "upstream connections are closed")


def test_many_connections_at_once(t):
    port, _, p = one(t, fixed(b"many"), workers=2)
    clients = [t.connect(port) for _ in range(300)]
    for c in clients:
        c.request()
    for c in clients:
        assert c.response().body == b"many"
    for c in clients:
        c.close()
    assert p.is_alive()


def test_a_cut_answer_leaves_those_before_it_whole(t):
    """They may still be on their way to a client that reads slowly, while more requests of it lie unread."""
    first = b"whole" * 30000

    def script(c, r):
        if r.target == "/first":
            c.send(answer(200, first))
        else:
            framing = b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n" if r.target == "/chunked" else b"Content-Length: 9\r\n\r\nhalf"
            c.send(b"HTTP/1.1 200 OK\r\n" + framing)
            c.close()
    port, _, p = one(t, script)
    for ix, target in enumerate(("/sized", "/chunked")):
        c = t.connect(port, rcvbuf=4096)
        heads = b"".join(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % at for at in (b"/first", target.encode()))
        c.send(heads + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 60000)
        until(lambda n=ix + 1: p.metric("smartproxy_exchanges_total", 'end="upstream_gone"') == n, 20, "the second one is cut")
        assert c.response().body == first, target
        try:
            raise AssertionError(f"not cut: {c.response()}")
        except Closed:
            pass


def test_sigterm_lets_a_request_finish(t):
    gate = threading.Event()

    def script(c, r):
        gate.wait(20)
        c.send(answer(200, b"finished"))
    port, o, p = one(t, script)
    c = t.connect(port)
    c.request()
    o.wait_requests(1)
    mark = p.log_mark()
    import os
    import signal
    os.kill(p.pid, signal.SIGTERM)

    def is_refused():
        try:
            Client(port, timeout_s=1).close()
            return False
        except OSError:
            return True
    until(is_refused, 10, "new connections are refused")
    gate.set()
    r = c.response()
    assert r.body == b"finished" and r.header("connection", "").lower() == "close"
    assert p.wait_exit() == 0, mark


def test_unspecified_targets(t):
    """CONNECT, TRACE and OPTIONS * by the edge's rules."""
    port, o, _ = one(t, fixed())
    for line, statuses in (("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443", (400, 403, 404, 405, 501)),
                           ("TRACE / HTTP/1.1\r\nHost: a", (400, 403, 405, 501)),
                           ("OPTIONS * HTTP/1.1\r\nHost: a", (200, 204, 400, 404, 405))):
        cnt = len(o.requests)
        c = t.connect(port)
        c.send(line + "\r\n\r\n")
        r = c.response()
        assert r.status in statuses, f"{line}: {r}"
        if not line.startswith("OPTIONS"):
            assert len(o.requests) == cnt, f"{line} was forwarded"


if __name__ == "__main__":
    main()
