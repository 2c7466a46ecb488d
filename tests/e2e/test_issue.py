"""First issuance by ACME, http-01, against Pebble: one name, several names, key types, many orders."""
import glob
import os
import ssl
import stat

from sp import main, slow, until
from sp.client import Client, Closed, served_cert, tls_context
from sp.conf import AUTO, block, redirect, respond


def https_route(name, port, domains, **tls):
    return respond(name, [port], name, domains=domains, tls={**AUTO, **tls})


def fetch(t, port, root, name):
    c = t.connect(port, tls=tls_context(root), server_name=name)
    r = c.get(host=name)
    c.close()
    return r


def test_one_name_from_start_to_served(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([https_route("one", port, ["one.test"])], ca=ca, acme={"email": "ops@one.test"})
    cert = p.wait_certs(1)[0]
    assert cert["names"] == ["one.test"] and "Pebble" in cert["issuer"] and cert["key_type"] == "p256", cert
    assert not cert["last_error"] and cert["not_after"]
    assert fetch(t, port, ca.root_file(), "one.test").body == b"one"
    ca.check_one_order_each(1)
    route = p.challenge_route()
    p.wait_route("absent")
    route = p.challenge_route()
    assert route["activated"] == 1 and route["removed"] == 1, route


def test_several_names_are_one_certificate(t):
    ca = t.pebble()
    port = t.port()
    names = [f"n{ix}.san.test" for ix in range(10)]
    p = t.proxy([https_route("san", port, names)], ca=ca)
    assert p.wait_certs(1)[0]["names"] == names
    root = ca.root_file()
    for name in names:
        assert fetch(t, port, root, name).status == 200
    assert served_cert(port, names[3])["names"] == names
    ca.check_one_order_each(1)


def test_identical_wishes_are_one_certificate(t):
    ca = t.pebble()
    port, other = t.port(), t.port()
    p = t.proxy([https_route("a", port, ["x.test", "y.test"]), https_route("b", other, ["Y.test", "x.test"])], ca=ca)
    p.wait_certs(1)
    assert len(p.certificates()) == 1
    root = ca.root_file()
    assert fetch(t, port, root, "x.test").body == b"a" and fetch(t, other, root, "y.test").body == b"b"
    ca.check_one_order_each(1)


def test_key_types(t):
    ca = t.pebble()
    port = t.port()
    kinds = ("p256", "p384", "rsa2048", "rsa3072")
    p = t.proxy([https_route(k, port, [f"{k}.test"], key_type=k) for k in kinds], ca=ca)
    certs = p.wait_certs(len(kinds), 60)
    assert sorted(c["key_type"] for c in certs) == sorted(kinds)
    root = ca.root_file()
    for k in kinds:
        c = t.connect(port, tls=tls_context(root, maximum=ssl.TLSVersion.TLSv1_2), server_name=f"{k}.test")
        assert ("RSA" in c.sock.cipher()[0]) == k.startswith("rsa"), c.sock.cipher()


def test_the_store_is_private_and_found_again(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([https_route("one", port, ["one.test"])], ca=ca)
    p.wait_certs(1)
    serial = served_cert(port, "one.test")["serial"]
    p.stop()
    files = [f for f in glob.glob(p.state_dir + "/**", recursive=True) if os.path.isfile(f)]
    keys = [f for f in files if "key" in os.path.basename(f)]
    assert len(keys) >= 2, files
    for key in keys:
        assert stat.S_IMODE(os.stat(key).st_mode) == 0o600, key
    p.start()
    assert served_cert(port, "one.test")["serial"] == serial, "served from the first moment"
    assert p.certificates()[0]["state"] == "valid"
    p.stop()
    assert ca.account_cnt() == 1
    ca.check_one_order_each(1)


def test_a_name_added_by_an_update(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([https_route("one", port, ["one.test"])], ca=ca)
    p.wait_certs(1)
    serial = served_cert(port, "one.test")["serial"]
    assert p.put_routes([https_route("one", port, ["one.test"]), https_route("two", port, ["two.test"])]).status == 200
    p.wait_certs(2)
    assert served_cert(port, "one.test")["serial"] == serial
    ca.check_one_order_each(2)
    assert p.put_routes([https_route("two", port, ["two.test"])]).status == 200
    assert [c["names"] for c in p.certificates()] == [["two.test"]]


def test_damaged_pairs_are_set_aside_and_renewed(t):
    ca = t.pebble()
    port = t.port()
    names = ["key.test", "chain.test", "empty.test", "fine.test"]
    p = t.proxy([https_route(n, port, [n]) for n in names], ca=ca)
    p.wait_certs(4)
    p.stop()

    def stored(name, file):
        found = [f for f in glob.glob(p.state_dir + f"/**/{file}", recursive=True) if name in f]
        assert found, f"no {file} of {name} below {p.state_dir}"
        return found
    for f in stored("key.test", "privkey.pem"):
        other = stored("fine.test", "privkey.pem")[0]
        with open(other, "rb") as a, open(f, "wb") as b:
            b.write(a.read())
    for f in stored("chain.test", "fullchain.pem"):
        with open(f, "r+b") as b:
            b.truncate(100)
    for f in stored("empty.test", "fullchain.pem"):
        with open(f, "wb"):
            pass
    p.start()
    p.wait_certs(4)
    root = ca.root_file()
    for n in names:
        assert fetch(t, port, root, n).status == 200
    assert ca.order_cnt() == 7, ca.order_cnt()
    for n in names[:3]:
        assert n in p.log_text()


def test_an_authorization_that_is_valid_already(t):
    ca = t.pebble(authzreuse=100)
    port = t.port()
    p = t.proxy([https_route("a", port, ["a.test"])], ca=ca)
    p.wait_certs(1)
    assert p.put_routes([https_route("a", port, ["a.test"]), https_route("ab", port, ["a.test", "b.test"])]).status == 200
    p.wait_certs(2)
    ca.check_one_order_each(2)


def test_a_long_chain(t):
    ca = t.pebble(chain_length=8)
    port = t.port()
    names = [f"name-number-{ix}.of-a-long-certificate.example.test" for ix in range(60)]
    p = t.proxy([https_route("long", port, names)], ca=ca)
    p.wait_certs(1, 60)
    assert fetch(t, port, ca.root_file(), names[59]).status == 200


def test_nonces_rejected_half_of_the_time(t):
    ca = t.pebble(noncereject=50)
    port = t.port()
    p = t.proxy([https_route(f"n{ix}", port, [f"n{ix}.test"]) for ix in range(5)], ca=ca)
    p.wait_certs(5, 60)
    ca.check_one_order_each(5)


@slow
def test_nonces_rejected_nine_times_in_ten(t):
    ca = t.pebble(noncereject=90)
    port = t.port()
    p = t.proxy([https_route(f"n{ix}", port, [f"n{ix}.test"]) for ix in range(5)], ca=ca)
    p.wait_certs(5, 110)
    ca.check_one_order_each(5)


@slow
def test_200_names(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([https_route(f"n{ix}", port, [f"n{ix}.test"]) for ix in range(200)], ca=ca, workers=4)
    p.wait_certs(200, 100)
    ca.check_one_order_each(200)
    assert ca.account_cnt() == 1
    p.wait_route("absent")
    route = p.challenge_route()
    assert route["activated"] == 1 and route["removed"] == 1, route


def test_validation_passes_redirect_block_and_no_route(t):
    """Three proxies would race for one port, so the three kinds of routes come one after another."""
    ca = t.pebble()
    port = t.port()
    kinds = ([redirect("r", [ca.http_port], "https://{host}{path}")], [block("b", [ca.http_port])], [])
    p = t.proxy([https_route("k0", port, ["k0.test"])] + kinds[0], ca=ca)
    p.wait_certs(1)
    for ix, kind in enumerate(kinds[1:], 1):
        routes = [https_route(f"k{n}", port, [f"k{n}.test"]) for n in range(ix + 1)] + kind
        assert p.put_routes(routes).status == 200
        p.wait_certs(ix + 1)
    ca.check_one_order_each(3)


def test_the_port_is_kept_or_released_as_configured(t):
    for keep in (True, False):
        ca = t.pebble() if keep else t.pebble()
        port = t.port()
        p = t.proxy([https_route("one", port, ["one.test"])], ca=ca, acme={"keep_port": keep})
        p.wait_certs(1)
        p.wait_route("absent")
        ports = [x["port"] for x in p.listeners()]
        assert (ca.http_port in ports) == keep, ports
        try:
            Client(ca.http_port).close()
            is_open = True
        except ConnectionRefusedError:
            is_open = False
        assert is_open == keep
        p.stop()
        ca.stop()


def test_the_answer_is_for_its_own_name_only(t):
    """While a challenge waits: its token under another Host, or another token, gets the user's route."""
    ca = t.pebble(nosleep=False, sleeptime=3)
    port = t.port()
    p = t.proxy([https_route("one", port, ["one.test"]), respond("user", [ca.http_port], "user")], ca=ca, workers=4)
    p.wait_route("active")
    prefix = "/.well-known/acme-challenge/"
    for host, target in (("one.test", prefix + "unknown"), ("other.test", prefix + "unknown"), ("one.test", prefix),
                         ("one.test", prefix + "a" * 300), ("one.test", prefix + "../x"), ("one.test", "/")):
        for _ in range(8):
            try:
                with Client(ca.http_port) as c:
                    r = c.get(target, host=host)
                    assert r.status in (200, 400) and r.body[:4] in (b"user", b"400 ", b"Bad "), (host, target, r)
            except Closed:
                raise AssertionError(f"no answer for {target}") from None
    p.wait_certs(1, 60)
    ca.check_one_order_each(1)


def test_an_update_that_takes_a_name_away_gives_its_order_up(t):
    ca = t.pebble(nosleep=False, sleeptime=4)
    port = t.port()
    p = t.proxy([https_route("gone", port, ["gone.test"]), https_route("stays", port, ["stays.test"])], ca=ca)
    until(lambda: ca.log().count("POST /chalZ/") >= 2, 10, "two validations")
    assert p.put_routes([https_route("stays", port, ["stays.test"])]).status == 200
    assert [c["names"] for c in p.certificates()] == [["stays.test"]]
    p.wait_certs(1, 60)
    assert ca.order_cnt() == 2
    p.wait_route("absent")
    assert p.put_routes([https_route(n, port, [f"{n}.test"]) for n in ("stays", "later")]).status == 200
    p.wait_certs(2, 60)


if __name__ == "__main__":
    main()
