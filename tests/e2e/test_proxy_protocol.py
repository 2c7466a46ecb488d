"""The PROXY protocol in and out, with HAProxy and nginx at the other end, and lies."""
import socket
import ssl
import struct
import time

from sp import main
from sp.client import Client, tls_context
from sp.conf import forward, passthrough, respond, static_tls, tcp
from sp.origin import echo
from sp.pebble import make_ca, make_leaf
from sp.peers import haproxy, nginx
from sp.tcp import TcpServer
from sp.wait import until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(source="192.0.2.7", source_port=5555, dest="198.51.100.1", dest_port=443, tlvs=b"", command=1):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, dest) + struct.pack("!HH", source_port, dest_port)
    code = 0x21 if family == socket.AF_INET6 else 0x11
    if command == 0:
        code, addresses = 0, b""
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, code, len(addresses) + len(tlvs)) + addresses + tlvs


def tlv(kind, value):
    return struct.pack("!BH", kind, len(value)) + value


def parse_v2(data):
    """(source ip, source port, {type: value}) of a version 2 header of a PROXY command."""
    assert data[:12] == SIGNATURE and data[12] == 0x21, data
    family = socket.AF_INET if data[13] == 0x11 else socket.AF_INET6
    size = 4 if family == socket.AF_INET else 16
    at = 16
    source = socket.inet_ntop(family, data[at:at + size])
    port = struct.unpack("!H", data[at + 2 * size:at + 2 * size + 2])[0]
    at += 2 * size + 4
    found = {}
    while at < len(data):
        kind, length = struct.unpack("!BH", data[at:at + 3])
        found[kind] = data[at + 3:at + 3 + length]
        at += 3 + length
    return source, port, found


def trust(port, *blocks):
    return {"ports": [port], "proxy_protocol": {"trusted": list(blocks)}}


def proxied(t, extra=(), trusted=("127.0.0.0/8", "::1/128"), **options):
    """A proxy whose port believes loopback's PROXY headers, before an origin."""
    o = t.origin(echo)
    port = t.port()
    p = t.proxy([forward("all", [port], [o.port])] + list(extra), listeners=(trust(port, *trusted),), **options)
    return p, port, o


def test_a_trusted_header_names_the_client(t):
    p, port, o = proxied(t)
    for head, wanted in ((b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n", "192.0.2.7"),
                         (b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 443\r\n", "2001:db8::7"),
                         (v2(), "192.0.2.7"), (v2("2001:db8::9", dest="2001:db8::1"), "2001:db8::9"),
                         (b"PROXY UNKNOWN\r\n", "127.0.0.1"), (v2(command=0), "127.0.0.1"),
                         (v2(tlvs=tlv(5, b"id-1") + tlv(2, b"a.test") + tlv(1, b"h2")), "192.0.2.7")):
        with Client(port) as c:
            c.send(head)
            assert c.get("/x").status == 200
            assert o.last.header("x-forwarded-for") == wanted, (head, o.last.headers)
            assert c.get("/again").status == 200  # the same client for the whole connection
            assert o.last.header("x-forwarded-for") == wanted
    until(lambda: p.metric("smartproxy_proxy_headers_total") == 7, 10, "counted: smartproxy_proxy_headers_total")


def test_a_header_in_single_bytes_with_the_request_behind(t):
    _, port, o = proxied(t)
    for head in (b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n", v2(tlvs=tlv(5, b"id"))):
        with Client(port) as c:
            c.send_slowly(head + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert c.response().status == 200
            assert o.last.header("x-forwarded-for") == "192.0.2.7"


def test_wrong_headers_of_trusted_peers_end_the_connection(t):
    p, port, o = proxied(t, timeouts={"hello": "1s"})
    crc = tlv(3, b"\0\0\0\0")
    bad = (b"PROXY TCP4 192.0.2.7 198.51.100.1 5555\r\n", b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
           b"PROXY TCP4 192.0.2.7 198.51.100.1 70000 443\r\n", b"PROXY TCP5 x\r\n", b"PROXY " + b"x" * 200,
           b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", v2(tlvs=crc), SIGNATURE + b"\x31\x11\0\x0c" + b"\0" * 12,
           SIGNATURE + b"\x21\x11\0\x04" + b"\0" * 4, v2(tlvs=b"\x05\xff\xff"))
    for ix, data in enumerate(bad):
        with Client(port) as c:
            c.send(data)
            assert c.wait_closed() == b"", data
        until(lambda n=ix + 1: p.end_cnt("proxy_malformed") == n, 5, f"{data!r} counted")
    assert not o.requests
    with Client(port) as c:  # none at all: the deadline
        assert c.wait_closed() == b""
    until(lambda: p.end_cnt("hello_timeout") == 1, 5, "the deadline counted")
    until(lambda: p.metric("smartproxy_proxy_header_rejects_total") == len(bad), 10, "counted: smartproxy_proxy_header_rejects_total")
    until(lambda: p.command.count("PROXY header refused.*peer=127.0.0.1:.*reason=bad_checksum") == 1, 5, "the log names peer and reason")


def test_an_untrusted_peer_that_lies_is_closed_and_one_that_does_not_is_served(t):
    p, port, o = proxied(t, trusted=("192.0.2.0/24",))
    for data in (b"PROXY TCP4 1.2.3.4 198.51.100.1 5555 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                 v2() + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        with Client(port) as c:
            c.send(data)
            assert c.wait_closed() == b""
    until(lambda: p.end_cnt("proxy_untrusted") == 2, 5, "both counted")
    assert not o.requests
    with Client(port) as c:
        assert c.get("/").status == 200
        assert o.last.header("x-forwarded-for") == "127.0.0.1"
    with Client(port) as c:  # begins like one and is none
        assert c.request("PUT", "/").response().status == 200


def test_lies_do_not_flood_the_log(t):
    p, port, _ = proxied(t, trusted=("192.0.2.0/24",), workers=1)
    begin = time.monotonic()
    for _ in range(200):
        with Client(port) as c:
            c.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 443\r\n")
            c.wait_closed()
    seconds = int(time.monotonic() - begin) + 1
    until(lambda: p.end_cnt("proxy_untrusted") == 200, 5, "all are counted")
    p.wait_log("PROXY header refused")
    assert p.command.count("PROXY header refused") <= 10 * (seconds + 1), f"{seconds} s\n{p.log_tail(50)}"


def test_trust_before_tls_passthrough_and_tcp(t):
    ca = make_ca(t.dir)
    cert = make_leaf(t.dir, "a", ["a.test"], ca)
    origin = TcpServer(t, lambda peer: peer.send(b"raw"), wants_proxy=True)
    secret = TcpServer(t, lambda peer: peer.send(b"tls"), tls=cert)
    port, raw = t.port(), t.port()
    p = t.proxy([respond("own", [port], "own", domains=["own.test"], tls=static_tls(*make_leaf(t.dir, "own", ["own.test"], ca))),
                 passthrough("pass", [port], [secret.port], ["a.test"]),
                 tcp("raw", [raw], [{"host": "127.0.0.1", "port": origin.port, "proxy_protocol": "v2"}])],
                listeners=(trust(port, "127.0.0.0/8"), trust(raw, "127.0.0.0/8")))
    context = tls_context(ca_file=ca[0])

    def connect(name):
        s = socket.create_connection(("127.0.0.1", port), 15)
        s.sendall(v2())
        return context.wrap_socket(s, server_hostname=name)
    with connect("own.test") as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: own.test\r\nConnection: close\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
        (view,) = [v for v in p.connections() if v["client"].startswith("192.0.2.7")] or [None]
        assert view is None or view["peer"].startswith("127.0.0.1:")
    with connect("a.test") as s:
        assert s.recv(16) == b"tls"
    with Client(raw) as c:
        c.send(v2(tlvs=tlv(5, b"unique") + tlv(2, b"b.test")))
        assert c.wait_closed() == b"raw"
    source, source_port, found = parse_v2(origin.peers[0].proxy)
    assert (source, source_port) == ("192.0.2.7", 5555)
    assert found[5] == b"unique" and found[2] == b"b.test" and 3 in found, found


def test_headers_to_targets_of_both_versions(t):
    ca = make_ca(t.dir)
    one = TcpServer(t, lambda peer: peer.send(b"1"), wants_proxy=True)
    two = TcpServer(t, lambda peer: peer.send(b"2"), wants_proxy=True)
    port1, port2, port3, port4 = (t.port() for _ in range(4))
    cert = make_leaf(t.dir, "a", ["a.test"], ca)
    t.proxy([tcp("v1", [port1], [{"host": "127.0.0.1", "port": one.port, "proxy_protocol": "v1"}]),
             tcp("v2", [port2], [{"host": "127.0.0.1", "port": two.port, "proxy_protocol": "v2"}]),
             tcp("tls", [port3], [{"host": "127.0.0.1", "port": two.port, "proxy_protocol": "v2"}], ["a.test"], static_tls(*cert)),
             passthrough("pass", [port4], [{"host": "127.0.0.1", "port": two.port, "proxy_protocol": "v2"}], ["a.test"])])
    with Client(port1) as c:
        mine = c.sock.getsockname()[1]
        assert c.wait_closed() == b"1"
    assert one.peers[0].proxy == b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n" % (mine, port1)
    with Client(port2) as c:
        mine = c.sock.getsockname()[1]
        assert c.wait_closed() == b"2"
    assert parse_v2(two.peers[0].proxy)[:2] == ("127.0.0.1", mine)
    with Client(port3, tls=tls_context(ca_file=ca[0]), server_name="a.test") as c:
        assert c.sock.recv(1) == b"2"
    found = parse_v2(two.peers[1].proxy)[2]
    assert found[2] == b"a.test" and found[0x20][0] & 1 and b"TLSv1.3" in found[0x20], found
    with socket.create_connection(("127.0.0.1", port4), 15) as s:
        context = tls_context(verify=False, alpn=["h2"])
        out = ssl.MemoryBIO()
        obj = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="a.test")
        try:
            obj.do_handshake()
        except ssl.SSLWantReadError:
            pass
        s.sendall(out.read())
        assert s.recv(1) == b"2"
    found = parse_v2(two.peers[2].proxy)[2]
    assert found[2] == b"a.test", found


def test_requests_with_a_header_do_not_share_a_connection_to_the_target(t):
    o = t.origin(echo)
    inner, port = t.port(), t.port()
    p = t.proxy([forward("outer", [port], [{"host": "127.0.0.1", "port": inner, "proxy_protocol": "v2"}]),
                 forward("inner", [inner], [o.port])], listeners=(trust(inner, "127.0.0.1"),))
    for ip in ("127.0.0.1", "127.0.0.1"):
        with Client(port, host=ip) as c:
            for _ in range(3):
                assert c.get("/").status == 200
                assert o.last.header("x-forwarded-for") == "127.0.0.1"
    assert p.metric("smartproxy_proxy_headers_total") >= 2


def test_haproxy_in_front_and_behind(t):
    o = t.origin(echo)
    ours, front, behind = t.port(), t.port(), t.port()
    for version in ("send-proxy", "send-proxy-v2"):
        haproxy(t, f"listen f\n  mode tcp\n  bind 127.0.0.1:{front}\n  server s 127.0.0.1:{ours} {version}\n", [front])
        p = t.proxy([forward("all", [ours], [{"host": "127.0.0.1", "port": behind, "proxy_protocol": version[5:].replace("proxy-", "")
                                              if version.endswith("v2") else "v1"}])], listeners=(trust(ours, "127.0.0.0/8"),))
        haproxy(t, f"listen b\n  mode http\n  bind 127.0.0.1:{behind} accept-proxy\n  http-request set-header X-Seen %[src]:%[src_port]\n"
                   f"  server s 127.0.0.1:{o.port}\n", [])
        with Client(front) as c:
            mine = c.sock.getsockname()[1]

            def ask():
                return c.get("/").status == 200
            until(ask, 10, "HAProxy behind answers")
            assert o.last.header("x-seen") == f"127.0.0.1:{mine}", o.last.headers
        p.stop()
        ours, front, behind = t.port(), t.port(), t.port()


def test_nginx_in_front_and_behind(t):
    o = t.origin(echo)
    ours, front, behind = t.port(), t.port(), t.port()
    nginx(t, http=f"server {{ listen 127.0.0.1:{behind} proxy_protocol; location / {{ proxy_pass http://127.0.0.1:{o.port}; "
                  f"proxy_set_header X-Seen $proxy_protocol_addr:$proxy_protocol_port; }} }}", ports=[behind])
    nginx(t, stream=f"server {{ listen 127.0.0.1:{front}; proxy_pass 127.0.0.1:{ours}; proxy_protocol on; }}", ports=[])
    t.proxy([forward("all", [ours], [{"host": "127.0.0.1", "port": behind, "proxy_protocol": "v1"}])],
            listeners=(trust(ours, "127.0.0.1"),))
    until(lambda: socket.create_connection(("127.0.0.1", front), 1).close() or True, 10, "nginx in front")
    with Client(front) as c:
        mine = c.sock.getsockname()[1]
        assert c.get("/").status == 200
        assert o.last.header("x-seen") == f"127.0.0.1:{mine}", o.last.headers


if __name__ == "__main__":
    main()
