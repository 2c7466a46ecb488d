"""A CA that is away, answers errors, cuts connections or talks nonsense; and names that fail while others go on."""
import email.utils
import glob
import json
import os
import time

from sp import main, slow, until
from sp.client import served_cert, tls_context
from sp.conf import AUTO, respond

ENDPOINTS = ("/dir$", "/nonce-plz", "/sign-me-up", "/order-plz", "/authZ/", "/chalZ/", "/finalize-order/", "/my-order/", "/certZ/")


def wish(name, port):
    return respond(name, [port], name, domains=[name + ".test"], tls=AUTO)


def setup(t, cnt=3, **options):
    ca = t.pebble(**options)
    return ca, t.fault_proxy(ca), t.port(), [f"n{ix}" for ix in range(cnt)]


def start(t, fault, port, names, **options):
    return t.proxy([wish(n, port) for n in names], ca=fault, **options)


def test_the_fault_proxy_is_no_hindrance(t):
    ca, fault, port, names = setup(t)
    p = start(t, fault, port, names)
    p.wait_certs(3)
    assert sorted(fault.orders()) == [(n + ".test",) for n in names]
    fault.check_nonces_fresh()
    assert len(fault.requests("/dir$")) <= 3
    ca.check_one_order_each(3)


@slow
def test_a_ca_that_is_away(t):
    """Issued 10 s after it is back, also when it was away for so long that the proxy looks for it as seldom as it ever will."""
    ca, fault, port, names = setup(t)
    fault.stop() # refused
    plain = t.port()
    p = t.proxy([wish(n, port) for n in names] + [respond("plain", [plain], "served")], ca=fault)
    assert t.connect(plain).get().body == b"served"
    cert = until(lambda: next((c for c in p.certificates() if c["last_error"]), None), 20, "an error is shown")
    assert cert["retry_at"] or cert["state"] != "valid", cert
    fault.rule("", 1000, cut="head")
    fault.start() # there, but nobody answers
    looks = []

    def is_seldom():
        while len(looks) < len(fault.requests("/dir$")):
            looks.append(time.monotonic())
        return len(looks) > 1 and looks[-1] - looks[-2] > 3.5
    until(is_seldom, 60, "it is looked for after 4 s only")
    fault.clear()
    p.wait_certs(3, 10)
    ca.check_one_order_each(3)


def endpoint_fault(t, count, **what):
    ca, fault, port, names = setup(t, 2)
    for path in ENDPOINTS:
        fault.rule(path, count, **what)
    p = start(t, fault, port, names)
    p.wait_certs(2, 100)
    fault.check_nonces_fresh()
    assert ca.invalid_authz_cnt() == 0
    root = ca.root_file()
    for n in names:
        c = t.connect(port, tls=tls_context(root), server_name=n + ".test")
        assert c.get(host=n + ".test").body == n.encode()
    return ca, fault


def test_500_once_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, status=500, body=b"Internal Server Error")
    assert ca.order_cnt() == 2


@slow
def test_503_with_retry_after_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, status=503, headers={"Retry-After": "1"}, body=b"<html>busy</html>")
    assert ca.order_cnt() == 2


def test_connections_cut_before_the_request_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, cut="head")
    assert ca.order_cnt() == 2


@slow
def test_connections_cut_before_the_answer_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, cut="answer")
    assert ca.order_cnt() <= 3 # the order whose answer was lost cannot be known


@slow
def test_truncated_json_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, truncate=20)
    assert ca.order_cnt() <= 3


@slow
def test_foreign_bodies_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 1, replace=b"<html><body>Welcome to the hotel's network</body></html>")
    assert ca.order_cnt() <= 3


@slow
def test_foreign_json_at_every_endpoint(t):
    for body in (b"[]", b'{"status":5,"authorizations":"x","newNonce":{},"finalize":[]}'):
        ca, _ = endpoint_fault(t, 1, replace=body)
        assert ca.order_cnt() <= 3
        ca.stop()


@slow
def test_errors_in_foreign_json_at_every_endpoint(t):
    """As a gateway before the CA may tell them: no problem document, so nothing is wrong with the order."""
    ca, _ = endpoint_fault(t, 1, status=400, body=b'{"error":"upstream","code":17}')
    assert ca.order_cnt() == 2


@slow
def test_latency_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 2, delay_s=0.7)
    assert ca.order_cnt() == 2


@slow
def test_500_three_times_at_every_endpoint(t):
    ca, _ = endpoint_fault(t, 3, status=500, body=b"no")
    assert ca.order_cnt() <= 4


def rate_limited(t, retry_after):
    ca, fault, port, names = setup(t, 1)
    fault.rule("/order-plz", 1, status=429, headers={"Retry-After": retry_after(), "Content-Type": "application/problem+json"},
               body=b'{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates today","status":429}')
    p = start(t, fault, port, names)
    cert = until(lambda: next((c for c in p.certificates() if "too many certificates today" in (c["last_error"] or "")), None), 10,
                 "the CA's own words")
    assert cert["retry_at"], cert
    begin = time.monotonic()
    cnt = len(fault.requests("/order-plz"))
    p.wait_certs(1, 30)
    waited = time.monotonic() - begin
    assert cnt == 1 and waited >= 1.0, f"asked again after {waited} s"
    assert ca.order_cnt() == 1


def test_429_with_retry_after_in_seconds(t):
    rate_limited(t, lambda: "3")


@slow
def test_429_with_retry_after_as_a_date(t):
    rate_limited(t, lambda: email.utils.formatdate(time.time() + 4, usegmt=True))


def test_a_rate_limit_survives_a_restart(t):
    ca, fault, port, names = setup(t, 1)
    fault.rule("/order-plz", 1, status=429, headers={"Retry-After": "600"},
               body=b'{"type":"urn:ietf:params:acme:error:rateLimited","detail":"slow down","status":429}')
    p = start(t, fault, port, names)
    until(lambda: p.certificates()[0]["last_error"], 10, "the refusal")
    p.stop()
    p.start()
    cert = until(lambda: p.certificates()[0] if p.certificates()[0]["retry_at"] else None, 5, "the time of the next try")
    assert cert["state"] == "failed", cert
    assert len(fault.requests("/order-plz")) == 1
    assert ca.order_cnt() == 0


def stored_email(p):
    with open(glob.glob(p.state_dir + "/accounts/*/account.json")[0]) as f:
        return json.load(f)["contact"]


def set_email(p, address):
    p.config["acme"]["email"] = address
    p.write()


def test_a_new_e_mail_address_reaches_the_ca(t):
    _, fault, port, names = setup(t, 1)
    p = start(t, fault, port, names, acme={"email": "one@x.test"})
    p.wait_certs(1)

    def told():
        return [json.loads(r.payload)["contact"] for r in fault.requests("/my-account") if r.status == 200]
    assert told() == [] and stored_email(p) == "one@x.test"
    p.stop()
    set_email(p, "two@x.test")  # changed while we were not there
    p.start()
    until(lambda: stored_email(p) == "two@x.test", 10, "the second address is with the CA")
    assert told() == [["mailto:two@x.test"]]
    # Refused, and tried again by itself; what the CA has not taken is not kept as taken.
    fault.rule("/my-account", 1, status=429, headers={"Retry-After": "2"},
               body=b'{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many updates","status":429}')
    set_email(p, "three@x.test")
    assert p.reload().status == 200
    p.wait_log("did not take the new e-mail address: .*too many updates kind=rate-limit retry_at=")
    assert stored_email(p) == "two@x.test"
    until(lambda: stored_email(p) == "three@x.test", 10, "the third address is with the CA")
    assert told() == [["mailto:two@x.test"], ["mailto:three@x.test"]]
    # An account that is found again by its key has the address of before.
    p.stop()
    os.unlink(glob.glob(p.state_dir + "/accounts/*/account.json")[0])
    set_email(p, "four@x.test")
    p.start()
    assert p.api("POST", "/v1/certificates/renew").status == 200
    until(lambda: ["mailto:four@x.test"] in told(), 10, "the fourth address is with the CA")
    until(lambda: stored_email(p) == "four@x.test", 5, "it is on disk")
    p.stop()
    p.start()
    p.wait_certs(1)
    p.settle()
    assert len(told()) == 3, told()


@slow
def test_a_new_e_mail_address_while_the_ca_is_away(t):
    _, fault, port, names = setup(t, 1)
    p = start(t, fault, port, names, acme={"email": "one@x.test"})
    p.wait_certs(1)
    p.stop()
    fault.stop()
    set_email(p, "two@x.test")
    p.start()
    p.wait_log("did not take the new e-mail address: .* kind=network retry_at=", 40)
    assert stored_email(p) == "one@x.test"
    fault.start()
    until(lambda: stored_email(p) == "two@x.test", 20, "the CA has it when it is back")


def test_one_failing_name_does_not_stop_the_others(t):
    ca, fault, port, names = setup(t, 10)
    ca.set_servfail("n3.test")
    ca.set_address("n4.test", "192.0.2.1") # nothing there
    p = start(t, fault, port, names)
    p.wait_certs(8, 40)
    p.wait_certs(2, 40, "failed")
    for c in p.certificates():
        if c["names"] in (["n3.test"], ["n4.test"]):
            assert c["state"] == "failed" and c["retry_at"] and c["failures"] == 1, c
            assert c["last_error"], c
    assert p.challenge_route()["activated"] == 1
    # The placeholder goes on for the failed one.
    assert served_cert(port, "n3.test")["names"] == ["n3.test"]


def test_errors_of_the_ca_are_escaped(t):
    _, fault, port, names = setup(t, 1)
    fault.rule("/order-plz", 100, status=403, body=b'{"type":"urn:ietf:params:acme:error:unauthorized","detail":"no\\u001b[31m\\nx","status":403}')
    p = start(t, fault, port, names)
    cert = until(lambda: p.certificates()[0] if p.certificates()[0]["last_error"] else None, 10, "the refusal")
    assert "\x1b" not in cert["last_error"] and "\n" not in cert["last_error"], cert
    assert "\x1b" not in p.log_text()


def test_a_ca_that_forgot_the_account(t):
    ca, fault, port, names = setup(t, 1)
    p = start(t, fault, port, names)
    p.wait_certs(1)
    p.stop()
    ca.stop_server()
    ca.start()
    p.start()
    assert p.put_routes([wish(n, port) for n in names + ["later"]]).status == 200
    p.wait_certs(2, 40)
    root = ca.root_file()
    c = t.connect(port, tls=tls_context(root), server_name="later.test")
    assert c.get(host="later.test").status == 200


def test_a_ca_that_dies_in_the_middle(t):
    ca, fault, port, names = setup(t, 3, nosleep=False, sleeptime=2)
    p = start(t, fault, port, names)
    until(lambda: ca.order_cnt() >= 1, 10, "an order")
    fault.stop()
    until(lambda: any(c["last_error"] for c in p.certificates()) or len(fault.passed) > 5, 20, "it is noticed")
    fault.start()
    p.wait_certs(3, 60)
    assert ca.order_cnt() <= 6 and ca.invalid_authz_cnt() == 0


@slow
def test_a_ca_that_stalls_in_the_middle(t):
    """It takes requests and answers none, as one whose database hangs: each is repeated after its time-out."""
    ca, fault, port, names = setup(t, 40)
    p = start(t, fault, port, names)
    until(lambda: ca.order_cnt() >= 8, 10, "orders")
    fault.rule("", 1000, stall=True)
    p.wait_log("acme: no usable answer from the CA, trying again: .*timed out", 45)
    fault.clear()
    p.wait_certs(40, 60)
    fault.check_nonces_fresh()
    ca.check_one_order_each(40)


def test_an_untrusted_ca_is_refused(t):
    ca, fault, port, names = setup(t, 1)
    p = t.proxy([wish(n, port) for n in names], acme={"directory": fault.directory, "port": ca.http_port})
    cert = until(lambda: p.certificates()[0] if p.certificates()[0]["last_error"] else None, 20, "the refusal")
    assert "certificate" in cert["last_error"].lower(), cert
    assert not fault.passed


def test_huge_answers_are_cut_off(t):
    ca, fault, port, names = setup(t, 1)
    fault.rule("/dir$", 1, status=200, body=b" " * (64 << 20))
    p = start(t, fault, port, names)
    before = p.rss_kib()
    p.wait_certs(1, 60)
    p.check_growth(before, 48)
    ca.check_one_order_each(1)


if __name__ == "__main__":
    main()
