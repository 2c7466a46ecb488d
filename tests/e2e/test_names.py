"""Targets by name: look-ups that change, fail, say nothing or nonsense, and names of many addresses."""
import socket
import time

from sp import main
from sp.client import Client
from sp.conf import forward, respond, tcp, to_upstream, upstream
from sp.dns import DnsServer
from sp.load import Silent, bodies, get, named
from sp.origin import fixed
from sp.tcp import TcpServer
from sp.wait import until


def at(t, address, port, text):
    return t.origin(fixed(text), host=address, port=port)


def name_proxy(t, dns, host, back, workers=2, routes=(), timeouts=None, **options):
    """A proxy whose one group is host:back; (proxy, port)."""
    port = t.port()
    group = upstream("app", [(host, back)], **options)
    p = t.proxy([to_upstream("r", [port], "app")] + list(routes), workers=workers, upstreams=(group,), dns=dns.config(timeout="500ms"),
                timeouts=timeouts or {})
    return p, port


def test_a_change_moves_the_traffic_when_the_ttl_ends(t):
    back = t.port()
    one, two = at(t, "127.0.0.2", back, b"one"), at(t, "127.0.0.3", back, b"two")
    dns = DnsServer(t, {"app.test": (["127.0.0.2"], 1)})
    p, port = name_proxy(t, dns, "app.test", back)
    c = t.connect(port)
    assert c.get().body == b"one" and bodies(port, 5) == ["one"] * 5
    view, = p.upstreams()
    assert view["target"] == f"app.test:{back}" and view["addresses"] == ["127.0.0.2"] and view["ttl_s"] <= 1, view
    dns.zone["app.test"] = (["127.0.0.3"], 1)
    # The pool has warm connections to the old address: they must not hold the traffic there for ever.
    until(lambda: c.get().body == b"two", 20, "the traffic has moved")
    until(lambda: set(bodies(port, 20)) == {"two"}, 20, "all of it")
    assert p.upstreams()[0]["addresses"] == ["127.0.0.3"]
    assert p.upstreams()[0]["requests"] >= 20, "its counters began anew"
    before = len(one.requests)
    assert bodies(port, 5) == ["two"] * 5 and len(one.requests) == before and two.requests
    p.wait_log("addresses have changed target=app.test.*before=127.0.0.2 now=127.0.0.3")


def test_a_name_that_does_not_resolve_leaves_its_route_and_is_asked_again(t):
    origin, = named(t, 1)
    dns = DnsServer(t)
    other = t.port()
    p, port = name_proxy(t, dns, "late.test", origin.port, routes=[respond("other", [other], "fine")])
    assert get(port).status == 503 and get(other).status == 200
    view, = p.upstreams()
    assert view["state"] == "unresolved" and view["last_failure"]["reason"] == "unresolved" and view["addresses"] == [], view
    until(lambda: p.metric("smartproxy_exchanges_total", 'end="no_target"') == 1, 10, "counted: smartproxy_exchanges_total")
    p.wait_log("a target's name cannot be resolved.*late.test")
    generation = p.status()["generation"]
    dns.zone["late.test"] = (["127.0.0.1"], 60)
    until(lambda: get(port).status == 200, 40, "it resolves")
    assert p.status()["generation"] == generation  # without an update
    assert p.upstreams()[0]["state"] == "up"


def test_an_update_with_a_name_that_does_not_resolve_is_taken(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"slow.test": "silent"})
    p, port = name_proxy(t, dns, "localhost", origin.port)
    assert bodies(port, 1) == ["0"]
    new = t.port()
    begin = time.monotonic()
    for host in ("gone.test", "slow.test"):
        answered = p.put_routes(p.config["routes"] + (forward("new", [new], [(host, origin.port)]),))
        assert answered.status == 200, answered.text
        assert get(new).status == 503 and bodies(port, 1) == ["0"]
    assert time.monotonic() - begin < 20
    assert p.put_routes(p.config["routes"] + (forward("new", [new], [("gone.test", origin.port), origin.port]),)).status == 200
    assert bodies(new, 5) == ["0"] * 5  # the other target of the route serves


def test_a_refused_update_leaves_the_servers_for_names_alone(t):
    """Also when it is refused for a port, after everything else was built."""
    right, wrong = DnsServer(t, {"app.test": (["127.0.0.1"], 0)}), DnsServer(t)
    o = t.origin(fixed(b"app"))
    port, taken = t.port(), TcpServer(t).port
    p = t.proxy([forward("app", [port], [("app.test", o.port)])], dns=right.config())
    p.config["dns"] = wrong.config()
    p.config["routes"] = tuple(p.config["routes"]) + (respond("new", [taken], "x"),)
    p.write()
    assert p.reload().status == 409
    seen = right.count("app.test")
    until(lambda: right.count("app.test") >= seen + 4, 10, "the server of before is asked")
    assert wrong.queries == []
    assert bodies(port, 3) == ["app"] * 3


def test_silent_dns_blocks_neither_the_start_nor_other_routes(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {f"silent{ix}.test": "silent" for ix in range(20)})
    port, other = t.port(), t.port()
    routes = [forward(f"r{ix}", [port], [(f"silent{ix}.test", origin.port)], path=f"/{ix}") for ix in range(20)]
    begin = time.monotonic()
    p = t.proxy(routes + [forward("other", [other], [origin.port])], dns=dns.config())
    assert time.monotonic() - begin < 10
    assert bodies(other, 5) == ["0"] * 5
    for ix in range(20):
        assert get(port, f"/{ix}").status == 503
    assert p.put_routes(p.config["routes"]).status == 200
    for ix in range(20):
        dns.zone[f"silent{ix}.test"] = (["127.0.0.1"], 60)
    until(lambda: all(get(port, f"/{ix}").status == 200 for ix in range(20)), 60, "all resolve", 0.1)


def test_no_server_at_all_and_a_dead_one(t):
    origin, = named(t, 1)
    port, other = t.port(), t.port()
    p = t.proxy([forward("r", [port], [("app.test", origin.port)]), forward("other", [other], [origin.port])],
                dns={"servers": [f"127.0.0.1:{t.port()}"], "timeout": "200ms"})
    assert bodies(other, 2) == ["0", "0"] and get(port).status == 503
    assert p.upstreams()[0]["state"] == "unresolved"
    dns = DnsServer(t, {"app.test": (["127.0.0.1"], 60)})
    p.config["dns"] = dns.config()
    p.write()
    assert p.reload().status == 200
    until(lambda: get(port).status == 200, 60, "the new server is asked", 0.1)


def test_garbage_and_refusals_keep_the_addresses_of_before(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"app.test": (["127.0.0.1"], 1)})
    p, port = name_proxy(t, dns, "app.test", origin.port)
    assert bodies(port, 1) == ["0"]
    for bad in ("garbage", "servfail", "silent", "nxdomain", ([], 1)):
        dns.zone["app.test"] = bad
        before = dns.count("app.test")
        until(lambda: dns.count("app.test") >= before + 2, 40, f"{bad} was answered", 0.05)
        assert bodies(port, 5) == ["0"] * 5, bad
        dns.zone["app.test"] = (["127.0.0.1"], 1)
        until(lambda: p.upstreams()[0]["ttl_s"] > 0, 60, "it resolves again", 0.05)
    p.wait_log("a target's name cannot be resolved.*its last addresses stay in use")


def test_only_garbage_from_the_start(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"app.test": "garbage"})
    p, port = name_proxy(t, dns, "app.test", origin.port)
    assert get(port).status == 503
    dns.zone["app.test"] = (["127.0.0.1"], 1)
    until(lambda: get(port).status == 200, 60, "it resolves", 0.1)
    assert p.is_alive()


def test_many_addresses_with_a_dead_one_among_them(t):
    back = t.port()
    alive = [at(t, f"127.0.0.{ix}", back, b"%d" % ix) for ix in (2, 3, 5)]
    dns = DnsServer(t, {"many.test": ([f"127.0.0.{ix}" for ix in (2, 3, 4, 5)], 60)})
    p, port = name_proxy(t, dns, "many.test", back, ejection={"failures": 1, "time": "60s"}, retry={"tries": 1})
    # Idle connections are taken again, so that new ones are made only while requests overlap or none is kept.
    p.config["limits"] = {"idle_upstream": 0}
    p.write()
    assert p.reload().status == 200
    found = bodies(port, 60)
    assert set(found) == {"2", "3", "5"}, set(found)
    view, = p.upstreams()
    assert view["state"] == "up" and view["failures"] == 0 and len(view["addresses"]) == 4, view
    for o in alive:
        o.stop()
    assert get(port).status == 502  # now all of it is dead
    assert p.upstreams()[0]["last_failure"]["reason"] == "connect_refused"


def test_a_silent_address_among_many_is_passed_over(t):
    silent = Silent(t)
    at(t, "127.0.0.2", silent.port, b"two")
    dns = DnsServer(t, {"many.test": (["127.0.0.1", "127.0.0.2"], 60)})
    p, port = name_proxy(t, dns, "many.test", silent.port, timeouts={"connect": "300ms"}, retry={"tries": 1})
    assert bodies(port, 10) == ["two"] * 10
    assert p.upstreams()[0]["failures"] == 0


def test_more_addresses_than_are_kept(t):
    back = t.port()
    addresses = [f"127.0.2.{ix}" for ix in range(1, 25)]
    for address in addresses:
        at(t, address, back, address.encode())
    dns = DnsServer(t, {"many.test": (addresses, 60)})
    p, port = name_proxy(t, dns, "many.test", back)
    assert set(bodies(port, 10)) <= set(addresses)
    assert len(p.upstreams()[0]["addresses"]) == 16


def test_a_name_that_is_gone_for_long_takes_its_addresses_with_it(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"app.test": (["127.0.0.1"], 1)})
    port = t.port()
    p = t.proxy([forward("r", [port], [("app.test", origin.port)])], dns=dns.config(timeout="500ms", max_ttl="1s"))
    assert bodies(port, 3) == ["0"] * 3
    dns.zone["app.test"] = "nxdomain"
    until(lambda: get(port).status == 503, 60, "the addresses are gone", 0.05)
    assert p.upstreams()[0]["state"] == "unresolved"
    dns.zone["app.test"] = (["127.0.0.1"], 1)
    until(lambda: get(port).status == 200, 60, "it is back", 0.05)


def test_a_check_goes_on_to_the_next_address(t):
    back = t.port()
    at(t, "127.0.0.3", back, b"three")
    dns = DnsServer(t, {"many.test": (["127.0.0.2", "127.0.0.3", "::1"], 60), "dead.test": (["127.0.0.2", "::1"], 60)})
    port = t.port()
    check = {"type": "http", "interval": "1s", "timeout": "1s", "fall": 2}
    p = t.proxy([to_upstream("r", [port], "app")], dns=dns.config(),
                upstreams=(upstream("app", [("many.test", back), ("dead.test", back)], check=check),))
    until(lambda: {u["target"].split(".")[0]: u["state"] for u in p.upstreams()} == {"many": "up", "dead": "down"}, 20, "checked")
    assert bodies(port, 10) == ["three"] * 10
    many, = [u for u in p.upstreams() if u["target"].startswith("many")]
    before = many["last_check"]
    until(lambda: [u for u in p.upstreams() if u["target"].startswith("many")][0]["last_check"] != before, 20, "checked again")
    assert [u for u in p.upstreams() if u["target"].startswith("many")][0]["state"] == "up"


def test_ipv6_and_ipv4(t):
    back = t.port()
    at(t, "::1", back, b"six")
    at(t, "127.0.0.1", back, b"four")
    dns = DnsServer(t, {"both.test": (["::1", "127.0.0.1"], 60), "six.test": (["::1"], 60), "four.test": (["127.0.0.1"], 60)})
    port = t.port()
    p = t.proxy([forward("six", [port], [("six.test", back)], path="/six"), forward("four", [port], [("four.test", back)], path="/four"),
                 forward("both", [port], [("both.test", back)], path="/both"), forward("literal", [port], [("::1", back)], path="/literal")],
                dns=dns.config(), limits={"idle_upstream": 0})
    assert set(bodies(port, 5, "/six")) == {"six"} and set(bodies(port, 5, "/four")) == {"four"}
    assert set(bodies(port, 5, "/literal")) == {"six"}
    assert set(bodies(port, 40, "/both")) == {"six", "four"}
    shown = {u["target"]: sorted(u["addresses"]) for u in p.upstreams()}
    assert shown[f"both.test:{back}"] == ["127.0.0.1", "::1"], shown


def test_ipv6_that_does_not_work_costs_nobody_an_error(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"both.test": (["::1", "127.0.0.1"], 60)})  # nobody listens on ::1
    p, port = name_proxy(t, dns, "both.test", origin.port, retry={"tries": 1}, ejection={"failures": 1, "time": "60s"})
    assert bodies(port, 20) == ["0"] * 20
    assert p.upstreams()[0]["failures"] == 0


def test_names_of_the_hosts_file_need_no_server(t):
    origin, = named(t, 1)
    dns = DnsServer(t)
    _, port = name_proxy(t, dns, "localhost", origin.port)
    assert bodies(port, 2) == ["0", "0"]
    assert dns.count("localhost") == 0


def test_tunnels_go_by_names_too(t):
    origin = TcpServer(t, lambda peer: peer.send(b"hello"))
    dns = DnsServer(t)
    port = t.port()
    p = t.proxy([tcp("r", [port], [("late.test", origin.port)])], dns=dns.config(timeout="500ms"))
    with Client(port) as c:
        assert c.wait_closed() == b""
    until(lambda: p.end_cnt("no_target") == 1, 10, "told")
    dns.zone["late.test"] = (["127.0.0.1"], 60)

    def said():
        with Client(port) as c:
            return c.wait_closed() == b"hello"
    until(said, 40, "it resolves", 0.05)


def test_a_name_is_asked_once_however_many_groups_have_it(t):
    origin, = named(t, 1)
    dns = DnsServer(t, {"app.test": (["127.0.0.1"], 600)})
    port = t.port()
    p = t.proxy([forward(f"r{ix}", [port], [("app.test", origin.port)], path=f"/{ix}") for ix in range(30)], dns=dns.config())
    for ix in range(30):
        assert get(port, f"/{ix}").status == 200
    first = dns.count("app.test")
    assert first <= 4, first  # A and AAAA: targets of routes are one target
    for _ in range(10):
        assert p.put_routes(p.config["routes"]).status == 200
    assert dns.count("app.test") == first
    assert socket.inet_aton(p.upstreams()[0]["addresses"][0])


if __name__ == "__main__":
    main()
