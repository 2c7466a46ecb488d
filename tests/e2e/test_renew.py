"""Renewal with short certificates: the route returns once for all that is due, old ones serve until new ones are there."""
import time

from sp import main, slow, until
from sp.client import served_cert, tls_context
from sp.conf import AUTO, respond


def wish(name, port):
    return respond(name, [port], name, domains=[name + ".test"], tls=AUTO)


def serials(port, names):
    return {n: served_cert(port, n + ".test")["serial"] for n in names}


@slow
def test_all_that_is_due_is_renewed_in_one_cycle(t):
    ca = t.pebble(validity_s=30)
    port = t.port()
    names = ["a", "b", "c"]
    p = t.proxy([wish(n, port) for n in names], ca=ca)
    p.wait_certs(3)
    p.wait_route("absent")
    assert p.challenge_route()["activated"] == 1
    first = serials(port, names)
    until(lambda: all(first[n] != s for n, s in serials(port, names).items()), 25, "all renewed", 0.1)
    p.wait_route("absent")
    route = p.challenge_route()
    assert (route["activated"], route["removed"]) == (2, 2), route
    ca.check_one_order_each(6)


def test_renew_before_is_honoured(t):
    ca = t.pebble(validity_s=30)
    port = t.port()
    p = t.proxy([wish("a", port)], ca=ca, acme={"renew_before": "26s"})
    p.wait_certs(1)
    first = serials(port, ["a"])
    until(lambda: serials(port, ["a"]) != first, 12, "renewed", 0.1)


def test_a_certificate_that_expired_while_down_is_renewed_at_start(t):
    ca = t.pebble(validity_s=5)
    port = t.port()
    p = t.proxy([wish("a", port)], ca=ca)
    p.wait_certs(1)
    first = serials(port, ["a"])
    p.stop()
    end = time.time() + 6
    until(lambda: time.time() > end, 10, "expiry")
    p.start()
    until(lambda: serials(port, ["a"]) != first, 10, "renewed", 0.1)
    c = t.connect(port, tls=tls_context(ca.root_file()), server_name="a.test")
    assert c.get(host="a.test").status == 200


def test_a_failing_renewal_keeps_the_old_certificate(t):
    ca = t.pebble()
    fault = t.fault_proxy(ca)
    port = t.port()
    p = t.proxy([wish("a", port)], ca=fault)
    p.wait_certs(1)
    first = serials(port, ["a"])
    fault.rule("/order-plz", 1, status=403, body=b'{"type":"urn:ietf:params:acme:error:unauthorized","detail":"not today"}')
    assert p.api("POST", "/v1/certificates/renew?name=a.test").status == 200
    cert = until(lambda: next((c for c in p.certificates() if c["last_error"]), None), 10, "the failed renewal is shown", 0.1)
    assert "not today" in cert["last_error"] and cert["retry_at"] and cert["not_after"], cert
    assert serials(port, ["a"]) == first
    c = t.connect(port, tls=tls_context(ca.root_file()), server_name="a.test")
    assert c.get(host="a.test").body == b"a"
    assert p.api("POST", "/v1/certificates/renew?name=a.test").status == 200, "renew forgets the back-off"
    until(lambda: serials(port, ["a"]) != first, 10, "renewed", 0.1)


@slow
def test_no_handshake_ever_sees_an_expired_certificate(t):
    ca = t.pebble(validity_s=12)  # 4 s for a renewal
    port = t.port()
    names = ["a", "b", "c", "d"]
    p = t.proxy([wish(n, port) for n in names], ca=ca)
    p.wait_certs(4)
    root = ca.root_file()
    context = tls_context(root)
    begin, rss = time.monotonic(), None
    seen = set()
    handshakes = 0
    while time.monotonic() - begin < 40:
        for n in names:
            c = t.connect(port, tls=context, server_name=n + ".test") # verified: expired would raise
            seen.add(c.sock.getpeercert()["serialNumber"])
            c.close()
            handshakes += 1
        if rss is None and time.monotonic() - begin > 10:
            rss = p.rss_kib()
    assert len(seen) >= 4 * 4, f"{len(seen)} certificates in 40 s"
    p.check_growth(rss, 16)
    assert ca.invalid_authz_cnt() == 0


if __name__ == "__main__":
    main()
