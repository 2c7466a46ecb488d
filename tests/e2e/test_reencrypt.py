"""terminate-and-reencrypt: TLS towards targets, verified unless said otherwise, with Python, nginx and OpenSSL behind."""
import hashlib
import os
import socket
import ssl
import subprocess

from sp import main
from sp.client import Client, tls_context
from sp.conf import forward, reencrypt, tcp, to_upstream, upstream
from sp.load import burst
from sp.origin import answer, echo, fixed
from sp.pebble import make_ca, make_leaf
from sp.peers import nginx
from sp.process import die_with_parent
from sp.tcp import TcpServer
from sp.tcp import echo as tcp_echo
from sp.wait import until


class Pki:
    """The proxy's own certificate for a.test, and an inner CA for targets."""

    def __init__(self, t):
        self.t = t
        self.front = make_leaf(t.dir, "front", ["a.test"])
        self.ca = make_ca(t.dir, "inner")
        self.cnt = 0

    def leaf(self, *names, ca=True, **options):
        """(chain file, key file) of a target."""
        self.cnt += 1
        return make_leaf(self.t.dir, f"leaf{self.cnt}", list(names), self.ca if ca is True else ca, **options)

    def tls(self, **options):
        """The tls group of a route: the inner CA is trusted, unless said otherwise."""
        options.setdefault("ca_file", self.ca[0])
        return reencrypt(*self.front, **{k: v for k, v in options.items() if v is not None})


def route(pki, port, targets, name="r", **options):
    return forward(name, [port], targets, ["a.test"], tls=pki.tls(**options))


def ask(port, target="/", method="GET", body=None, headers=()):
    with Client(port, tls=tls_context(verify=False), server_name="a.test", timeout_s=30) as c:
        c.request(method, target, "a.test", headers, body)
        return c.response(method)


def ends(p, reason):
    return p.metric("smartproxy_exchanges_total", f'end="{reason}"')


def server_context(leaf, **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*leaf)
    for key, value in options.items():
        setattr(context, key, value)
    return context


def end_tls(sock, is_notified):
    """The server's end, with or without close_notify; does not wait for the other one's."""
    if is_notified:
        sock.settimeout(30)
        try:
            sock.unwrap()
        except (OSError, ValueError):
            pass
    sock.close()


# ---- what is served ----

def test_right_name_and_authority_and_connections_are_pooled(t):
    pki = Pki(t)
    origin = t.origin(echo, tls=pki.leaf("inner.test"))
    port = t.port()
    p = t.proxy([route(pki, port, [origin.port], server_name="inner.test")], workers=1)
    with Client(port, tls=tls_context(verify=False), server_name="a.test") as c:
        for ix in range(10):
            response = c.get(f"/{ix}", "a.test")
            assert response.status == 200 and response.header("x-connection") == "0", response
    for _ in range(5):
        assert ask(port).header("x-connection") == "0"
    assert len(origin.connections) == 1
    assert origin.last.header("host") == "a.test" and origin.last.header("x-forwarded-proto") == "https"
    view = p.target(origin.port)
    assert view["tls"] and view["idle"] == 1 and view["last_failure"] is None, view
    until(lambda: p.metric("smartproxy_target_requests_total", 'tls="1"') == 15, 10, "counted: smartproxy_target_requests_total")


def test_new_connections_resume_the_session(t):
    pki = Pki(t)
    leaf = pki.leaf("inner.test")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        resumed = []

        def script(c, r):
            resumed.append(c.sock.session_reused)
            fixed(b"x")(c, r)
        origin = t.origin(script, tls=server_context(leaf, maximum_version=version))
        port = t.port()
        p = t.proxy([route(pki, port, [origin.port], server_name="inner.test")], workers=1, limits={"idle_upstream": 0})
        for _ in range(6):
            assert ask(port).status == 200
        assert len(origin.connections) == 6
        assert resumed[0] is False and resumed[1:] == [True] * 5, (version, resumed)
        p.put_routes(p.config["routes"])  # an update changes nothing of it
        assert ask(port).status == 200 and resumed[-1]
        p.stop()


def test_an_address_is_verified_as_an_address(t):
    pki = Pki(t)
    good, v6, named = (t.origin(tls=pki.leaf(name), host=host) for name, host in
                       (("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")))
    port = t.port()
    p = t.proxy([forward("good", [port], [good.port], ["a.test"], "/good", pki.tls()),
                 forward("v6", [port], [("::1", v6.port)], ["a.test"], "/v6", pki.tls()),
                 forward("localhost", [port], [("localhost", named.port)], ["a.test"], "/localhost", pki.tls()),
                 forward("bad", [port], [named.port], ["a.test"], "/bad", pki.tls())])
    for path in ("/good", "/v6", "/localhost"):
        assert ask(port, path).status == 200, path
    assert ask(port, "/bad").status == 502
    assert any(u["last_failure"] and u["last_failure"]["reason"] == "tls_verify" for u in p.upstreams())


# ---- what is refused ----

def check_refused(t, pki, leaf, why, **options):
    origin = t.origin(tls=leaf)
    port = t.port()
    options.setdefault("server_name", "inner.test")
    p = t.proxy([route(pki, port, [origin.port], **options)], workers=1)
    response = ask(port)
    assert response.status == 502, response
    response = ask(port, "/", "POST", b"secret")
    assert response.status == 502, response
    assert not origin.requests, "it was asked although it does not verify"
    view = p.target(origin.port)
    assert view["last_failure"]["reason"] == "tls_verify" and why in view["last_failure"]["message"], view
    assert view["failures"] == 2, view
    until(lambda: ends(p, "upstream_tls") == 2, 10, "counted: upstream_tls")
    p.wait_log(f'target\'s certificate does not verify conn=[0-9]+ route=r target=127.0.0.1:{origin.port} why=".*{why}')
    p.stop()


def test_certificates_that_do_not_verify_are_never_served(t):
    pki = Pki(t)
    other = make_ca(t.dir, "other")
    check_refused(t, pki, pki.leaf("inner.test", ca=other), "unable to get local issuer certificate")
    check_refused(t, pki, pki.leaf("wrong.test"), "ostname mismatch")
    check_refused(t, pki, pki.leaf("inner.test"), "ostname mismatch", server_name="sub.inner.test")
    check_refused(t, pki, pki.leaf("*.inner.test"), "ostname mismatch", server_name="a.b.inner.test")
    check_refused(t, pki, pki.leaf("inner.test", days=-1), "certificate has expired")
    check_refused(t, pki, pki.leaf("inner.test", ca=None), "self-signed certificate")
    check_refused(t, pki, pki.leaf("inner.test"), "ocal issuer", ca_file=None)  # the system's store does not have it
    check_refused(t, pki, pki.leaf("localhost"), "mismatch", server_name=None)


def test_verify_false_serves_what_does_not_verify(t):
    pki = Pki(t)
    for leaf in (pki.leaf("wrong.test", ca=None), pki.leaf("inner.test", days=-1)):
        origin = t.origin(tls=leaf)
        port = t.port()
        p = t.proxy([route(pki, port, [origin.port], verify=False, ca_file=None)], workers=1)
        assert ask(port).status == 200
        assert len(origin.requests) == 1
        # The same target with verification is another one: neither connections nor sessions are shared.
        assert p.put_routes([route(pki, port, [origin.port], server_name="inner.test")]).status == 200
        for _ in range(3):
            assert ask(port).status == 502
        assert len(origin.requests) == 1
        p.stop()


def test_wildcards_and_a_name_for_many_targets(t):
    pki = Pki(t)
    origins = [t.origin(tls=pki.leaf("*.inner.test", "other.test")) for _ in range(3)]
    port = t.port()
    t.proxy([route(pki, port, [o.port for o in origins], server_name="x.inner.test")])
    for _ in range(12):
        assert ask(port).status == 200
    assert sum(len(o.requests) for o in origins) == 12


def test_a_target_that_does_not_verify_is_passed_over(t):
    pki = Pki(t)
    bad, good = t.origin(tls=pki.leaf("wrong.test")), t.origin(tls=pki.leaf("inner.test"))
    port = t.port()
    group = upstream("app", [bad.port, good.port], balance="round-robin", ejection={"failures": 2, "time": "60s"})
    p = t.proxy([to_upstream("r", [port], "app", ["a.test"], tls=pki.tls(server_name="inner.test"))], upstreams=(group,), workers=1)
    for _ in range(8):
        assert ask(port, "/", "POST", b"x").status == 200  # nothing was sent to the bad one
    assert not bad.requests
    view = p.target(bad.port)
    assert view["state"] == "ejected" and view["failures"] == 2, view


def test_a_plain_target_where_tls_is_expected(t):
    pki = Pki(t)
    plain = TcpServer(t, lambda peer: (peer.recv(), peer.send(answer(400, b"what is this?"))))
    babble, mute = TcpServer(t, lambda peer: peer.send(b"220 hello\r\n")), TcpServer(t, lambda peer: peer.recv())
    hung = TcpServer(t, lambda peer: peer.recv_all())
    port = t.port()
    p = t.proxy([forward(f"r{ix}", [port], [target.port], ["a.test"], f"/{ix}", pki.tls())
                 for ix, target in enumerate((plain, babble, mute, hung))], timeouts={"connect": "500ms"})
    for ix, target in enumerate((plain, babble, mute)):
        assert ask(port, f"/{ix}").status == 502, ix
        assert p.target(target.port)["last_failure"]["reason"] in ("tls", "closed"), p.target(target.port)
    assert ask(port, "/3").status == 504  # the handshake is part of the connect
    assert p.target(hung.port)["last_failure"]["reason"] == "connect_timeout"
    until(lambda: ends(p, "upstream_tls") == 3, 10, "counted: upstream_tls")
    p.wait_log("TLS with target failed.*does this port speak TLS")


def test_an_old_version_of_tls_is_refused(t):
    pki = Pki(t)
    t.need("openssl")
    back = s_server(t, pki.leaf("inner.test"), "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    port = t.port()
    p = t.proxy([route(pki, port, [back], server_name="inner.test")])
    assert ask(port).status == 502
    assert p.target(back)["last_failure"]["reason"] == "tls", p.target(back)


# ---- client certificates ----

def test_a_target_that_wants_a_client_certificate(t):
    pki = Pki(t)
    chain, key = pki.leaf("proxy.test")
    seen = []

    def script(c, _r):
        seen.append(dict(part[0] for part in c.sock.getpeercert()["subject"])["commonName"])
        c.send(answer(200, b"known"))
    context = server_context(pki.leaf("inner.test"), verify_mode=ssl.CERT_REQUIRED)
    context.load_verify_locations(pki.ca[0])
    origin = t.origin(script, tls=context)
    port = t.port()
    with_one = route(pki, port, [origin.port], server_name="inner.test", certificate={"chain_file": chain, "key_file": key})
    p = t.proxy([with_one])
    assert ask(port).body == b"known" and seen == ["proxy.test"]
    assert p.put_routes([route(pki, port, [origin.port], server_name="inner.test")]).status == 200
    assert ask(port).status == 502 and len(seen) == 1
    assert p.put_routes([with_one]).status == 200
    assert ask(port).body == b"known" and seen[-1] == "proxy.test"
    absent = route(pki, port, [origin.port], certificate={"chain_file": chain + ".absent", "key_file": key})
    refused = p.put_routes([absent])
    assert refused.status in (400, 422) and chain + ".absent" in refused.text, refused.text
    assert ask(port).body == b"known"


# ---- updates ----

def test_another_authority_holds_after_a_reload(t):
    pki = Pki(t)
    other = make_ca(t.dir, "other")
    origin = t.origin(tls=pki.leaf("inner.test"))
    bundle = t.path("bundle.pem")

    def trust(*cas):
        with open(bundle, "wb") as f:
            for ca in cas:
                with open(ca[0], "rb") as one:
                    f.write(one.read())
    trust(other, pki.ca)
    port = t.port()
    p = t.proxy([route(pki, port, [origin.port], server_name="inner.test", ca_file=bundle)])
    assert ask(port).status == 200
    trust(other)
    assert p.reload().status == 200
    assert ask(port).status == 502  # neither the pool nor a session of before
    trust(pki.ca)
    assert p.reload().status == 200
    assert ask(port).status == 200
    for text in ("", "garbage"):
        with open(bundle, "w") as f:
            f.write(text)
        refused = p.reload()
        assert refused.status != 200 and bundle in refused.text, refused.text
        assert ask(port).status == 200
    until(lambda: len(p.upstreams()) == 1, 10, "one target is left")


# ---- traffic ----

def test_ten_megabytes_both_ways(t):
    pki = Pki(t)
    origin = t.origin(echo, tls=pki.leaf("inner.test"))
    port = t.port()
    p = t.proxy([route(pki, port, [origin.port], server_name="inner.test")])
    body = os.urandom(1 << 20) * 10
    for sent in (body, [body[ix:ix + 100000] for ix in range(0, len(body), 100000)]):
        response = ask(port, "/", "POST", sent)
        assert response.status == 200 and hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()
    assert burst(8, lambda ix: len(ask(port, "/", "POST", body[:1 << 20]).body)) == [1 << 20] * 8
    until(lambda: p.metric("smartproxy_target_in_flight") == 0, 10, "all ended")


def test_tls_to_raw_tcp_in_tls_again(t):
    pki = Pki(t)
    origin = TcpServer(t, lambda peer: (tcp_echo(peer), end_tls(peer.sock, True)), tls=pki.leaf("inner.test"))
    bad = TcpServer(t, tcp_echo, tls=pki.leaf("wrong.test"))
    port = t.port()
    p = t.proxy([tcp("good", [port], [origin.port], ["a.test"], pki.tls(server_name="inner.test")),
                 tcp("bad", [port], [bad.port], ["b.test"], pki.tls(server_name="inner.test"))])
    block = os.urandom(1 << 20)
    with Client(port, tls=tls_context(verify=False), server_name="a.test") as c:
        def exchange(_):
            c.send(block[:50000])
            got = b""
            while len(got) < 50000:
                got += c.sock.recv(65536)
            return got == block[:50000]
        assert all(exchange(ix) for ix in range(40))
        view, = [v for v in p.connections() if v["kind"] == "tunnel"]
        assert view["upstream"].endswith(str(origin.port)) and view["bytes_in"] == 40 * 50000, view
        c.sock.unwrap().close()
    origin.wait_ended(1)
    with Client(port, tls=tls_context(verify=False), server_name="b.test") as c:
        assert c.wait_closed() == b""
    until(lambda: p.end_cnt("upstream_tls") == 1, 10, "told")
    assert not bad.peers[0].got_bytes and p.target(bad.port)["last_failure"]["reason"] == "tls_verify"
    until(lambda: p.metric("smartproxy_tunnels_open") == 0, 10, "no tunnel left")


def read_tls(c):
    """(bytes, whether the end came with close_notify)."""
    data = b""
    while True:
        try:
            part = c.sock.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            return data, False
        if not part:
            return data, True
        data += part


def test_an_answer_that_ends_with_tls_needs_its_close_notify(t):
    """Anybody on the way can send a FIN. Answers that say their length, or are chunked, need none."""
    pki = Pki(t)
    heads = {"/close": b"", "/sized": b"Content-Length: 4\r\n", "/chunked": b"Transfer-Encoding: chunked\r\n"}

    def script(c, r):
        body = b"4\r\nbody\r\n0\r\n\r\n" if r.target == "/chunked" else b"body"
        c.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + heads[r.target] + b"\r\n" + body)
        c.is_closed = True
        end_tls(c.sock, r.header("X-Notified"))
    origin = t.origin(script, tls=server_context(pki.leaf("inner.test")))
    port = t.port()
    p = t.proxy([route(pki, port, [origin.port], server_name="inner.test")], workers=1)
    context = tls_context(verify=False)
    for target in heads:
        for version in ("1.1", "1.0"):
            for notified in ([], [("X-Notified", "yes")]):
                is_whole = target != "/close" or bool(notified)
                with Client(port, tls=context, server_name="a.test") as c:
                    c.sock.suppress_ragged_eofs = False
                    c.request("GET", target, "a.test", notified + [("Connection", "close")], version=version)
                    data, is_clean = read_tls(c)
                assert is_clean == is_whole, (target, version, notified, data)
                assert version == "1.0" or data.endswith(b"0\r\n\r\n" if target != "/sized" else b"body") == is_whole, data
    assert (ends(p, "upstream_gone"), ends(p, "done")) == (2, 10)
    message = p.target(origin.port)["last_failure"]["message"]
    assert message == "closed within its answer, TLS without close_notify", message


def test_a_tunnel_passes_on_how_tls_ended(t):
    pki = Pki(t)

    def handler(peer):
        word = peer.recv_exact(3)
        peer.send(b"half of it")
        peer.is_closed = True
        end_tls(peer.sock, word == b"end")
    server = TcpServer(t, handler, tls=server_context(pki.leaf("inner.test")))
    port = t.port()
    p = t.proxy([tcp("r", [port], [server.port], ["a.test"], tls=pki.tls(server_name="inner.test"))])
    for word, is_whole in ((b"end", True), (b"cut", False)):
        with Client(port, tls=tls_context(verify=False), server_name="a.test") as c:
            c.sock.suppress_ragged_eofs = False
            c.send(word)
            assert read_tls(c) == (b"half of it", is_whole), word
    until(lambda: p.metric("smartproxy_tunnels_open") == 0, 10, "all ended")


def test_health_checks_over_https(t):
    pki = Pki(t)
    good, bad = t.origin(tls=pki.leaf("inner.test")), t.origin(tls=pki.leaf("wrong.test"))
    port = t.port()
    group = upstream("app", [good.port, bad.port], balance="round-robin",
                     check={"type": "https", "path": "/health", "interval": "1s", "timeout": "1s", "rise": 1, "fall": 1})
    p = t.proxy([to_upstream("r", [port], "app", ["a.test"], tls=pki.tls(server_name="inner.test"))], upstreams=(group,))
    until(lambda: p.target(bad.port)["state"] == "down", 20, "the bad one is down by its checks")
    until(lambda: p.target(good.port)["last_check"], 20, "the good one was checked")
    assert p.target(good.port)["state"] == "up", p.target(good.port)
    assert p.target(bad.port)["last_failure"]["reason"] == "tls_verify", p.target(bad.port)
    for _ in range(6):
        assert ask(port).status == 200
    assert not bad.requests
    good.stop()
    until(lambda: p.target(good.port)["state"] == "down", 20, "the good one is down")
    assert ask(port).status == 503
    t.origin(tls=pki.leaf("inner.test"), port=good.port)
    until(lambda: p.target(good.port)["state"] == "up", 20, "and up again")
    assert ask(port).status == 200


# ---- real servers ----

def s_server(t, leaf, *args):
    back = t.port()
    server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{back}", "-cert", leaf[0], "-key", leaf[1], "-www",
                               "-quiet", *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              preexec_fn=die_with_parent)
    t.cleanup(lambda: (server.kill(), server.wait()))
    until(lambda: socket.create_connection(("127.0.0.1", back), 1).close() or True, 10, "s_server")
    return back


def test_openssl_s_server_behind(t):
    t.need("openssl")
    pki = Pki(t)
    chain, key = pki.leaf("proxy.test")
    ports = [s_server(t, pki.leaf("inner.test"), *args) for args in
             (["-tls1_2"], ["-tls1_3"], ["-Verify", "2", "-verify_return_error", "-CAfile", pki.ca[0]])]
    port = t.port()
    certificate = {"chain_file": chain, "key_file": key}
    t.proxy([forward(f"r{ix}", [port], [back], ["a.test"], f"/{ix}", pki.tls(server_name="inner.test", certificate=certificate))
             for ix, back in enumerate(ports)])
    for ix, wanted in enumerate((b"TLSv1.2", b"TLSv1.3", b"proxy.test")):
        for _ in range(3):
            response = ask(port, f"/{ix}")
            assert response.status == 200 and wanted in response.body, (ix, response.body[:500])


def test_nginx_behind(t):
    pki = Pki(t)
    leaf = pki.leaf("inner.test")
    chain, key = pki.leaf("proxy.test")
    back = t.port()
    nginx(t, f"""
  server {{
    listen 127.0.0.1:{back} ssl;
    ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {leaf[0]}; ssl_certificate_key {leaf[1]};
    ssl_client_certificate {pki.ca[0]}; ssl_verify_client on;
    client_max_body_size 32m;
    location / {{
      return 200 "$ssl_server_name $ssl_client_verify $ssl_client_s_dn $connection_requests $ssl_protocol $ssl_session_reused";
    }}
  }}""", ports=[back])
    port = t.port()
    t.proxy([route(pki, port, [back], server_name="inner.test", certificate={"chain_file": chain, "key_file": key})], workers=1)
    texts = [ask(port).body.decode().split(" ") for _ in range(5)]
    for ix, words in enumerate(texts):
        assert words == ["inner.test", "SUCCESS", "CN=proxy.test", str(ix + 1), "TLSv1.3", "."], texts
    assert set(burst(30, lambda ix: ask(port, "/", "POST", b"x" * 100000).status)) == {200}


if __name__ == "__main__":
    main()
