"""TCP_DEFER_ACCEPT: where clients speak first a connection is taken with its first bytes, or about a second later without any."""
import socket
import time

from sp import main
from sp.client import Client, Closed, tls_context
from sp.conf import passthrough, respond, static_tls, tcp
from sp.pebble import make_leaf
from sp.runner import Skip
from sp.tcp import TcpServer, echo
from sp.wait import until

SILENT_S = 0.9  # the kernel's second, by its own clock


def banner(peer):
    peer.send(b"220 ready\r\n")
    echo(peer)


def accept_s(p, port, host="127.0.0.1"):
    """Seconds until a client is accepted that sends nothing."""
    before = p.metric("smartproxy_connections_accepted_total")
    start = time.monotonic()
    with Client(port, host):
        until(lambda: p.metric("smartproxy_connections_accepted_total") > before, 10, "it is accepted")
        return time.monotonic() - start


def is_prompt(p, port):
    """Accepted at once, by the best of some tries: a machine may be slow, the kernel's second is never shorter."""
    return any(accept_s(p, port) < SILENT_S for _ in range(5))


def is_deferred(p, port):
    """As the proxy says, and as the kernel does it."""
    (says,) = {each["defer_accept"] for each in p.listeners() if each["port"] == port}
    if says:
        assert accept_s(p, port) >= SILENT_S
    else:
        assert is_prompt(p, port)
    return says


def hears_at_once(port):
    start = time.monotonic()
    with Client(port) as c:
        assert c.sock.recv(64) == b"220 ready\r\n"
    return time.monotonic() - start < SILENT_S


def test_who_speaks_first(t):
    """HTTP, TLS that ends here and TLS passed through are deferred, on all addresses of the port; raw TCP is not."""
    leaf = make_leaf(t.dir, "a", ["a.test"])
    origin, tls_origin = TcpServer(t, banner), TcpServer(t, echo, tls=leaf)
    http, tls, passed, raw, both, prompt = (t.port() for _ in range(6))
    p = t.proxy([respond("http", [http], "http"), respond("tls", [tls], "tls", domains=["a.test"], tls=static_tls(*leaf)),
                 passthrough("passed", [passed], [tls_origin.port], ["a.test"]), tcp("raw", [raw], [origin.port]),
                 tcp("both", [both], [tls_origin.port], ["a.test"], static_tls(*leaf)), respond("prompt", [prompt], "prompt")],
                listeners=({"ports": [prompt], "defer_accept": False},))
    for port in (http, tls, passed, both):
        assert is_deferred(p, port), port
    assert accept_s(p, http, "::1") >= SILENT_S
    for port in (raw, prompt):
        assert not is_deferred(p, port), port
    assert any(hears_at_once(raw) for _ in range(5))
    for port in (http, prompt):
        assert t.connect(port).get("/").status == 200
    assert t.connect(tls, tls=tls_context(verify=False), server_name="a.test").get("/", "a.test").status == 200
    with Client(passed, tls=tls_context(verify=False), server_name="a.test") as c:
        assert c.send(b"x").sock.recv(1) == b"x"


def test_each_workers_socket_is_deferred(t):
    port = t.port()
    p = t.proxy([respond("http", [port], "http", address="127.0.0.1")], workers=4)
    start = time.monotonic()
    silent = [t.connect(port) for _ in range(32)]
    until(lambda: p.metric("smartproxy_connections_accepted_total") > 0, 10, "the first is accepted")
    assert time.monotonic() - start >= SILENT_S
    until(lambda: p.metric("smartproxy_connections_open") == 32, 10, "all are accepted")
    assert all(c.get("/").status == 200 for c in silent)


def test_a_reload_switches_the_open_port(t):
    origin = TcpServer(t, banner)
    port = t.port()
    plain, raw = [respond("r", [port], "plain")], [tcp("r", [port], [origin.port])]
    p = t.proxy(plain)
    binds = p.metric("smartproxy_listener_binds_total")
    heard = 0
    for _ in range(3):
        assert is_deferred(p, port)
        assert t.connect(port).get("/").status == 200
        assert p.put_routes(raw).status == 200
        heard += hears_at_once(port)
        assert not is_deferred(p, port)
        p.write(plain)
        assert p.reload().status == 200
    assert heard > 0
    assert is_deferred(p, port)
    p.config["listeners"] = ({"ports": [port], "defer_accept": False},)
    p.write()
    assert p.reload().status == 200
    assert not is_deferred(p, port)
    assert p.metric("smartproxy_listener_binds_total") == binds


def test_a_refused_update_leaves_it_as_it_was(t):
    origin, taken = TcpServer(t, banner), TcpServer(t, echo)
    plain, raw = t.port(), t.port()
    p = t.proxy([respond("plain", [plain], "plain"), tcp("raw", [raw], [origin.port])])
    swapped = [tcp("plain", [plain], [origin.port]), respond("raw", [raw], "raw")]
    assert p.put_routes(swapped + [respond("taken", [taken.port], "", address="127.0.0.1")]).status == 409
    assert is_deferred(p, plain) and not is_deferred(p, raw)
    assert p.put_routes(swapped).status == 200
    assert is_deferred(p, raw) and not is_deferred(p, plain)


def test_a_port_that_goes_answers_whose_bytes_are_there(t):
    """Who has sent nothing is refused when it does, as if it came now; a port that comes back takes all."""
    port, other = t.port(), t.port()
    p = t.proxy([respond("r", [port], "there"), respond("other", [other], "other")])
    for _ in range(10):
        silent, speaks = t.connect(port), t.connect(port)
        speaks.request()
        assert p.put_routes([respond("other", [other], "other")]).status == 200
        assert speaks.response().status == 200
        try:
            silent.request()
            answer = silent.response().status
            assert answer == 200  # a slow machine: its second had passed
        except (ConnectionError, Closed):
            pass
        assert p.put_routes([respond("r", [port], "there"), respond("other", [other], "other")]).status == 200
        assert t.connect(port).get("/").status == 200
    assert is_deferred(p, port)


def test_a_shutdown_answers_whose_bytes_are_there(t):
    port = t.port()
    p = t.proxy([respond("r", [port], "there")])
    clients = [t.connect(port) for _ in range(20)]
    silent = [t.connect(port) for _ in range(20)]
    for c in clients:
        c.request()
    p.stop()
    for c in clients:
        assert c.response().status == 200
    for c in silent:  # the kernel forgets whom nobody has accepted
        try:
            while True:
                c.send(b"x")
                assert c.wait_closed() == b""
        except ConnectionError:
            pass


def test_the_deadline_of_a_silent_client_begins_when_it_is_taken(t):
    leaf = make_leaf(t.dir, "a", ["a.test"])
    plain, tls = t.port(), t.port()
    p = t.proxy([respond("plain", [plain], "plain"), respond("tls", [tls], "tls", domains=["a.test"], tls=static_tls(*leaf))],
                timeouts={"header": "1s", "hello": "1s"})
    for port, reason in ((plain, "header_timeout"), (tls, "hello_timeout")):
        before = p.end_cnt(reason)
        start = time.monotonic()
        with Client(port) as c:
            assert c.wait_closed() == b""
        assert time.monotonic() - start >= SILENT_S + 0.9
        until(lambda reason=reason, before=before: p.end_cnt(reason) == before + 1, 5, reason)


def test_who_ends_or_resets_without_a_byte_leaves_nothing(t):
    port = t.port()
    p = t.proxy([respond("r", [port], "there")])
    for _ in range(50):
        with Client(port) as c:
            c.sock.shutdown(socket.SHUT_WR)
            assert c.wait_closed() == b""
        Client(port).close()
    until(lambda: p.metric("smartproxy_connections_open") == 0, 10, "none is open")
    with Client(port) as c:
        assert c.get("/").status == 200
    p.wait_fds()


def write(file, text):
    with open(file, "w", encoding="ascii") as f:
        f.write(text)


def test_syn_cookies_defer_nothing(t):
    """A cookie remembers no request: the last ACK makes the connection."""
    file = "/proc/sys/net/ipv4/tcp_syncookies"
    try:
        with open(file, encoding="ascii") as f:
            before = f.read()
        t.cleanup(lambda: write(file, before))
        write(file, "2")
    except OSError as e:
        raise Skip(f"no SYN cookies here: {e}") from e
    port = t.port()
    p = t.proxy([respond("r", [port], "there")])
    assert t.connect(port).get("/").status == 200
    assert is_prompt(p, port)


if __name__ == "__main__":
    main()
