"""Connections overall, per address, per route and per second: exact under bursts on four workers, and back to zero afterwards."""
import socket
import ssl
import threading

from sp import main
from sp.client import Client, Closed, tls_context
from sp.conf import forward, passthrough, respond, static_tls, tcp
from sp.load import burst, reset
from sp.pebble import make_leaf
from sp.tcp import TcpServer, echo
from sp.wait import until

CNT = 200
KINDS = ("plain", "tls", "passthrough", "tcp", "tls-tcp")


class Edge:
    """Every kind of traffic on a port of its own; enter(kind) is a connection that is served and stays, or None."""

    def __init__(self, t, workers=4, route_max=0, **options):
        self.t = t
        self.leaf = make_leaf(t.dir, "a", ["a.test"])
        self.context = tls_context(verify=False)
        self.origin = TcpServer(t, echo)
        self.tls_origin = TcpServer(t, echo, tls=self.leaf)
        self.ports = {kind: t.port() for kind in KINDS}
        self.held = []
        self.lock = threading.Lock()
        self.proxy = t.proxy(self.routes(route_max), workers=workers, **options)
        t.cleanup(self.leave)

    def routes(self, route_max=0):
        tls = static_tls(*self.leaf)
        ports = self.ports
        routes = [respond("plain", [ports["plain"]], "plain"),
                  respond("tls", [ports["tls"]], "tls", domains=["a.test"], tls=tls),
                  passthrough("passthrough", [ports["passthrough"]], [self.tls_origin.port], ["a.test"]),
                  tcp("tcp", [ports["tcp"]], [self.origin.port]),
                  tcp("tls-tcp", [ports["tls-tcp"]], [self.origin.port], ["a.test"], tls)]
        for r in routes:
            if route_max:
                r["max_connections"] = route_max
        return routes

    def enter(self, kind, source=None, preface=b""):
        """True when it is served; the connection is kept. Or the status or None that it was refused with."""
        try:
            c = self.open(kind, source, preface)
        except (ConnectionError, ssl.SSLError, Closed):
            return None
        try:
            if kind in ("plain", "tls"):
                response = c.get("/", "a.test")
                if response.status != 200:
                    assert response.status == 503 and response.header("connection") == "close", response
                    assert c.wait_closed() == b""
                    c.close()
                    return 503
            else:
                c.send(b"ping")
                if c.sock.recv(16) != b"ping":
                    c.close()
                    return None
        except (ConnectionError, ssl.SSLError, Closed):
            c.close()
            return None
        with self.lock:
            self.held.append(c)
        return True

    def open(self, kind, source, preface):
        if not preface:
            tls = self.context if kind in ("tls", "passthrough", "tls-tcp") else None
            return Client(self.ports[kind], tls=tls, server_name="a.test", timeout_s=60, source=source)
        c = Client(self.ports[kind], timeout_s=60)
        c.send(preface)
        if kind in ("tls", "passthrough", "tls-tcp"):
            c.sock = self.context.wrap_socket(c.sock, server_hostname="a.test")
        return c

    def leave(self, cnt=None):
        for c in self.held[:cnt]:
            c.close()
        del self.held[:cnt]

    def wait_open(self, cnt):
        until(lambda: self.proxy.metric("smartproxy_connections_open") == cnt, 20, f"{cnt} connections are open")

    def check_zero(self):
        self.leave()
        self.wait_open(0)
        until(lambda: self.proxy.metric("smartproxy_tunnels_open") == 0, 10, "no tunnel is open")
        until(lambda: self.proxy.metric("smartproxy_limited_addresses") == 0, 10, "no address is counted")
        assert not self.proxy.connections()


def check_burst(e, limit, reason, kinds=KINDS, **how):
    """Of CNT that come at once exactly `limit` get in, however often."""
    for kind in kinds:
        before = e.proxy.end_cnt(reason)
        results = burst(CNT, lambda ix, kind=kind: e.enter(kind, **how))
        assert results.count(True) == limit, (kind, results.count(True))
        assert set(results) == {True, None}, (kind, set(results))
        until(lambda: e.proxy.end_cnt(reason) == before + CNT - limit, 20, f"{kind}: refusals are counted as {reason}")
        e.wait_open(limit)
        assert e.enter(kind, **how) is None
        e.leave(1)
        e.wait_open(limit - 1)
        assert e.enter(kind, **how) is True, kind
        assert e.enter(kind, **how) is None, kind
        e.leave()
        e.wait_open(0)
        assert e.enter(kind, **how) is True
        e.leave()
        e.wait_open(0)


def test_overall_is_exact_under_bursts(t):
    e = Edge(t, limits={"connections": 37})
    check_burst(e, 37, "over_limit")
    e.check_zero()


def test_per_address_is_exact_under_bursts(t):
    e = Edge(t, limits={"connections_per_ip": 23})
    check_burst(e, 23, "over_limit_ip")
    assert burst(23, lambda ix: e.enter("plain")) == [True] * 23
    assert e.enter("plain") is None
    assert burst(23, lambda ix: e.enter("tcp", source="127.0.0.9")) == [True] * 23  # another address
    assert e.enter("tls", source="127.0.0.9") is None
    assert e.proxy.metric("smartproxy_limited_addresses") == 2
    e.check_zero()


def test_per_address_counts_all_ports_and_kinds_together(t):
    e = Edge(t, limits={"connections_per_ip": 5})
    assert [e.enter(kind) for kind in KINDS] == [True] * 5
    assert [e.enter(kind) for kind in KINDS] == [None] * 5
    e.check_zero()


def test_per_route_is_exact_under_bursts(t):
    e = Edge(t, route_max=17)
    for kind in KINDS:
        http = kind in ("plain", "tls")
        counter = ("smartproxy_exchanges_total" if http else "smartproxy_connection_ends_total", 'end="limited"')
        before = e.proxy.metric(*counter)
        results = burst(CNT, lambda ix, kind=kind: e.enter(kind))
        assert results.count(True) == 17, (kind, results.count(True))
        assert set(results) == {True, 503 if http else None}, (kind, set(results))
        until(lambda: e.proxy.metric(*counter) == before + CNT - 17, 20, f"{kind}: refusals are counted")
        e.wait_open(17)
        e.leave(1)
        e.wait_open(16)
        assert e.enter(kind) is True and e.enter(kind) is not True
        e.leave()
        e.wait_open(0)
        assert e.enter(kind) is True
        e.leave()
        e.wait_open(0)
    e.check_zero()


def test_a_refused_passthrough_is_told_by_an_alert(t):
    e = Edge(t, route_max=1)
    assert e.enter("passthrough") is True and e.enter("tls-tcp") is True
    for kind in ("passthrough", "tls-tcp"):
        try:
            Client(e.ports[kind], tls=e.context, server_name="a.test").close()
            raise AssertionError(f"{kind}: got in")
        except ssl.SSLError as error:
            assert "alert" in str(error).lower(), error
    e.check_zero()


def test_a_connection_counts_where_its_last_request_was(t):
    port = t.port()
    routes = [respond("one", [port], "one", path="/one"), respond("two", [port], "two", path="/two")]
    routes[0]["max_connections"] = 1
    p = t.proxy(routes, workers=2)
    a, b = t.connect(port), t.connect(port)
    assert a.get("/one").status == 200 and a.get("/one").status == 200
    assert b.get("/two").status == 200
    refused = b.get("/one")
    assert refused.status == 503 and refused.header("connection") == "close", refused
    assert a.get("/two").status == 200  # it has left the first route
    c = t.connect(port)
    assert c.get("/one").status == 200
    refused = a.get("/one")
    assert refused.status == 503, refused
    c.close()
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "all have ended")
    assert t.connect(port).get("/one").status == 200


def test_the_rate_of_an_address(t):
    # A second passes in which the burst is there again at most once: bounds, not times.
    e = Edge(t, limits={"connection_rate_per_ip": 1, "connection_burst_per_ip": 20})
    results = burst(CNT, lambda ix: e.enter("tcp"))
    served = results.count(True)
    assert 20 <= served <= 40, served
    until(lambda: e.proxy.end_cnt("over_rate_ip") == CNT - served, 20, "refusals are counted")
    assert e.enter("plain", source="127.0.0.9") is True  # another address
    e.leave()
    e.wait_open(0)
    # One more a second: it comes back without anything being reset.
    until(lambda: e.enter("plain") is True, 20, "the next second", 0.05)
    assert e.proxy.metric("smartproxy_limited_addresses") <= 2
    e.leave()
    e.wait_open(0)
    e.proxy.config["limits"] = {}
    e.proxy.write()
    assert e.proxy.reload().status == 200
    assert burst(50, lambda ix: e.enter("plain")) == [True] * 50


# ---- behind a trusted proxy ----

def v1(address):
    family, dest = ("TCP6", "2001:db8::1") if ":" in address else ("TCP4", "198.51.100.1")
    return f"PROXY {family} {address} {dest} 5555 443\r\n".encode()


def trusting(t, **options):
    e = Edge(t, **options)
    listeners = tuple({"ports": [port], "proxy_protocol": {"trusted": ["127.0.0.0/8"]}} for port in e.ports.values())
    e.proxy.config["listeners"] = listeners
    e.proxy.write()
    assert e.proxy.reload().status == 200
    return e


def test_limits_count_the_address_of_the_proxy_header(t):
    e = trusting(t, limits={"connections_per_ip": 11})
    check_burst(e, 11, "over_limit_ip", preface=v1("192.0.2.7"))
    for kind in KINDS:
        assert burst(60, lambda ix, kind=kind: e.enter(kind, preface=v1(f"192.0.2.{ix + 1}"))) == [True] * 60
        e.leave()
        e.wait_open(0)
    e.check_zero()


def test_ipv6_addresses_are_grouped_by_their_first_64_bits(t):
    e = trusting(t, limits={"connections_per_ip": 9})
    results = burst(CNT, lambda ix: e.enter("plain", preface=v1(f"2001:db8:0:1::{ix + 1:x}")))
    assert results.count(True) == 9
    assert e.proxy.metric("smartproxy_limited_addresses") == 1
    assert e.enter("tls", preface=v1("2001:db8:0:1:ffff:ffff:ffff:ffff")) is None
    assert e.enter("tls", preface=v1("2001:db8:0:2::1")) is True
    # IPv4 addresses do not share by their first bits.
    assert burst(50, lambda ix: e.enter("plain", preface=v1(f"192.0.2.{ix + 1}"))) == [True] * 50
    e.check_zero()
    e.proxy.config["limits"]["ipv6_prefix"] = 128
    e.proxy.write()
    assert e.proxy.reload().status == 200
    assert burst(50, lambda ix: e.enter("plain", preface=v1(f"2001:db8:0:1::{ix + 1:x}"))) == [True] * 50
    # Entered with one prefix, left after another one holds.
    e.proxy.config["limits"]["ipv6_prefix"] = 48
    e.proxy.write()
    assert e.proxy.reload().status == 200
    e.check_zero()


def test_many_addresses_come_and_go(t):
    e = trusting(t, limits={"connections_per_ip": 2, "connection_rate_per_ip": 1000})
    for turn in range(5):
        assert burst(100, lambda ix, turn=turn: e.enter("plain", preface=v1(f"10.{turn}.{ix}.1"))) == [True] * 100
        assert e.proxy.metric("smartproxy_limited_addresses") >= 100
        e.leave()
    e.wait_open(0)


# ---- changes ----

def test_limits_changed_by_a_reload_hold_for_new_connections(t):
    e = Edge(t, limits={"connections": 100000})

    def change(limits, route_max=0):
        e.proxy.config["limits"] = limits
        e.proxy.write(e.routes(route_max))
        assert e.proxy.reload().status == 200

    for kind in KINDS:
        assert burst(30, lambda ix, kind=kind: e.enter(kind)) == [True] * 30
        change({"connections": 31})
        assert e.enter(kind) is True and e.enter(kind) is None, kind
        change({"connections": 10})
        assert e.enter(kind) is None
        e.leave(22)  # nine are left
        e.wait_open(9)
        assert e.enter(kind) is True and e.enter(kind) is None, kind
        change({})
        assert e.enter(kind) is True
        # Counted from the moment on that there is such a limit: those that are older are not known by address.
        change({"connections_per_ip": 3})
        assert burst(50, lambda ix, kind=kind: e.enter(kind)).count(True) == 3, kind
        change({}, route_max=4)
        e.leave()
        e.wait_open(0)
        assert burst(50, lambda ix, kind=kind: e.enter(kind)).count(True) == 4, kind
        change({}, route_max=6)
        assert burst(50, lambda ix, kind=kind: e.enter(kind)).count(True) == 2, kind
        change({})
        assert e.enter(kind) is True
        e.leave()
        e.wait_open(0)
    e.check_zero()


def test_limits_hold_through_fifty_updates_under_load(t):
    e = Edge(t, limits={"connections_per_ip": 40}, route_max=15)
    stop = threading.Event()
    failed = []
    most = {"n": 0}

    def client(ix):
        kind = KINDS[ix % len(KINDS)]
        while not stop.is_set():
            got = e.enter(kind)
            if got is True:
                with e.lock:
                    c = e.held.pop()
                (reset if ix % 2 else Client.close)(c)
            elif kind == "plain" and got not in (None, 503):
                failed.append(got)

    def updater():
        for _ in range(50):
            assert e.proxy.put_routes(e.routes(15)).status == 200
            most["n"] = max(most["n"], e.proxy.metric("smartproxy_connections_open"))
        stop.set()
    thread = threading.Thread(target=updater)
    thread.start()
    burst(60, client, 100)
    thread.join()
    assert not failed and most["n"] <= 60
    e.check_zero()
    # The counters of the routes are back at zero as well.
    for kind in KINDS:
        assert burst(30, lambda ix, kind=kind: e.enter(kind)).count(True) == 15, kind
        e.leave()
        e.wait_open(0)


def test_refused_clients_that_send_nothing_or_garbage(t):
    e = Edge(t, limits={"connections": 3})
    idle = [Client(e.ports["plain"]) for _ in range(3)]
    e.wait_open(3)
    for kind in KINDS:
        with Client(e.ports[kind]) as c:
            assert c.wait_closed() == b""
        with Client(e.ports[kind]) as c:
            try:
                c.send(b"x" * 100000)
            except ConnectionError:
                pass
            assert c.wait_closed() == b""
    for c in idle:
        c.close()
    e.wait_open(0)
    assert e.enter("plain") is True
    e.check_zero()


def test_forwarded_requests_count_until_their_end(t):
    held = threading.Event()

    def script(c, _r):
        held.wait(60)
        c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    origin = t.origin(script)
    port = t.port()
    r = forward("r", [port], [origin.port])
    r["max_connections"] = 8
    p = t.proxy([r], workers=4)
    clients = burst(40, lambda ix: t.connect(port).request())
    origin.wait_requests(8)
    until(lambda: p.metric("smartproxy_exchanges_total", 'end="limited"') == 32, 20, "the others are refused")
    refused = 0
    for c in clients:
        c.sock.settimeout(0.0)
        try:
            if c.sock.recv(1, socket.MSG_PEEK):
                refused += 1
        except BlockingIOError:
            pass
        c.sock.settimeout(15)
    assert refused == 32, refused
    held.set()
    assert sorted(c.response().status for c in clients) == [200] * 8 + [503] * 32
    assert len(origin.requests) == 8


if __name__ == "__main__":
    main()
