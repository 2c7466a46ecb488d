"""Groups of targets: ways of balancing, sticky clients, backups, places and queues, state over updates."""
import collections
import threading

from sp import main
from sp.client import Client
from sp.conf import forward, target_list, tcp, to_upstream, upstream
from sp.load import Gate, bodies, burst, get, named, reset
from sp.origin import answer, fixed
from sp.process import run_ctl
from sp.runner import slow
from sp.tcp import TcpServer, echo
from sp.wait import until


def group_proxy(t, group, workers=2, **options):
    """A proxy with one route to the group; (proxy, port)."""
    port = t.port()
    return t.proxy([to_upstream("r", [port], group["name"])], workers=workers, upstreams=(group,), **options), port


def change(p, *groups):
    """The configuration's groups are those from now on."""
    p.config["upstreams"] = groups
    p.write()
    answered = p.reload()
    assert answered.status == 200, answered.text


def ends(p, reason):
    return p.metric("smartproxy_exchanges_total", f'end="{reason}"')


def counts(texts):
    return collections.Counter(texts)


def idle(p):
    """Nothing is under way: the loads that the next choice looks at are exact."""
    until(lambda: all(u["in_flight"] == 0 for u in p.upstreams()), 10, "no request under way")


# ---- groups ----

def test_named_groups_and_inline_targets(t):
    a, b, c = named(t, 3)
    port = t.port()
    p = t.proxy([to_upstream("one", [port], "app", path="/one"), to_upstream("two", [port], "app", path="/two"),
                 forward("own", [port], [c.port, b.port], path="/own")], upstreams=(upstream("app", [a.port, b.port]),))
    for path, wanted in (("/one", {"0", "1"}), ("/two", {"0", "1"}), ("/own", {"2", "1"})):
        assert set(bodies(port, 30, path)) == wanted, path
    views = [(u["group"], int(u["target"].split(":")[1])) for u in p.upstreams()]
    assert sorted(views, key=str) == sorted([("app", a.port), ("app", b.port), (None, c.port), (None, b.port)], key=str), views
    assert sum(u["requests"] for u in p.upstreams() if u["group"] == "app") == 60
    until(lambda: p.metric("smartproxy_target_requests_total", f'group="app",target="127.0.0.1:{a.port}"') == p.target(a.port)["requests"], 10, "counted: smartproxy_target_requests_total")
    code, out, _ = run_ctl(p, "upstreams")
    assert code == 0 and "app" in out and str(c.port) in out, out


def test_an_update_that_names_an_unknown_group_is_refused(t):
    a, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [a.port]))
    before = p.status()
    refused = p.put_routes([to_upstream("r", [port], "ap")])
    assert refused.status in (400, 422), refused.text
    assert 'no upstream has the name \\"ap\\"; did you mean \\"app\\"?' in refused.text, refused.text
    refused = p.put_routes([to_upstream("r", [port], "something-else")])
    assert 'no upstream has the name \\"something-else\\"' in refused.text, refused.text
    assert p.status()["generation"] == before["generation"]
    assert bodies(port, 1) == ["0"]


# ---- balance ----

def test_round_robin_is_exact_by_weight(t):
    origins = named(t, 3)
    group = upstream("app", [{"host": "127.0.0.1", "port": o.port, "weight": w} for o, w in zip(origins, (3, 1, 2))],
                     balance="round-robin")
    _, port = group_proxy(t, group, workers=1)
    texts = bodies(port, 60)
    assert counts(texts) == {"0": 30, "1": 10, "2": 20}, counts(texts)
    for at in range(55):  # smooth: in any six in a row each has its share
        assert counts(texts[at:at + 6]) == {"0": 3, "1": 1, "2": 2}, texts
    with Client(port) as c:  # on one connection as well
        assert counts(c.get().body for _ in range(12)) == {b"0": 6, b"1": 2, b"2": 4}


def test_round_robin_over_four_workers_is_exact_in_each(t):
    origins = named(t, 2)
    group = upstream("app", [{"host": "127.0.0.1", "port": o.port, "weight": w} for o, w in zip(origins, (3, 1))],
                     balance="round-robin")
    _, port = group_proxy(t, group, workers=4)
    found = counts(sum(burst(8, lambda ix: bodies(port, 25)), []))
    assert abs(found["0"] - 150) <= 4 and found["0"] + found["1"] == 200, found


def spread_with_one_busy(t, balance, target_cnt):
    """How many of 60 requests went to a target that never answers; the others answer at once."""
    gate = Gate()
    held = t.origin(gate)
    origins = named(t, target_cnt - 1)
    p, port = group_proxy(t, upstream("app", [held.port] + [o.port for o in origins], balance=balance), workers=4)
    for ix in range(60):
        c = t.connect(port)
        c.request()
        until(lambda: gate.total + sum(len(o.requests) for o in origins) > ix, 20, "the request arrived")
        until(lambda: sum(u["in_flight"] for u in p.upstreams()) == gate.now, 20, "the others are answered")
    total = gate.total
    assert p.target(held.port)["in_flight"] == total
    gate.open()
    idle(p)
    return total


def test_least_connections_prefers_the_less_loaded_over_all_workers(t):
    assert spread_with_one_busy(t, "least-connections", 3) <= 2


def test_p2c_prefers_the_less_loaded_over_all_workers(t):
    assert spread_with_one_busy(t, "p2c", 2) <= 2
    assert spread_with_one_busy(t, "p2c", 4) <= 4


def test_p2c_goes_by_weight_when_nothing_is_under_way(t):
    origins = named(t, 2)
    group = upstream("app", [{"host": "127.0.0.1", "port": o.port, "weight": w} for o, w in zip(origins, (4, 1))])
    _, port = group_proxy(t, group)
    found = counts(bodies(port, 300))
    assert 190 <= found["0"] <= 290, found


# ---- hash ----

def hash_group(origins, key, **options):
    return upstream("app", [o.port for o in origins], balance="hash", hash_key=key, hash_bound=0,
                    ejection={"failures": 0}, **options)


def keyed(port, kind, keys):
    """{key: the target's text}"""
    found = {}
    for key in keys:
        how = {"path": {"target": f"/{key}"}, "header": {"headers": [("X-Key", key)]},
               "cookie": {"headers": [("Cookie", f"a=b; key={key}; c=d")]},
               "client_ip": {"source": key}}[kind]
        response = get(port, **how)
        assert response.status == 200, response
        found[key] = response.body
    return found


def check_hash(t, kind, hash_key, keys):
    origins = named(t, 4)
    p, port = group_proxy(t, hash_group(origins, hash_key), workers=4)
    first = keyed(port, kind, keys)
    spread = counts(first.values())
    assert len(spread) == 4 and min(spread.values()) >= len(keys) / 10, spread
    assert keyed(port, kind, keys) == first
    origins[1].stop()
    second = keyed(port, kind, keys)
    for key, target in first.items():
        if target != b"1":
            assert second[key] == target, (key, target, second[key])
    assert counts(second.values())[b"1"] == 0
    moved = {second[key] for key, target in first.items() if target == b"1"}
    assert len(moved) >= 2, "all its keys went to one target"
    t.origin(fixed(b"1"), port=origins[1].port)
    assert keyed(port, kind, keys) == first
    return p, port, first


def test_hash_by_path_same_after_an_update_and_a_restart(t):
    keys = [f"k{ix}" for ix in range(80)]
    p, port, first = check_hash(t, "path", "path", keys)
    assert p.put_routes(p.config["routes"]).status == 200
    assert keyed(port, "path", keys) == first
    p.stop()
    p.start()
    assert keyed(port, "path", keys) == first


def test_hash_by_header_cookie_and_address(t):
    keys = [f"k{ix}" for ix in range(60)]
    check_hash(t, "header", "header:x-key", keys)
    check_hash(t, "cookie", "cookie:key", keys)
    check_hash(t, "client_ip", "client_ip", [f"127.0.{ix % 7}.{ix + 2}" for ix in range(60)])


def test_hash_without_its_header_goes_by_the_client(t):
    _, port = group_proxy(t, hash_group(named(t, 4), "header:X-Key"), workers=4)
    for source in ("127.0.0.2", "127.0.0.3", "127.0.0.9"):
        assert len({get(port, source=source).body for _ in range(10)}) == 1


def test_hash_gives_on_what_is_beyond_the_bound(t):
    gates = [Gate(b"%d" % ix) for ix in range(4)]
    origins = [t.origin(gate) for gate in gates]
    p, port = group_proxy(t, upstream("app", [o.port for o in origins], balance="hash", hash_key="path", hash_bound=125), workers=4)
    for ix in range(40):
        t.connect(port).request(target="/one-key")
        until(lambda: sum(g.total for g in gates) == ix + 1, 20, "the request arrived")
    loads = sorted(g.now for g in gates)
    assert loads[-1] <= 13 and sum(loads) == 40, loads  # 125 % of the mean, 10
    for gate in gates:
        gate.open()
    idle(p)
    assert len(set(bodies(port, 1, "/one-key") + bodies(port, 1, "/one-key"))) == 1


# ---- sticky ----

def sticky_group(origins, **options):
    return upstream("shop", [o.port for o in origins], balance="sticky", cookie="node", ejection={"failures": 0}, **options)


def cookie_of(response):
    """The value that the answer sets, or None; the application's own are left alone."""
    found = [v for v in response.all("set-cookie") if v.startswith("node=")]
    assert len(found) <= 1, found
    return found[0].split(";")[0] if found else None


def follow(port, cookie, wanted, cnt=20):
    for _ in range(cnt):
        response = get(port, headers=[("Cookie", f"x=y; {cookie}; z=1")])
        assert response.status == 200 and response.body == wanted, (response, wanted)
        assert cookie_of(response) is None, response


def test_sticky_clients_stay_on_all_workers_over_updates_and_restarts(t):
    origins = [t.origin(fixed(b"%d" % ix, headers=[("Set-Cookie", "app=1")])) for ix in range(3)]
    p, port = group_proxy(t, sticky_group(origins), workers=4)
    clients = {}
    while len(clients) < 3:
        response = get(port)
        value = cookie_of(response)
        assert value and "app=1" in response.all("set-cookie"), response
        assert clients.setdefault(response.body, value) == value  # one target, one value
    whole = [v for v in get(port).all("set-cookie") if v.startswith("node=")][0]
    assert "Path=/" in whole and "HttpOnly" in whole and "127.0.0.1" not in whole, whole
    for wanted, value in clients.items():
        follow(port, value, wanted)
    assert p.put_routes(p.config["routes"]).status == 200
    change(p, sticky_group(list(reversed(origins)) + named(t, 1)))  # another order, and one more
    for wanted, value in clients.items():
        follow(port, value, wanted)
    p.stop()
    p.start()
    for wanted, value in clients.items():
        follow(port, value, wanted, 8)


def test_sticky_gives_a_new_cookie_when_its_target_cannot_be_used(t):
    origins = named(t, 2)
    _, port = group_proxy(t, sticky_group(origins), workers=2)
    first = get(port)
    value, at = cookie_of(first), int(first.body)
    origins[at].stop()
    moved = get(port, headers=[("Cookie", value)])
    assert moved.status == 200 and moved.body == b"%d" % (1 - at), moved
    assert cookie_of(moved) not in (None, value), moved
    follow(port, cookie_of(moved), moved.body, 5)
    t.origin(fixed(b"%d" % at), port=origins[at].port)
    follow(port, value, first.body, 5)
    for absurd in ("node=", "node=0123456789abcdef", "node=zz", 'node="0"', "node=" + "a" * 5000):
        response = get(port, headers=[("Cookie", absurd)])
        assert response.status == 200 and cookie_of(response), (absurd, response)


# ---- backups ----

def test_backups_only_while_the_others_cannot_be_used(t):
    spare = t.origin(fixed(b"spare"))
    for balance in ("p2c", "round-robin", "least-connections", "hash", "sticky"):
        one = named(t, 2)
        targets = [o.port for o in one] + [{"host": "127.0.0.1", "port": spare.port, "backup": True}]
        p, port = group_proxy(t, upstream("app", targets, balance=balance, ejection={"failures": 1, "time": "300ms", "max_share": 100}))
        before = len(spare.requests)
        assert set(bodies(port, 20)) <= {"0", "1"}
        one[0].stop()
        assert set(bodies(port, 20)) == {"1"}, balance
        assert len(spare.requests) == before
        one[1].stop()
        assert set(bodies(port, 20)) == {"spare"}, balance
        t.origin(fixed(b"0"), port=one[0].port)
        until(lambda: get(port).body == b"0", 20, "the first one is back")
        until(lambda: "spare" not in bodies(port, 5), 20, "the backup rests again")
        p.stop()


# ---- places ----

def test_places_are_exact_under_a_burst_and_nobody_is_lost(t):
    gate = Gate(hold_s=0.005)
    origin = t.origin(gate)
    p, port = group_proxy(t, upstream("app", [origin.port], max_connections=5, queue=1000, queue_timeout="60s"), workers=4)

    def work(_):
        with Client(port, timeout_s=60) as c:
            return [c.get().status for _ in range(3)]
    statuses = counts(sum(burst(200, work), []))
    assert statuses == {200: 600}, statuses
    assert gate.most <= 5, gate.most
    assert gate.most == 5, "places were left unused"
    view = p.target(origin.port)
    assert (view["in_flight"], view["queued"], view["max_connections"]) == (0, 0, 5), view
    until(lambda: p.metric("smartproxy_target_queued") == 0, 10, "counted: smartproxy_target_queued")


def test_queue_timeout_and_overflow_are_told(t):
    gate = Gate()
    origin = t.origin(gate)
    p, port = group_proxy(t, upstream("app", [origin.port], max_connections=1, queue=2, queue_timeout="1s"), workers=4)
    first = t.connect(port)
    first.request()
    gate.wait_total(1)
    waiting = [t.connect(port) for _ in range(2)]
    for ix, c in enumerate(waiting):
        c.request()
        until(lambda: p.target(origin.port)["queued"] >= ix + 1 or ends(p, "queue_timeout") > 0, 10, "it waits")
    assert get(port).status == 503
    assert ends(p, "queue_full") + ends(p, "queue_timeout") >= 1
    for c in waiting:
        response = c.response()
        assert response.status == 503, response
    until(lambda: ends(p, "queue_timeout") >= 2, 10, "two deadlines counted")
    assert p.target(origin.port)["queued"] == 0
    gate.open()
    assert first.response().body == b"held"
    assert get(port).status == 200
    assert gate.most == 1


def test_who_leaves_the_queue_takes_no_place(t):
    gate = Gate()
    origin = t.origin(gate)
    p, port = group_proxy(t, upstream("app", [origin.port], max_connections=1, queue_timeout="60s"), workers=4)
    first = t.connect(port)
    first.request()
    gate.wait_total(1)
    gone = [t.connect(port) for _ in range(20)]
    for c in gone:
        c.request()
    until(lambda: p.target(origin.port)["queued"] == 20, 20, "twenty wait")
    last = t.connect(port)
    last.request(target="/last")
    until(lambda: p.target(origin.port)["queued"] == 21, 20, "and one more")
    for c in gone:
        reset(c)
    until(lambda: p.target(origin.port)["queued"] == 1, 20, "the queue forgets them")
    gate.open()
    assert first.response().status == 200 and last.response().status == 200
    assert gate.total == 2, gate.total
    assert get(port).status == 200


def test_more_places_by_an_update_are_used_by_those_who_wait(t):
    gate = Gate()
    origin = t.origin(gate)
    options = {"queue_timeout": "60s"}
    p, port = group_proxy(t, upstream("app", [origin.port], max_connections=1, **options), workers=4)
    clients = [t.connect(port) for _ in range(8)]
    for c in clients:
        c.request()
    until(lambda: p.target(origin.port)["queued"] == 7, 20, "seven wait")
    change(p, upstream("app", [origin.port], max_connections=4, **options))
    more = t.connect(port)
    more.request()  # the first one to ask says how many there are now
    gate.open()
    for c in clients + [more]:
        assert c.response().status == 200
    assert gate.total == 9 and gate.most <= 4
    idle(p)
    change(p, upstream("app", [origin.port], **options))  # no limit any more
    assert burst(20, lambda ix: get(port).status) == [200] * 20


def test_a_full_target_passes_on_to_the_next(t):
    gate = Gate()
    held = t.origin(gate)
    other, = named(t, 1)
    group = upstream("app", [{"host": "127.0.0.1", "port": held.port, "max_connections": 2}, other.port], balance="round-robin", queue=0)
    p, port = group_proxy(t, group, workers=2)
    clients = [t.connect(port) for _ in range(20)]
    for c in clients:
        c.request()
    until(lambda: gate.total + len(other.requests) == 20, 20, "all arrived")
    assert gate.total == 2
    gate.open()
    assert all(c.response().status == 200 for c in clients)
    assert p.metric("smartproxy_target_retries_total") == 0  # nothing was sent to it: no retry


def test_tunnels_wait_for_places_too(t):
    origin = TcpServer(t, echo)
    port = t.port()
    route = tcp("r", [port], [])
    del route["action"]["targets"]
    route["action"]["upstream"] = "app"
    p = t.proxy([route], workers=4, upstreams=(upstream("app", [origin.port], max_connections=2, queue=1, queue_timeout="60s"),))
    clients = []
    for ix in range(2):
        clients.append(t.connect(port))
        origin.wait_peers(ix + 1)
    until(lambda: p.target(origin.port)["in_flight"] == 2, 10, "two tunnels")
    third = t.connect(port)
    third.send(b"third")
    until(lambda: p.target(origin.port)["queued"] == 1, 10, "the third waits")
    assert t.connect(port).wait_closed() == b""  # the queue is full
    until(lambda: p.end_cnt("queue_full") == 1, 10, "counted")
    clients[0].close()
    assert third.sock.recv(16) == b"third"
    assert len(origin.peers) == 3
    for c in clients + [third]:
        c.close()  # a shutdown waits for tunnels


def test_no_place_is_lost_in_chaos(t):
    """Targets that answer, dawdle, close, reset and talk nonsense; clients that go away at any time."""
    def script(c, r):
        kind = r.request_ix % 5
        if kind == 0:
            c.close()
        elif kind == 1:
            c.reset()
        elif kind == 2:
            c.send(b"nonsense\r\n\r\n")
        else:
            c.send(answer(200, b"x" * 100))
    origins = [t.origin(script) for _ in range(3)]
    targets = [o.port for o in origins] + [t.port()]
    group = upstream("app", targets, max_connections=3, queue=500, queue_timeout="60s", ejection={"failures": 3, "time": "100ms"})
    p, port = group_proxy(t, group, workers=4)

    def work(ix):
        for turn in range(6):
            c = Client(port, timeout_s=60)
            c.request("GET" if turn % 2 else "POST", body=None if turn % 2 else b"x")
            if (ix + turn) % 3 == 0:
                reset(c)
            else:
                assert c.response().status in (200, 502, 503)
                c.close()
    burst(100, work)
    until(lambda: all(u["in_flight"] == 0 and u["queued"] == 0 for u in p.upstreams()), 30, "every place is back")
    # And each of them can be taken again.
    gates = [Gate() for _ in origins]
    for origin, gate in zip(origins, gates):
        # What the proxy has given up already may still come to a slow origin.
        origin.scripts = (lambda c, r, gate=gate: gate(c, r) if r.target == "/held" else c.close(),)
    change(p, upstream("app", targets[:3], max_connections=3, queue=500, queue_timeout="60s"))
    until(lambda: all(u["state"] == "up" for u in p.upstreams()), 30, "none is ejected any more")
    clients = [t.connect(port, timeout_s=60) for _ in range(30)]
    for c in clients:
        c.request(target="/held")
    until(lambda: sum(u["queued"] for u in p.upstreams()) == 21, 30, "nine are there, the others wait")
    until(lambda: [g.now for g in gates] == [3, 3, 3], 30, "three arrive at each")
    for gate in gates:
        gate.open()
    for c in clients:
        assert c.response().status == 200
    assert max(g.most for g in gates) == 3


# ---- slow start ----

def share_of(port, text, cnt=200):
    return bodies(port, cnt).count(text) / cnt


@slow
def test_slow_start_lets_the_share_grow(t):
    origins = named(t, 2)
    group = upstream("app", [o.port for o in origins], balance="round-robin", slow_start="8s",
                     check={"type": "tcp", "interval": "500ms", "timeout": "500ms", "rise": 1, "fall": 1})
    p, port = group_proxy(t, group, workers=1)
    assert 0.4 <= share_of(port, "1") <= 0.6  # from the start there is no slow start
    origins[1].stop()
    until(lambda: p.target(origins[1].port)["state"] == "down", 20, "down")
    assert share_of(port, "1") == 0
    t.origin(fixed(b"1"), port=origins[1].port)
    until(lambda: p.target(origins[1].port)["state"] == "up", 20, "up")
    first = share_of(port, "1", 100)
    assert first < 0.4, first
    until(lambda: share_of(port, "1") > 0.42, 40, "its full share", 0.2)


# ---- state over updates ----

def test_state_survives_fifty_updates(t):
    good, bad = named(t, 1)[0], t.origin(fixed(b"no", 503))
    gone = t.port()
    group = upstream("app", [good.port, bad.port, gone], balance="round-robin", ejection={"failures": 2, "time": "1h"},
                     check={"type": "tcp", "interval": "1h", "timeout": "1s"})
    p, port = group_proxy(t, group, workers=1)
    until(lambda: p.target(gone)["state"] == "down", 20, "checked")
    c = t.connect(port)
    for _ in range(12):
        c.get()
    assert p.target(bad.port)["state"] == "ejected"
    idle(p)

    def state():
        keys = ("target", "state", "requests", "failures", "ejections", "retries", "last_failure", "idle", "last_check")
        return [{k: u[k] for k in keys} for u in p.upstreams()]
    before = state()
    for ix in range(50):
        routes = [to_upstream("r", [port], "app"), to_upstream(f"extra{ix}", [port], "app", path=f"/{ix}")]
        assert p.put_routes(routes).status == 200
        if ix % 10 == 0:
            assert p.reload().status == 200
    assert state() == before
    for _ in range(5):
        assert c.get().body == b"0"
    assert len({r.connection_ix for r in good.requests}) == 1, "its pooled connection was lost"


def test_requests_under_way_do_not_notice_fifty_updates(t):
    gate = Gate(b"x" * 1000)
    held = t.origin(gate)
    quick, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [held.port]), workers=2)
    slow_ones = [t.connect(port, timeout_s=60) for _ in range(10)]
    for c in slow_ones:
        c.request()
    gate.wait_total(10)
    stop, failed = threading.Event(), []

    def traffic():
        while not stop.is_set():
            response = get(port, "/quick")
            if response.status != 200:
                failed.append(response)
    routes = [to_upstream("r", [port], "app"), forward("quick", [port], [quick.port], path="/quick")]
    p.write(routes)
    assert p.put_routes(routes).status == 200
    thread = threading.Thread(target=traffic)
    thread.start()
    for ix in range(50):
        change(p, upstream("app", [held.port] if ix % 2 else [held.port, quick.port], max_connections=ix % 3 * 100))
        assert p.put_routes(routes).status == 200
    stop.set()
    thread.join()
    assert not failed, failed[:3]
    assert p.target(held.port, "app")["in_flight"] == 10
    gate.open()
    for c in slow_ones:
        assert c.response().body == b"x" * 1000


def test_a_target_that_an_update_removes_is_drained(t):
    gate = Gate()
    old = t.origin(gate)
    new, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [old.port]), workers=2)
    kept = t.connect(port)
    kept.request()
    gate.wait_total(1)
    change(p, upstream("app", [new.port]))
    assert bodies(port, 5) == ["0"] * 5
    assert gate.total == 1
    gate.open()
    assert kept.response().body == b"held"
    assert kept.get().body == b"0"  # the same client connection, the new target
    until(lambda: [u["target"] for u in p.upstreams()] == [f"127.0.0.1:{new.port}"], 20, "the old one is gone")
    until(lambda: all(c.is_closed for c in old.connections), 20, "its pooled connections are closed")


def test_a_group_that_is_removed_with_its_route(t):
    a, b = named(t, 2)
    one, two = t.port(), t.port()
    p = t.proxy([to_upstream("one", [one], "a"), to_upstream("two", [two], "b")],
                upstreams=(upstream("a", [a.port]), upstream("b", [b.port])))
    assert bodies(one, 3) + bodies(two, 3) == ["0"] * 3 + ["1"] * 3
    p.config["upstreams"] = (upstream("a", [a.port]),)
    p.write([to_upstream("one", [one], "a")])
    assert p.reload().status == 200
    until(lambda: len(p.upstreams()) == 1, 20, "group b is gone")
    until(lambda: all(c.is_closed for c in b.connections), 20, "its connections are closed")
    assert bodies(one, 3) == ["0"] * 3


def test_many_updates_of_targets_leave_nothing_behind(t):
    origins = named(t, 4)
    p, port = group_proxy(t, upstream("app", [origins[0].port]), workers=2)
    assert bodies(port, 4)
    for ix in range(40):
        change(p, upstream("app", [origins[ix % 4].port, origins[(ix + 1) % 4].port]))
        bodies(port, 4)
    change(p, upstream("app", [origins[0].port]))
    until(lambda: len(p.upstreams()) == 1, 20, "one target is left")
    for o in origins[1:]:
        until(lambda o=o: all(c.is_closed for c in o.connections), 20, "connections to removed targets are closed")
    p.wait_fds(p.begin_fds + 4)


def test_the_same_target_twice_and_in_two_groups(t):
    a, = named(t, 1)
    one, two = t.port(), t.port()
    p = t.proxy([to_upstream("one", [one], "a"), to_upstream("two", [two], "b")],
                upstreams=(upstream("a", [a.port, a.port], balance="round-robin"), upstream("b", [a.port], max_connections=1)))
    assert bodies(one, 6) == ["0"] * 6 and bodies(two, 6) == ["0"] * 6
    assert {u["group"] for u in p.upstreams()} == {"a", "b"}
    assert p.target(a.port, "a")["max_connections"] == 0 and p.target(a.port, "b")["max_connections"] == 1


def test_a_group_of_a_thousand_targets(t):
    origins = named(t, 3)
    targets = target_list([origins[ix % 3].port if ix % 100 == 0 else ("127.1.0.%d" % (ix % 250), 1) for ix in range(1000)])
    p, port = group_proxy(t, upstream("app", targets, check={"type": "tcp", "interval": "2s", "timeout": "1s"}))
    until(lambda: sum(u["state"] == "down" for u in p.upstreams()) >= 250, 60, "the dead ones are known", 0.2)
    assert counts(burst(20, lambda ix: get(port).status)) == {200: 20}
    begin = p.reload()
    assert begin.status == 200, begin.text
    assert p.api("GET", "/metrics").text.count("smartproxy_target_up{") >= 253
    assert answer(200)


if __name__ == "__main__":
    main()
