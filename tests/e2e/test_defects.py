"""Defects that another edge proxy has had, by their numbers in the list of them: none of them is here."""
import random
import socket
import ssl
import string
import struct
import threading

from sp import main, node
from sp.client import Client, tls_context
from sp.conf import forward, passthrough, reencrypt, respond, static_tls, tcp
from sp.origin import answer, echo as echo_request, fixed, hang
from sp.pebble import make_ca, make_leaf
from sp.runner import slow
from sp.tcp import TcpServer, echo
from sp.tunnel import KINDS, NAME, SHORT, Ends, RawEnd, black_hole, hello_bytes
from sp.wait import until

UNRECOGNIZED_NAME = 112


def at_rest(p, timeout_s=20):
    """No connection, tunnel, buffer or place at a target is held, every accepted connection has one end, and descriptors are back."""
    def rests():
        return p.metric("smartproxy_connections_open") == 0 and p.metric("smartproxy_tunnels_open") == 0
    until(rests, timeout_s, "all connections ended")
    until(lambda: all(u["in_flight"] == 0 and u["queued"] == 0 for u in p.upstreams()), 10, "places given back")
    until(lambda: p.metric("smartproxy_buffers_used") == 0, 10, "counted: smartproxy_buffers_used")
    ends = p.metric("smartproxy_connection_ends_total")
    assert ends == p.metric("smartproxy_connections_accepted_total"), (ends, p.metrics())


def connect_from(t, ip, port):
    """A socket of this client address; loopback has plenty."""
    s = socket.create_connection(("::1" if ":" in ip else "127.0.0.1", port), 30, source_address=(ip, 0))
    t.cleanup(s.close)
    return s


def served(s, data=b"hi"):
    """Is an echo behind this socket?"""
    try:
        s.sendall(data)
        got = b""
        while len(got) < len(data):
            part = s.recv(64)
            if not part:
                return False
            got += part
        return got == data
    except (ConnectionError, ssl.SSLError):
        return False


def alert_of(s, data):
    """The description of the TLS alert that answers these bytes; None: something else came."""
    s.sendall(data)
    got = b""
    while len(got) < 7:
        part = s.recv(4096)
        if not part:
            break
        got += part
    return got[6] if len(got) == 7 and got[0] == 21 else None


# ---- B06, B07

@slow
def test_b06_a_websocket_lives_for_minutes_in_silence(t):
    """WebSockets over passthrough were cut every 30 s: HTTP's heartbeat was applied to an encrypted stream."""
    node.environment()
    ca = make_ca(t.dir)
    cert = make_leaf(t.dir, "a", [NAME], ca)
    plain, secret = t.port(), t.port()
    for args in ((plain,), (secret, *cert)):
        node.start(t, "ws_server.js", *args).wait_log("listening", 30)
    ports = [t.port() for _ in range(4)]
    again = reencrypt(*cert, ca_file=ca[0], server_name=NAME)
    p = t.proxy([forward("h1", [ports[0]], [plain]), forward("tls", [ports[1]], [plain], domains=[NAME], tls=static_tls(*cert)),
                 forward("again", [ports[2]], [secret], domains=[NAME], tls=again), passthrough("pass", [ports[3]], [secret], [NAME])],
                timeouts=SHORT)
    errors = []

    def client(ix):
        try:
            node.run("ws_client.js", ports[ix], "-" if ix == 0 else ca[0], "idle", 150000, timeout_s=200)
        except Exception as e:
            errors.append(e)
    threads = [threading.Thread(target=client, args=(ix,)) for ix in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert p.end_cnt("tunnel_idle") == 0 and p.metric("smartproxy_tunnels_total") == 4
    at_rest(p)


test_b06_a_websocket_lives_for_minutes_in_silence.timeout_s = 240


def test_b06_no_time_of_http_touches_a_tunnel(t):
    """The same, compact: silence beyond every timeout of HTTP, then both ways as before."""
    ends = Ends(t, echo, timeouts=SHORT)
    clients = [ends.open(kind) for kind in KINDS]
    for _ in range(2):
        for kind, c in zip(KINDS, clients):
            c.send(b"frame")
            assert c.recv_exact(5) == b"frame", kind
        ends.outlive_http(3)
    for kind, c in zip(KINDS, clients):
        c.send(b"last")
        assert c.recv_exact(4) == b"last", kind
        c.close()
    at_rest(ends.proxy)


def test_b07_the_name_is_found_however_the_hello_is_cut(t):
    """SNI detection lacked real parsing of a ClientHello and of its fragments."""
    one, other = (TcpServer(t, lambda peer, me=me: (peer.recv_exact(1), peer.send(me))) for me in (b"1", b"2"))
    port = t.port()
    t.proxy([passthrough("one", [port], [one.port], ["one.test"]), passthrough("other", [port], [other.port], ["other.test"])])
    for name, wanted in (("one.test", b"1"), ("other.test", b"2")):
        hello = hello_bytes(name)
        body = hello[5:]
        for size in (1, 3, 50, 100, len(body) - 1):
            records = [b"\x16\x03\x01" + len(body[ix:ix + size]).to_bytes(2, "big") + body[ix:ix + size] for ix in range(0, len(body), size)]
            with RawEnd(port).sock as s:  # fragments in records
                s.sendall(b"".join(records))
                assert s.recv(1) == wanted, (name, size)
        for cut in range(1, len(hello), 20):
            with RawEnd(port).sock as s:  # fragments in segments
                s.sendall(hello[:cut])
                s.sendall(hello[cut:])
                assert s.recv(1) == wanted, (name, cut)


# ---- B10, B11, B12: targets that are not there

def test_b10_a_refusing_target_does_no_harm(t):
    """ECONNREFUSED ended the process: its error handler came too late."""
    ends = Ends(t, target=t.port())
    web = t.port()
    assert ends.proxy.put_routes(ends.routes + [forward("dead", [web], [ends.target])]).status == 200
    for _ in range(20):
        for kind in KINDS:
            c = ends.open(kind)
            c.recv()
            c.close()
        with Client(web) as c:
            assert c.get("/").status in (502, 503)
        with Client(ends.http) as c:
            assert c.get("/").body == b"web"
    at_rest(ends.proxy)


def test_b11_a_failed_target_frees_the_client_side_too(t):
    """The client's socket and the counter leaked: the counter fell only when both sides had closed."""
    ends = Ends(t, target=t.port())
    p = ends.proxy
    begin = p.fd_cnt()
    clients = [ends.open(KINDS[ix % 3]) for ix in range(30)]  # they stay open on their side
    at_rest(p)
    p.wait_fds(begin)
    for c in clients:
        c.close()


def test_b11_the_counter_falls_when_the_target_dies(t):
    """The same with a target that dies later: each of its clients is let go."""
    gate = threading.Event()

    def handler(peer):
        peer.send(peer.recv_exact(2))
        gate.wait(60)
        peer.reset()
    ends = Ends(t, handler)
    clients = [ends.open(KINDS[ix % 3]) for ix in range(30)]
    for c in clients:
        c.send(b"hi")
        assert c.recv_exact(2) == b"hi"
    assert ends.proxy.metric("smartproxy_tunnels_open") == 30
    gate.set()
    at_rest(ends.proxy)


def test_b12_connections_to_a_dead_target_do_not_pile_up(t):
    """There was no connect timeout: connections gathered in front of targets that do not answer."""
    hole = black_hole(t)
    ends = Ends(t, target=hole, timeouts={"connect": "1s"})
    web = t.port()
    assert ends.proxy.put_routes(ends.routes + [forward("dead", [web], [hole])]).status == 200
    p = ends.proxy
    begin = p.fd_cnt()
    clients = [RawEnd(ends.ports["tcp"]) for _ in range(100)] + [Client(web) for _ in range(100)]
    for c in clients[100:]:
        c.request()
    for c in clients[100:]:
        assert c.response().status in (503, 504)
        c.close()
    for c in clients[:100]:
        assert c.recv_all() == b""
        c.close()
    at_rest(p, 60)
    p.wait_fds(begin)
    assert p.metric("smartproxy_upstream_connect_failures_total") > 0


# ---- B13 to B16: limits

def test_b13_limits_count_behind_tls_as_anywhere(t):
    """Traffic behind terminated TLS bypassed the limits of an address; only the limit over all was looked at."""
    ends = Ends(t, echo, limits={"connections_per_ip": 10}, workers=4)
    p = ends.proxy
    for kind in KINDS:
        refused = p.end_cnt("over_limit_ip")
        clients = [ends.open(kind) for _ in range(10)]
        for c in clients:
            c.send(b"hi")
            assert c.recv_exact(2) == b"hi"
        for ix in range(5):
            try:
                c = ends.open(kind)
                assert c.recv() == b"", kind
            except (ConnectionError, ssl.SSLError):
                pass
            until(lambda n=refused + ix + 1: p.end_cnt("over_limit_ip") == n, 10, "the refusal is counted")
        other = connect_from(t, "127.0.0.99", ends.ports["tcp"])
        assert served(other)
        other.close()
        for c in clients:
            c.close()
        until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "all ended")
    at_rest(p)


def test_b13_the_limit_is_exact_under_a_burst_on_four_workers(t):
    """The limit was checked, and the connection counted later: a burst went through."""
    ends = Ends(t, echo, limits={"connections_per_ip": 50}, workers=4)
    results, clients = [], []

    def burst():
        for _ in range(25):
            s = connect_from(t, "127.0.0.1", ends.ports["tcp"])
            clients.append(s)
            results.append(served(s))
    threads = [threading.Thread(target=burst) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 50 and len(results) == 200, results.count(True)
    assert ends.proxy.end_cnt("over_limit_ip") == 150
    for s in clients:
        s.close()
    at_rest(ends.proxy)


def with_limit(route, cnt):
    route["max_connections"] = cnt
    return route


def test_b14_the_limit_of_a_route_is_kept(t):
    """A route's maximum of connections was read and never enforced."""
    gate = threading.Event()

    def script(c, r):
        gate.wait(60)
        c.send(answer(200, b"ok"))
    o = t.origin(script)
    ends = Ends(t, echo, workers=4)
    web = t.port()
    routes = [with_limit(dict(r), 3) for r in ends.routes] + [with_limit(forward("web", [web], [o.port]), 3)]
    assert ends.proxy.put_routes(routes).status == 200
    p = ends.proxy
    clients = [ends.open(kind) for kind in KINDS for _ in range(3)]
    for c in clients:
        c.send(b"hi")
        assert c.recv_exact(2) == b"hi"
    for kind in KINDS:
        try:
            c = ends.open(kind)
            got = c.recv_all()
            assert got == b"" or (kind == "passthrough" and got[:1] == b"\x15"), (kind, got)
        except (ConnectionError, ssl.SSLError):
            assert kind == "tls"
    asking = [Client(web, timeout_s=60) for _ in range(3)]
    for c in asking:
        c.request()
    o.wait_requests(3)
    with Client(web) as c:
        assert c.get("/").status == 503
    gate.set()
    for c in asking:
        assert c.response().status == 200
        c.close()

    def is_served():
        with Client(web) as c:
            return c.get("/").status == 200
    until(is_served, 10, "the places are back")
    for c in clients:
        c.close()
    at_rest(p)
    assert p.end_cnt("limited") >= 4


def test_b15_the_table_of_addresses_is_empty_afterwards(t):
    """The map of addresses grew for ever: its clean-up lost what was added meanwhile."""
    ends = Ends(t, echo, limits={"connections_per_ip": 2}, workers=4)
    p = ends.proxy

    def use(part):
        for ix in range(1, 100):
            s = connect_from(t, f"127.0.{part}.{ix}", ends.ports["tcp"])
            assert served(s)
            if ix % 2:
                s.close()
    threads = [threading.Thread(target=use, args=(part,)) for part in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert p.metric("smartproxy_limited_addresses") >= 4 * 49
    t.undo, undo = [f for f in t.undo if not is_close(f)], [f for f in t.undo if is_close(f)]
    for close in undo:
        close()
    at_rest(p)
    until(lambda: p.metric("smartproxy_limited_addresses") == 0, 10, "counted: smartproxy_limited_addresses")


def is_close(function):
    return isinstance(getattr(function, "__self__", None), socket.socket)


def test_b16_a_chain_counts_the_real_client(t):
    """Behind another proxy all clients had one address, and met its limit together."""
    origin = TcpServer(t, echo)
    middle, port = t.port(), t.port()
    inner = t.proxy([tcp("inner", [middle], [origin.port])], limits={"connections_per_ip": 2},
                    listeners=({"ports": [middle], "proxy_protocol": {"trusted": ["127.0.0.1/32"]}},))
    outer = t.proxy([tcp("outer", [port], [{"host": "127.0.0.1", "port": middle, "proxy_protocol": "v2"}])])
    clients = [connect_from(t, f"127.0.0.{10 + ix}", port) for ix in range(60) for _ in range(2)]
    for s in clients:
        assert served(s)
    assert inner.metric("smartproxy_connections_open") == 120
    for ix in range(3):
        s = connect_from(t, f"127.0.0.{10 + ix}", port)
        assert not served(s)
        s.close()
    until(lambda: inner.end_cnt("over_limit_ip") == 3, 10, "the inner one refused three")
    assert {v["client"].rsplit(":", 1)[0] for v in inner.connections()} == {f"127.0.0.{10 + ix}" for ix in range(60)}
    for s in clients:
        s.close()
    for p in (outer, inner):
        at_rest(p)


# ---- B17: lives

def test_b17_a_client_that_leaves_while_its_target_is_connected_to(t):
    """The outgoing socket of such a client was never cleaned up."""
    hole = black_hole(t)
    ends = Ends(t, target=hole, timeouts={"connect": "60s"})
    web = t.port()
    assert ends.proxy.put_routes(ends.routes + [forward("dead", [web], [hole])]).status == 200
    p = ends.proxy
    begin = p.fd_cnt()
    clients = [ends.open(kind) for kind in KINDS for _ in range(10)]
    asking = [Client(web) for _ in range(10)]
    for c in asking:
        c.request()
        t.cleanup(c.close)
    until(lambda: sum(u["in_flight"] for u in p.upstreams()) == 40, 20, "all wait for the target")
    for ix, c in enumerate(clients):
        if ix % 2 or ix < 20:
            c.reset()
        else:
            c.close()
    for c in asking:  # an end alone might be a half-close, which still gets its answer, or its 504; not behind a ClientHello
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
    at_rest(p)
    p.wait_fds(begin)


def test_b17b_no_connection_outlives_its_end(t):
    """The count of connections jumped after hours: each connection ends with one reason of the list, whatever it was through."""
    ends = Ends(t, echo, timeouts={"hello": "2s", "header": "2s", "idle": "1s", "response": "2s", "connect": "500ms"})
    dead, hole, slow_web, web = t.port(), t.port(), t.port(), t.port()
    o, slow_origin = t.origin(echo_request), t.origin(hang)
    assert ends.proxy.put_routes(ends.routes + [tcp("dead", [dead], [t.port()]), tcp("hole", [hole], [black_hole(t)]),
                                                forward("slow", [slow_web], [slow_origin.port]),
                                                forward("web", [web], [o.port])]).status == 200
    p = ends.proxy
    begin = p.fd_cnt()
    lives = [
        lambda: ends.open("tcp").reset(), lambda: ends.open("tls").close(), lambda: ends.open("passthrough").half_close(),
        lambda: RawEnd(dead), lambda: RawEnd(hole), lambda: RawEnd(hole).reset(), lambda: RawEnd(web), lambda: RawEnd(web).half_close(),
        lambda: Client(web).request("POST", "/", headers=[("Content-Length", "100")]).send(b"half"), lambda: Client(slow_web).request(),
        lambda: Client(slow_web).request().close(), lambda: Client(web).send(b"GET / HT"), lambda: Client(web).send(b"\0\1\2"),
        lambda: Client(ends.ports["tls"]).send(ends.hello[:40]), lambda: Client(ends.ports["passthrough"]).send(b"\x16\x03\x01\0"),
        lambda: Client(web).get("/"), lambda: RawEnd(ends.ports["tls"]).reset(),
    ]
    kept = []
    for _ in range(10):
        kept += [live() for live in lives]
    for c in kept:
        if c is not None and hasattr(c, "close"):
            t.cleanup(c.close)
    # Those who only wait are let go by a timeout; tunnels that still could speak are closed here.
    at_rest(p, 40)
    p.wait_fds(begin)


def test_b17c_an_end_of_one_side_does_not_cut_the_other(t):
    """Over-correction: the end of one side destroyed the other at once, and half-open ones were killed."""
    gate = threading.Event()

    def handler(peer):
        peer.send(peer.recv_exact(2))
        peer.recv_all()
        gate.wait(60)
        peer.send(b"late answer" * 10000)
    ends = Ends(t, handler, timeouts=SHORT)
    o = t.origin(lambda c, r: (gate.wait(60), c.send(answer(200, b"late"))))
    web = t.port()
    assert ends.proxy.put_routes(ends.routes + [forward("late", [web], [o.port])]).status == 200
    clients = [ends.open(kind) for kind in KINDS]
    for c in clients:
        c.send(b"hi")
        assert c.recv_exact(2) == b"hi"
        c.half_close()
    ends.outlive_http()
    with Client(web) as c:  # of HTTP as well: its answer still comes
        c.request()
        c.half_close()
        o.wait_requests(1)
        gate.set()
        assert c.response().body == b"late"
    for kind, c in zip(KINDS, clients):
        assert c.recv_all() == b"late answer" * 10000, kind
        c.close()
    at_rest(ends.proxy)


# ---- B18 to B20b: counters

def bytes_of(p, name):
    return tuple(int(p.metric(f"smartproxy_{name}_bytes_total", f'direction="{d}"')) for d in ("in", "out"))


def test_b18_http_reports_its_bytes(t):
    """The path of HTTP reported no bytes at all."""
    o = t.origin(fixed(b"b" * 50000))
    port = t.port()
    p = t.proxy([forward("a", [port], [o.port])])
    with Client(port) as c:
        c.request("POST", "/", body=b"q" * 30000)
        assert len(c.response().body) == 50000
        (view,) = p.connections()
        assert view["bytes_in"] > 30000 and view["bytes_out"] > 50000, view
    at_rest(p)
    client_in, client_out = bytes_of(p, "client")
    upstream_in, upstream_out = bytes_of(p, "upstream")
    assert 30000 < client_in < 31000 and 50000 < client_out < 51000, (client_in, client_out)
    assert upstream_in == len(answer(200, b"b" * 50000)) and 30000 < upstream_out < 31000, (upstream_in, upstream_out)


def test_b19_the_first_bytes_are_counted_once(t):
    """The first chunk of a connection was counted twice."""
    ends = Ends(t, echo)
    p = ends.proxy
    for kind in KINDS:
        before = bytes_of(p, "tunnel"), bytes_of(p, "client"), bytes_of(p, "upstream")
        c = ends.open(kind)
        c.send(b"x")  # the first chunk is all there is
        assert c.recv_exact(1) == b"x"
        c.half_close()
        assert c.recv_all() == b""
        c.close()
        at_rest(p)
        size = 1 + (len(ends.hello) if kind == "passthrough" else 0)
        moved = [tuple(b - a for a, b in zip(one, two)) for one, two in
                 zip(before, (bytes_of(p, "tunnel"), bytes_of(p, "client"), bytes_of(p, "upstream")))]
        assert moved == [(size, 1), (size, 1), (1, size)], (kind, moved)
    before = bytes_of(p, "client")
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with Client(ends.http) as c:
        c.send(request)
        got = c.wait_closed()
    at_rest(p)
    assert tuple(b - a for a, b in zip(before, bytes_of(p, "client"))) == (len(request), len(got))


def test_b20_counters_do_not_drift_with_the_age_of_a_connection(t):
    """Rates drifted upward with a connection's age. Here are counters, and each look at them finds what was sent, no more."""
    ends = Ends(t, echo)
    p = ends.proxy
    clients = [ends.open("tcp") for _ in range(5)]
    sent = 0
    for _ in range(40):
        for c in clients:
            c.send(b"z" * 1000)
            assert c.recv_exact(1000) == b"z" * 1000
            sent += 1000
        until(lambda n=sent: bytes_of(p, "tunnel") == (n, n), 10, f"{sent} bytes each way")
        assert bytes_of(p, "tunnel") == (sent, sent)
    assert sum(v["bytes_in"] for v in p.connections()) == sent
    for c in clients:
        c.close()
    at_rest(p)
    assert bytes_of(p, "tunnel") == (sent, sent) and bytes_of(p, "client") == (sent, sent)  # the end adds nothing


def test_b20b_a_counter_is_no_sum_of_a_window(t):
    """"Throughput" was a sum of the last minute. Equal bursts add equal amounts, and silence neither adds nor takes."""
    ends = Ends(t, echo, timeouts=SHORT)
    p = ends.proxy
    c = ends.open("tcp")
    seen = [bytes_of(p, "tunnel")]
    for _ in range(3):
        c.send(b"w" * 250000)
        assert len(c.recv_exact(250000)) == 250000
        until(lambda n=len(seen): bytes_of(p, "tunnel") == (n * 250000, n * 250000), 10, "the burst is counted")
        ends.outlive_http(1)
        seen.append(bytes_of(p, "tunnel"))
    assert seen == [(ix * 250000, ix * 250000) for ix in range(4)], seen
    c.close()


# ---- B28 to B31: tables and rules

def test_b28_random_names_leave_nothing_behind(t):
    """Tables by address and by name had no bound: random Host and SNI were a way to use up memory."""
    ends = Ends(t, echo, limits={"connections_per_ip": 1000})
    p = ends.proxy
    web = t.port()
    assert p.put_routes(ends.routes + [respond("named", [web], "named", domains=["named.test"])]).status == 200
    rng = random.Random(28)

    def noise(cnt):
        with Client(web, timeout_s=60) as c:
            for _ in range(cnt):
                name = "".join(rng.choice(string.ascii_lowercase) for _ in range(30)) + ".test"
                r = c.get("/" + name, host=name)
                assert r.status == 404, r
        for _ in range(cnt // 10):
            name = "".join(rng.choice(string.ascii_lowercase) for _ in range(30)) + ".test"
            with RawEnd(ends.ports["passthrough"]).sock as s:
                assert alert_of(s, hello_bytes(name)) == UNRECOGNIZED_NAME
    noise(500)
    until(lambda: p.metric("smartproxy_connections_open") == 0, 20, "all ended")
    before, series = p.rss_kib(), len(p.metrics())
    noise(3000)
    at_rest(p)
    p.check_growth(before, 8)
    assert len(p.metrics()) == series
    until(lambda: p.metric("smartproxy_limited_addresses") == 0, 10, "counted: smartproxy_limited_addresses")


def test_b29_rules_of_client_addresses_hold_on_every_way(t):
    """Rules of source addresses held for names in Host and not for names in SNI."""
    ca = make_ca(t.dir)
    cert = make_leaf(t.dir, "a", [NAME, "open.test"], ca)
    raw = TcpServer(t, echo)
    secret = TcpServer(t, echo, tls=cert)
    web, tls_web, pass_port, tcp_port = (t.port() for _ in range(4))
    mine = {"client_ip": ["127.0.0.2", "127.1.0.0/16"]}
    t.proxy([respond("web", [web], "in", domains=[NAME], **mine), tcp("tcp", [tcp_port], [raw.port], **mine),
             respond("tls", [tls_web], "in", domains=[NAME], tls=static_tls(*cert), **mine),
             respond("open", [tls_web], "open", domains=["open.test"], tls=static_tls(*cert)),
             passthrough("pass", [pass_port], [secret.port], [NAME], **mine)])
    context = tls_context(ca_file=ca[0])

    def ask(s, host=NAME):
        with s:
            s.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return s.recv(4096)[9:12]
    for ip, is_allowed in (("127.0.0.2", True), ("127.1.2.3", True), ("127.0.0.3", False), ("127.2.0.1", False)):
        assert ask(connect_from(t, ip, web)) == (b"200" if is_allowed else b"404"), ip
        with connect_from(t, ip, tcp_port) as s:
            assert served(s) == is_allowed, ip
        if is_allowed:
            with context.wrap_socket(connect_from(t, ip, pass_port), server_hostname=NAME) as s:
                assert served(s)
        else:
            assert alert_of(connect_from(t, ip, pass_port), hello_bytes()) is not None, ip

        # By the name of the request too, where a handshake for another one went before.
        def secure(name):
            return context.wrap_socket(connect_from(t, ip, tls_web), server_hostname=name)
        assert ask(secure("open.test"), "open.test") == b"200"
        assert ask(secure("open.test")) in ((b"200", b"421") if is_allowed else (b"404", b"421")), ip
        assert ask(secure(NAME)) == (b"200" if is_allowed else b"404"), ip


def test_b30_blocks_of_ipv6_addresses_match(t):
    """CIDR blocks were matched for IPv4 alone: an IPv6 block never matched."""
    port, named = t.port(), t.port()
    origin = TcpServer(t, lambda peer: peer.send(b"in"))
    listeners = ({"ports": [port, named], "proxy_protocol": {"trusted": ["::1/128", "127.0.0.0/8"]}},)
    blocks = ["2001:db8:1::/48", "2001:db8:2:8000::/49", "fe80::/10", "2001:db8:3::7", "192.0.2.0/25"]
    t.proxy([tcp("tcp", [port], [origin.port], client_ip=blocks), respond("web", [named], "in", client_ip=blocks)], listeners=listeners)
    for ip, is_in in (("2001:db8:1::1", True), ("2001:db8:1:ffff:ffff::", True), ("2001:db8:0:ffff::", False), ("2001:db9:1::1", False),
                      ("2001:db8:2:8000::1", True), ("2001:db8:2:7fff::1", False), ("fe80::1", True), ("febf::1", True),
                      ("fec0::1", False), ("2001:db8:3::7", True), ("2001:db8:3::8", False), ("::1", False),
                      ("192.0.2.127", True), ("192.0.2.128", False)):
        family = "TCP6" if ":" in ip else "TCP4"
        head = f"PROXY {family} {ip} {'2001:db8::1' if ':' in ip else '198.51.100.1'} 5555 443\r\n".encode()
        for host in ("127.0.0.1", "::1"):
            with Client(port, host=host) as c:
                c.send(head)
                assert (c.wait_closed() == b"in") == is_in, (ip, host)
            with Client(named, host=host) as c:
                c.send(head)
                assert c.get("/").status == (200 if is_in else 404), (ip, host)


def test_b31_a_star_is_one_label(t):
    """A star spanned several labels: "*.example.com" matched deeper names."""
    ca = make_ca(t.dir)
    cert = make_leaf(t.dir, "w", ["*.wild.test"], ca)
    secret = TcpServer(t, echo, tls=cert)
    web, tls_web, pass_port = (t.port() for _ in range(3))
    t.proxy([respond("web", [web], "in", domains=["*.wild.test"]),
             respond("tls", [tls_web], "in", domains=["*.wild.test"], tls=static_tls(*cert)),
             passthrough("pass", [pass_port], [secret.port], ["*.wild.test"])])
    context = tls_context(ca_file=ca[0])
    for name in ("a.wild.test", "A.Wild.Test", "x-1.wild.test"):
        with Client(web) as c:
            assert c.get("/", host=name).status == 200, name
        with Client(tls_web, tls=context, server_name=name) as c:
            assert c.get("/", host=name).status == 200, name
        with Client(pass_port, tls=context, server_name=name) as c:
            assert served(c.sock), name
    for name in ("a.b.wild.test", "wild.test", "a.wild.test.evil.test", "awild.test"):
        with Client(web) as c:
            assert c.get("/", host=name).status == 404, name
        with RawEnd(pass_port).sock as s:
            assert alert_of(s, hello_bytes(name)) == UNRECOGNIZED_NAME, name
        with Client(tls_web, tls=tls_context(verify=False), server_name=name) as c:
            assert c.get("/", host=name).status in (404, 421), name
        with Client(tls_web, tls=context, server_name="a.wild.test") as c:
            assert c.get("/", host=name).status in (404, 421), name


if __name__ == "__main__":
    node.prepare()
    main()
