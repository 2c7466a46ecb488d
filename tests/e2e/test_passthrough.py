"""TLS passed through by SNI, beside termination, on one port; what is refused is told by an alert."""
import re
import socket
import ssl
import subprocess

from sp import main
from sp.client import Client, tls_context
from sp.conf import passthrough, respond, static_tls, tcp
from sp.pebble import make_ca, make_leaf
from sp.tcp import TcpServer, echo, sink
from sp.wait import until


class Names:
    """A CA and a certificate a name."""

    def __init__(self, t):
        self.dir = t.dir
        self.ca = make_ca(t.dir)
        self.made = {}

    def cert(self, name):
        if name not in self.made:
            self.made[name] = make_leaf(self.dir, name, [name], self.ca)
        return self.made[name]

    def context(self, **options):
        return tls_context(ca_file=self.ca[0], **options)


def say(text):
    """A server that tells who it is, then echoes."""
    def handler(peer):
        peer.send(text)
        echo(peer)
    return handler


def hello_bytes(server_name=None, alpn=None):
    """A ClientHello as OpenSSL writes it."""
    context = tls_context(verify=False, alpn=alpn)
    out = ssl.MemoryBIO()
    obj = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_name)
    try:
        obj.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def alert_of(port, data, half_close=False):
    """The description of the alert that answers these bytes."""
    with socket.create_connection(("127.0.0.1", port), 15) as s:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        got = b""
        while True:
            part = s.recv(4096)  # a reset would raise
            if not part:
                break
            got += part
    assert len(got) == 7 and got[0] == 21 and got[5] == 2, got
    return got[6]


UNRECOGNIZED_NAME = 112


def test_a_request_for_a_name_that_is_passed_through_is_misdirected(t):
    """Its own certificate would do for it, and a wildcard's route would take it."""
    n = Names(t)
    origin = TcpServer(t, echo, tls=n.cert("secret.w.test"))
    port = t.port()
    t.proxy([passthrough("secret", [port], [origin.port], ["secret.w.test"]),
             respond("wild", [port], "wild", domains=["*.w.test"], tls=static_tls(*n.cert("*.w.test")))])
    with Client(port, tls=n.context(), server_name="www.w.test") as c:
        assert c.get("/", host="www.w.test").body == b"wild"
        assert c.get("/", host="secret.w.test").status == 421
        assert c.get("/", host="other.w.test").status == 200


def test_b31_names_choose_between_passthrough_and_termination(t):
    n = Names(t)
    one = TcpServer(t, say(b"one"), tls=n.cert("a.test"))
    many = TcpServer(t, say(b"many"), tls=n.cert("*.wild.test"))
    port = t.port()
    p = t.proxy([passthrough("one", [port], [one.port], ["a.test"]), passthrough("wild", [port], [many.port], ["*.wild.test"]),
                 respond("own", [port], "own", domains=["own.test"], tls=static_tls(*n.cert("own.test")))])
    for name, wanted in (("a.test", b"one"), ("x.wild.test", b"many"), ("A.TEST", b"one")):
        with Client(port, tls=n.context(), server_name=name) as c:
            assert c.sock.recv(16) == wanted
            c.send(b"ping")
            assert c.sock.recv(16) == b"ping"
    with Client(port, tls=n.context(), server_name="own.test") as c:
        assert c.get("/", "own.test").body == b"own"
    for name in ("deep.x.wild.test", "wild.test", "other.test"):
        assert alert_of(port, hello_bytes(name)) == UNRECOGNIZED_NAME, name
    assert alert_of(port, hello_bytes()) == UNRECOGNIZED_NAME  # two passthrough routes and no default
    until(lambda: p.metric("smartproxy_tunnels_open") == 0, 5, "no tunnel left")
    until(lambda: p.metric("smartproxy_tunnels_total") == 3, 10, "counted: smartproxy_tunnels_total")
    until(lambda: p.end_cnt("no_route") == 4, 5, "four refusals counted")


def test_without_sni_the_single_passthrough_route_or_the_default(t):
    n = Names(t)
    one = TcpServer(t, say(b"one"), tls=n.cert("a.test"))
    port = t.port()
    single = [passthrough("one", [port], [one.port], ["a.test"]),
              respond("own", [port], "own", domains=["own.test"], tls=static_tls(*n.cert("own.test")))]
    p = t.proxy(single)

    def served():
        with Client(port, tls=tls_context(verify=False)) as c:
            return c.sock.recv(16)
    assert served() == b"one"
    two = TcpServer(t, say(b"two"), tls=n.cert("b.test"))
    three = TcpServer(t, say(b"three"), tls=n.cert("c.test"))
    assert p.put_routes(single + [passthrough("two", [port], [two.port], ["b.test"]),
                                  passthrough("rest", [port], [three.port])]).status == 200
    assert served() == b"three"
    assert p.put_routes(single + [passthrough("two", [port], [two.port], ["b.test"])]).status == 200
    assert alert_of(port, hello_bytes()) == UNRECOGNIZED_NAME


def test_alpn_and_client_address_choose(t):
    n = Names(t)
    h2 = TcpServer(t, say(b"h2"), tls=n.cert("a.test"))
    near = TcpServer(t, say(b"near"), tls=n.cert("a.test"))
    rest = TcpServer(t, say(b"rest"), tls=n.cert("a.test"))
    port = t.port()
    t.proxy([passthrough("h2", [port], [h2.port], ["a.test"], alpn=["h2"]),
             passthrough("near", [port], [near.port], ["a.test"], client_ip=["127.0.0.9", "2001:db8::/32"]),
             passthrough("v6", [port], [near.port], ["a.test"], client_ip=["::1/128"]),
             passthrough("rest", [port], [rest.port], ["a.test"])])
    for alpn, wanted in ((["h2", "http/1.1"], b"h2"), (["http/1.1"], b"rest"), (None, b"rest")):
        with Client(port, tls=n.context(alpn=alpn), server_name="a.test") as c:
            assert c.sock.recv(16) == wanted, alpn
    with Client(port, host="::1", tls=n.context(), server_name="a.test") as c:  # B30: an IPv6 block
        assert c.sock.recv(16) == b"near"


def test_b07_a_hello_in_single_bytes_and_in_small_records(t):
    n = Names(t)
    got = []

    def collect(peer):
        got.append(peer.recv_exact(len(wanted)))
        peer.send(b"!")
    origin = TcpServer(t, collect)
    port = t.port()
    t.proxy([passthrough("one", [port], [origin.port], ["a.test"])])
    hello = hello_bytes("a.test")
    body = hello[5:]
    small = b"".join(b"\x16\x03\x01" + len(body[ix:ix + 7]).to_bytes(2, "big") + body[ix:ix + 7] for ix in range(0, len(body), 7))
    for wanted in (hello, small):
        with socket.create_connection(("127.0.0.1", port), 15) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ix in range(len(wanted)):
                s.sendall(wanted[ix:ix + 1])
            assert s.recv(1) == b"!"
        assert got[-1] == wanted  # byte for byte


def test_absurd_hellos_are_answered_by_alerts(t):
    n = Names(t)
    origin = TcpServer(t, sink)
    port = t.port()
    p = t.proxy([passthrough("one", [port], [origin.port], ["a.test"])], timeouts={"hello": "1s"})
    hello = hello_bytes("a.test")
    decode_error = 50
    for bad in (b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff" + b"x" * 64, b"\x17\x03\x01\x00\x05hello",
                b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", hello[:5] + b"\x01\xff\xff\xff" + hello[9:],
                hello[:43] + b"\xff" + hello[44:]):
        assert alert_of(port, bad) == decode_error, bad[:10]
    # Truncated: the time runs out, and the connection ends without an upstream having been asked.
    with Client(port) as c:
        c.send(hello[:-1])
        assert c.wait_closed()[:1] in (b"", b"\x15")
    with Client(port) as c:
        c.send(hello[:30])
        c.half_close()
        c.wait_closed()
    assert not origin.peers
    until(lambda: p.metric("smartproxy_connections_open") == 0, 5, "all connections ended")
    until(lambda: p.end_cnt("hello_timeout") == 1, 10, "counted: hello_timeout")


def test_tls_to_raw_tcp_and_raw_tcp_beside(t):
    n = Names(t)
    origin = TcpServer(t, say(b"hi"))
    port, raw = t.port(), t.port()
    t.proxy([tcp("tls", [port], [origin.port], ["a.test"], static_tls(*n.cert("a.test"))), tcp("raw", [raw], [origin.port]),
             respond("own", [port], "own", domains=["own.test"], tls=static_tls(*n.cert("own.test")))])
    with Client(port, tls=n.context(), server_name="a.test") as c:
        assert c.sock.recv(16) == b"hi"
        c.send(b"x" * 100000)
        got = b""
        while len(got) < 100000:
            got += c.sock.recv(65536)
        c.sock.unwrap().close()
    with Client(raw) as c:
        assert c.sock.recv(16) == b"hi"
    with Client(port, tls=n.context(), server_name="own.test") as c:
        assert c.get("/", "own.test").body == b"own"


def test_openssl_and_curl_through_passthrough(t):
    t.need("openssl", "curl")
    n = Names(t)
    cert, key = n.cert("a.test")
    back = t.port()
    server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{back}", "-cert", cert, "-key", key, "-www", "-quiet"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t.cleanup(lambda: (server.kill(), server.wait()))
    until(lambda: socket.create_connection(("127.0.0.1", back), 1).close() or True, 10, "s_server")
    port = t.port()
    t.proxy([passthrough("one", [port], [back], ["a.test"])])
    for version in ("-tls1_2", "-tls1_3"):
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "a.test", "-CAfile", n.ca[0],
                               "-verify_return_error", version], input=b"GET / HTTP/1.0\r\n\r\n", capture_output=True, timeout=20,
                              check=False)
        assert b"Verify return code: 0" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
    done = subprocess.run(["curl", "-sS", "--cacert", n.ca[0], "--connect-to", f"a.test:443:127.0.0.1:{port}", "https://a.test/"],
                          capture_output=True, timeout=20, check=False)
    assert done.returncode == 0 and re.search(rb"s_server", done.stdout), done


if __name__ == "__main__":
    main()
