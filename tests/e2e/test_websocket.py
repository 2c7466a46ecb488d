"""WebSocket (RFC 6455) between npm's ws at both ends, over every kind of route; the rules of its handshake, raw."""
import base64
import hashlib
import json
import os
import threading

from sp import main, node
from sp.client import Client, tls_context
from sp.conf import forward, passthrough, reencrypt, respond, static_tls
from sp.origin import answer, fixed
from sp.pebble import make_ca, make_leaf
from sp.tunnel import NAME, SHORT
from sp.wait import records, until

ROUTES = ("h1", "terminate", "reencrypt", "passthrough")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13"))


# ---- with ws at both ends

class Sockets:
    """ws servers, plain and with TLS, behind a port for each kind of route."""

    def __init__(self, t, **options):
        node.environment()
        ca = make_ca(t.dir)
        cert = make_leaf(t.dir, "a", [NAME], ca)
        plain, secret = t.port(), t.port()
        self.servers = {"h1": node.start(t, "ws_server.js", plain)}
        self.servers["terminate"] = self.servers["h1"]
        self.servers["passthrough"] = self.servers["reencrypt"] = node.start(t, "ws_server.js", secret, *cert)
        self.ports = {kind: t.port() for kind in ROUTES}
        self.ca_file = ca[0]
        for server in (self.servers["h1"], self.servers["passthrough"]):
            server.wait_log("listening", 30)
        self.log = t.path("access.log")
        again = reencrypt(*cert, ca_file=ca[0], server_name=NAME)
        self.proxy = t.proxy([forward("h1", [self.ports["h1"]], [plain]),
                              forward("terminate", [self.ports["terminate"]], [plain], domains=[NAME], tls=static_tls(*cert)),
                              forward("reencrypt", [self.ports["reencrypt"]], [secret], domains=[NAME], tls=again),
                              passthrough("passthrough", [self.ports["passthrough"]], [secret], [NAME])],
                             global_={"log": {"level": "info", "access": self.log}}, **options)

    def run(self, kind, scenario, *args):
        return node.run("ws_client.js", self.ports[kind], "-" if kind == "h1" else self.ca_file, scenario, *args)

    def run_all(self, scenario, *args, kinds=ROUTES):
        """Side by side: node needs a while to start."""
        errors = []

        def one(kind):
            try:
                self.run(kind, scenario, *args)
            except Exception as e:
                errors.append(f"{kind}: {e}")
        threads = [threading.Thread(target=one, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, "\n".join(errors)
        self.check_ends(kinds)

    def check_ends(self, kinds):
        p = self.proxy
        until(lambda: p.metric("smartproxy_connections_open") == 0 and p.metric("smartproxy_tunnels_open") == 0, 20, "all have ended")
        upgraded = sum(1 for kind in kinds if kind != "passthrough")
        assert p.metric("smartproxy_websockets_total") >= upgraded
        for group in p.upstreams():
            assert group["in_flight"] == 0, group


def test_10000_messages_come_back(t):
    s = Sockets(t)
    s.run_all("messages", 10000)
    s.proxy.wait_fds()


test_10000_messages_come_back.timeout_s = 140


def test_compressed_messages_come_back(t):
    Sockets(t).run_all("messages", 500, "deflate")


def test_fragments_and_control_frames_between_them(t):
    Sockets(t).run_all("fragments")


def test_ping_and_pong_both_ways(t):
    Sockets(t).run_all("ping")


def test_a_message_of_64_mib(t):
    s = Sockets(t)
    before = s.proxy.rss_kib()
    for kind in ROUTES:
        s.run(kind, "big", 64)
    s.proxy.check_growth(before, 16)
    s.check_ends(ROUTES)
    assert s.proxy.metric("smartproxy_tunnel_bytes_total", 'direction="in"') > 4 * 64 << 20


def test_close_codes_both_ways(t):
    s = Sockets(t)
    s.run_all("close")
    for server in (s.servers["h1"], s.servers["passthrough"]):
        for code, cnt in ((4001, 2), (4002, 2)):
            until(lambda c=code, n=cnt, v=server: v.count(f'"close","code":{c}') == n, 20, f"the server saw {code}")


def test_subprotocols_are_chosen_by_the_server(t):
    s = Sockets(t)
    s.run_all("protocols", kinds=("h1", "terminate", "reencrypt"))
    opened = [json.loads(line) for line in s.servers["h1"].lines if '"open"' in line]
    headers = opened[0]["headers"]
    assert headers["upgrade"] == "websocket" and headers["connection"] == "Upgrade" and headers["host"] == NAME, headers
    assert headers["x-forwarded-for"] == "127.0.0.1" and {o["protocol"] for o in opened} == {"chat.v2"}, opened


def test_b06_idle_for_longer_than_every_http_timeout(t):
    s = Sockets(t, timeouts=SHORT)
    s.run_all("idle", 4000)
    assert s.proxy.end_cnt("tunnel_idle") == 0


def test_tunnel_idle_ends_a_silent_websocket_and_the_log_says_so(t):
    s = Sockets(t, timeouts={"tunnel_idle": "1s"})
    try:
        s.run_all("idle", 60000)
    except AssertionError as e:
        assert str(e).count("closed while it was silent") == len(ROUTES), e
    s.check_ends(ROUTES)
    until(lambda: s.proxy.end_cnt("tunnel_idle") == 4, 10, "four ends for idleness")
    found = records(s.log, 4)
    assert {(r["route"], r["kind"], r["end"]) for r in found} == \
        {(kind, "tunnel" if kind == "passthrough" else "websocket", "tunnel_idle") for kind in ROUTES}, found


# ---- the handshake, raw

def accept_of(key):
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def switch(key=KEY, behind=b""):
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_of(key))]
    return answer(101, headers=fields, reason="Switching Protocols", framing=False) + behind


def echo_behind(greeting=b"", status=None):
    """An origin's script: 101, then an echo of bytes until the end."""
    def script(c, r):
        c.send(status or switch(behind=greeting))
        data, c.buffer = c.buffer, b""
        while True:
            if data:
                c.send(data)
            data = c.sock.recv(65536)
            if not data:
                c.close()
                return
    return script


def one(t, script, **options):
    o = t.origin(script)
    port = t.port()
    p = t.proxy([forward("a", [port], [o.port])], **options)
    return port, o, p


def ask(port, fields=FIELDS, method="GET", version="1.1", behind=b"", body=None):
    c = Client(port, timeout_s=30)
    c.request(method, "/chat", headers=fields, version=version, body=body)
    if behind:
        c.send(behind)
    return c, c.response(method)


def but(name, *values):
    """The right fields, but one of them other, left out or there twice."""
    return tuple(f for f in FIELDS if f[0] != name) + tuple((name, v) for v in values)


def test_the_101_goes_through_as_it_is(t):
    port, o, p = one(t, echo_behind())
    c, r = ask(port, FIELDS + (("Sec-WebSocket-Protocol", "chat"), ("Sec-WebSocket-Extensions", "x")))
    with c:
        assert r.status == 101 and r.header("sec-websocket-accept") == accept_of(KEY), r
        assert r.header("upgrade") == "websocket" and r.header("connection") == "Upgrade", r
        assert not r.all("content-length") and not r.all("transfer-encoding"), r
        seen = {n.lower(): v for n, v in o.last.headers}
        assert seen["sec-websocket-key"] == KEY and seen["sec-websocket-version"] == "13" and seen["upgrade"] == "websocket", seen
        assert seen["connection"] == "Upgrade" and seen["sec-websocket-protocol"] == "chat" and seen["x-forwarded-for"], seen
        c.send(b"any bytes at all")
        while len(c.buffer) < 16:
            c.fill()
        assert c.buffer == b"any bytes at all"
        (view,) = p.connections()
        assert view["kind"] == "websocket" and view["route"] == "a", view
        assert p.status()["retired_generations"] == 0
        c.half_close()
        c.buffer = b""
        assert c.wait_closed() == b""
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "ended")
    assert p.metric("smartproxy_websockets_total") == 1 and p.metric("smartproxy_responses_total", "1xx") == 1
    p.wait_fds()


def test_handshakes_that_are_written_otherwise_but_right(t):
    port, o, _ = one(t, echo_behind())
    for fields in (but("Upgrade", "WebSocket"), but("Connection", "keep-alive, UPGRADE"), but("Connection", "keep-alive", "upgrade"),
                   but("Upgrade", "foo, websocket"), FIELDS + (("Content-Length", "0"),)):
        c, r = ask(port, fields)
        with c:
            assert r.status == 101, (fields, r)
            assert o.last.header("upgrade") == "websocket", o.last.headers
            c.send(b"x")
            c.fill()
            assert c.buffer == b"x"


def test_wrong_handshakes_are_refused_and_reach_no_target(t):
    port, o, p = one(t, echo_behind())
    for fields in (but("Sec-WebSocket-Key"), but("Sec-WebSocket-Key", ""), but("Sec-WebSocket-Key", "short"),
                   but("Sec-WebSocket-Key", KEY[:-2]), but("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ!=="), but("Sec-WebSocket-Key", KEY, KEY),
                   but("Sec-WebSocket-Version"), but("Sec-WebSocket-Version", "x"), but("Sec-WebSocket-Version", "13", "8"),
                   but("Connection", "Upgrade, Sec-WebSocket-Key")):
        c, r = ask(port, fields)
        with c:
            assert r.status == 400, (fields, r)
    for method, body in (("POST", b""), ("POST", b"x"), ("PUT", b""), ("HEAD", None), ("GET", b"body")):
        c, r = ask(port, method=method, body=body)
        with c:
            assert r.status == 400, (method, r)
    for version in ("8", "0", "14", "255"):
        c, r = ask(port, but("Sec-WebSocket-Version", version))
        with c:
            assert r.status == 426 and r.header("sec-websocket-version") == "13", (version, r)
            assert r.header("upgrade") == "websocket" and "Upgrade" in r.header("connection"), r
    assert not o.requests
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "ended")


def test_other_upgrades_and_older_http_are_ordinary_requests(t):
    port, o, _ = one(t, fixed(b"ordinary"))
    h2c = (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__"))
    for fields, version in ((h2c, "1.1"), (FIELDS, "1.0"), (but("Connection"), "1.1"), (but("Upgrade"), "1.1"),
                            (but("Upgrade", "websocket/13"), "1.1"), ((("Connection", "Upgrade"), ("Upgrade", "TLS/1.0")), "1.1")):
        c, r = ask(port, fields, version=version)
        with c:
            assert (r.status, r.body) == (200, b"ordinary"), (fields, r)
            assert not o.last.all("upgrade") and not o.last.all("http2-settings"), o.last.headers
            assert "pgrade" not in (o.last.header("connection") or ""), o.last.headers
            if version == "1.1":
                assert c.get("/again").status == 200


def test_answers_101_that_are_none(t):
    accept = ("Sec-WebSocket-Accept", accept_of(KEY))
    up, conn = ("Upgrade", "websocket"), ("Connection", "Upgrade")
    bad = [[accept], [up, accept], [conn, accept], [("Upgrade", "h2c"), conn], [("Upgrade", "websocket, h2c"), conn, accept]]
    current = []

    def script(c, r):
        c.send(answer(101, headers=current[0], reason="Switching Protocols", framing=False))
        c.fill()
    port, o, p = one(t, script)
    for fields in bad:
        current[:] = [fields]
        c, r = ask(port)
        with c:
            assert r.status == 502, (fields, r)
    # Right, but unasked.
    current[:] = [[up, conn, accept]]
    for fields in ((), (("Connection", "Upgrade"), ("Upgrade", "h2c"))):
        c, r = ask(port, fields)
        with c:
            assert r.status == 502, (fields, r)
    until(lambda: p.metric("smartproxy_websockets_total") == 0, 10, "counted: smartproxy_websockets_total")
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "ended")
    until(lambda: all(u["in_flight"] == 0 for u in p.upstreams()), 10, "places given back")


def test_an_upgrade_that_the_origin_declines(t):
    """An ordinary answer, and the connection goes on."""
    port, o, p = one(t, lambda c, r: c.send(answer(403 if "no" in r.target else 200, b"declined")))
    with Client(port) as c:
        for target, status in (("/", 200), ("/no", 403), ("/", 200)):
            c.request("GET", target, headers=FIELDS)
            r = c.response()
            assert (r.status, r.body) == (status, b"declined"), r
        assert c.get("/plain").status == 200
    until(lambda: p.metric("smartproxy_websockets_total") == 0, 10, "counted: smartproxy_websockets_total")
    assert len(o.connections) == 1, "the target's connection was not kept"


def test_an_upgrade_behind_other_requests_and_a_pipelined_one_behind_it(t):
    def script(c, r):
        if r.header("upgrade"):
            echo_behind()(c, r)
        else:
            c.send(answer(200, b"plain"))
    port, _, _ = one(t, script)
    with Client(port) as c:
        assert c.get("/").body == b"plain"
        c.request("GET", "/chat", headers=FIELDS)
        c.send(b"GET /not-http HTTP/1.1\r\n\r\n")  # bytes of the WebSocket, whatever they look like
        assert c.response().status == 101
        while len(c.buffer) < 26:
            c.fill()
        assert c.buffer == b"GET /not-http HTTP/1.1\r\n\r\n"


def test_bytes_right_behind_the_handshake_are_not_lost(t):
    ca = make_ca(t.dir)
    cert = make_leaf(t.dir, "a", [NAME], ca)
    greeting, early = os.urandom(40000), os.urandom(40000)
    o = t.origin(echo_behind(greeting))
    port, tls_port = t.port(), t.port()
    t.proxy([forward("a", [port], [o.port]), forward("tls", [tls_port], [o.port], domains=[NAME], tls=static_tls(*cert))])
    head = "\r\n".join(["GET / HTTP/1.1", f"Host: {NAME}"] + [f"{n}: {v}" for n, v in FIELDS]).encode() + b"\r\n\r\n"
    for tls in (None, tls_context(ca_file=ca[0])):
        for _ in range(5):
            with Client(tls_port if tls else port, tls=tls, server_name=NAME if tls else None, timeout_s=30) as c:
                c.send(head + early)
                assert c.response().status == 101
                while len(c.buffer) < 80000:
                    c.fill()
                assert c.buffer == greeting + early


def test_a_server_that_ends_right_behind_its_101(t):
    port, _, p = one(t, lambda c, r: (c.send(switch(behind=b"bye")), c.close()))
    c, r = ask(port)
    with c:
        assert r.status == 101
        assert c.wait_closed() == b"bye"
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "ended")


def test_the_access_log_has_bytes_and_end(t):
    path = t.path("access.log")
    port, _, p = one(t, echo_behind(b"hello"), global_={"log": {"level": "info", "access": path}})
    c, _ = ask(port, behind=b"x" * 1000)
    with c:
        while len(c.buffer) < 1005:
            c.fill()
        c.half_close()
        c.buffer = b""
        assert c.wait_closed() == b""
    (r,) = records(path, 1)
    assert (r["kind"], r["status"], r["end"], r["route"], r["method"], r["target"]) == \
        ("websocket", "101", "done", "a", "GET", '"/chat"'), r
    assert r["bytes_in"] == "1000" and int(r["bytes_out"]) >= 1005, r
    until(lambda: p.metric("smartproxy_tunnel_bytes_total", 'direction="in"') == 1000, 10, "counted: smartproxy_tunnel_bytes_total")
    until(lambda: p.metric("smartproxy_tunnel_bytes_total", 'direction="out"') == 1005, 10, "counted: smartproxy_tunnel_bytes_total")
    assert p.metric("smartproxy_requests_total") == 1 and p.metric("smartproxy_exchanges_total", 'end="done"') == 1


def test_an_upgrade_to_a_route_that_answers_itself(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "ok")])
    c, r = ask(port)
    with c:
        assert r.status in (200, 400), r
        assert r.status == 400 or c.get("/").status == 200
    until(lambda: p.metric("smartproxy_websockets_total") == 0, 10, "counted: smartproxy_websockets_total")


if __name__ == "__main__":
    node.prepare()
    main()
