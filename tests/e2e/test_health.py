"""Targets that fail: active checks, ejection, retries, and what a client sees of each kind of failure."""
import threading

from sp import main
from sp.client import Client
from sp.conf import forward, to_upstream, upstream
from sp.load import Silent, bodies, burst, get, is_cut, named, reset
from sp.origin import answer, close_now, fixed, hang
from sp.pebble import make_leaf
from sp.tcp import TcpServer
from sp.wait import until

QUICK = {"interval": "500ms", "timeout": "500ms"}
NO_EJECTION = {"failures": 0}


def group_proxy(t, group, workers=2, **options):
    """A proxy with one route to the group; (proxy, port)."""
    port = t.port()
    return t.proxy([to_upstream("r", [port], group["name"])], workers=workers, upstreams=(group,), **options), port


def ends(p, reason):
    return p.metric("smartproxy_exchanges_total", f'end="{reason}"')


def wait_state(p, port, state, timeout_s=20):
    until(lambda: p.target(port)["state"] == state, timeout_s, f"target {port} is {state}")


def idle(p):
    until(lambda: all(u["in_flight"] == 0 for u in p.upstreams()), 10, "no request under way")


class Patient:
    """An origin whose checks (path /health) answer what .status says; other requests are answered with its text."""

    def __init__(self, t, text=b"ok", **options):
        self.status, self.text = 200, text
        self.checks = {}
        self.hosts = set()
        self.origin = t.origin(self.answer, **options)
        self.port = self.origin.port

    def answer(self, c, r):
        if r.target.startswith("/health"):
            status = self.status
            self.checks[status] = self.checks.get(status, 0) + 1
            self.hosts.add(r.header("host"))
            c.send(answer(status, b""))
        else:
            c.send(answer(200, self.text))


# ---- active checks ----

def check_rise_and_fall(t, kind, tls=None):
    sick, well = Patient(t, b"sick", tls=tls), Patient(t, b"well", tls=tls)
    check = {"type": kind, "path": "/health?x=1", "status": "200-204", "rise": 3, "fall": 4, "host": "checked.test",
             "interval": "500ms", "timeout": "500ms"}
    p, port = group_proxy(t, upstream("app", [sick.port, well.port], check=check))
    until(lambda: sick.checks.get(200, 0) >= 2 and well.checks.get(200, 0) >= 2, 20, "both are checked")
    assert p.target(sick.port)["state"] == "up"
    assert p.target(sick.port)["check"] == kind and p.target(sick.port)["last_check"]
    assert sick.hosts == {"checked.test"}, sick.hosts
    mark = p.log_mark()
    sick.status = 500
    wait_state(p, sick.port, "down")
    assert sick.checks[500] >= 4, sick.checks
    view = p.target(sick.port)
    assert view["last_failure"]["reason"] == "status" and "500" in view["last_failure"]["message"], view
    p.wait_log(f"a target is down by its checks.*target=127.0.0.1:{sick.port} .*failures=4", since=mark)
    label = f'target="127.0.0.1:{sick.port}"'
    until(lambda: p.metric("smartproxy_target_up", label) == 0, 10, "counted: smartproxy_target_up")
    if tls is None:  # behind HTTPS only the checks can ask: the group is plain
        assert set(bodies(port, 20)) == {"well"}
    before = sick.checks.get(204, 0)
    sick.status = 204
    wait_state(p, sick.port, "up")
    assert sick.checks[204] - before >= 3, sick.checks
    p.wait_log(f"up again by its checks target=127.0.0.1:{sick.port}", since=mark)
    until(lambda: p.metric("smartproxy_target_up", label) == 1, 10, "counted: smartproxy_target_up")
    if tls is None:
        until(lambda: "sick" in bodies(port, 5), 20, "it gets traffic again")
    sick.status = 205  # a status outside of the range
    wait_state(p, sick.port, "down")


def test_http_checks_rise_and_fall(t):
    check_rise_and_fall(t, "http")


def test_https_checks_of_a_plain_group_do_not_verify(t):
    check_rise_and_fall(t, "https", tls=make_leaf(t.dir, "self.test", ["self.test"]))


def test_tcp_checks_and_a_target_that_was_never_up(t):
    well, = named(t, 1)
    dead = t.port()
    p, port = group_proxy(t, upstream("app", [well.port, dead], check={"type": "tcp", "rise": 2, "fall": 3, **QUICK}))
    wait_state(p, dead, "down")
    view = p.target(dead)
    assert view["last_failure"]["reason"] == "connect_refused", view
    failures = view["failures"]
    assert set(bodies(port, 10)) == {"0"}
    assert p.target(dead)["failures"] == failures  # no request went there
    t.origin(fixed(b"risen"), port=dead)
    wait_state(p, dead, "up")
    until(lambda: "risen" in bodies(port, 5), 20, "it gets traffic")


def test_a_check_that_gets_no_answer_in_time_fails(t):
    hung, silent = TcpServer(t, lambda peer: peer.recv_all()), Silent(t)
    well, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [hung.port, silent.port, well.port], check={"type": "http", "fall": 2, **QUICK}))
    for target in (hung.port, silent.port):
        wait_state(p, target, "down")
    assert p.target(hung.port)["last_failure"]["reason"] == "response_timeout", p.target(hung.port)
    assert p.target(silent.port)["last_failure"]["reason"] == "connect_timeout", p.target(silent.port)
    assert set(bodies(port, 10)) == {"0"}
    until(lambda: hung.ended >= len(hung.peers) - 1 and len(hung.peers) > 5, 20, "checks do not pile up")


def test_a_check_by_another_port_and_answers_that_are_not_http(t):
    doctor = Patient(t)
    babble = TcpServer(t, lambda peer: (peer.recv(), peer.send(b"220 hello\r\n\r\n")))
    well, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [well.port], check={"type": "http", "path": "/health", "port": doctor.port, "fall": 1, **QUICK}))
    until(lambda: doctor.checks.get(200, 0) >= 2, 20, "the doctor is asked")
    assert not well.requests
    assert bodies(port, 1) == ["0"]
    doctor.status = 404
    wait_state(p, well.port, "down")
    assert get(port).status == 503
    until(lambda: ends(p, "no_target") == 1, 10, "counted: no_target")
    p.config["upstreams"][0]["check"]["port"] = babble.port
    p.write()
    assert p.reload().status == 200
    until(lambda: (p.target(well.port)["last_failure"] or {})["reason"] == "bad_response", 20, "not HTTP")
    p.config["upstreams"][0]["check"] = {"type": "none"}  # not checked any more: up
    p.write()
    assert p.reload().status == 200
    wait_state(p, well.port, "up")
    assert bodies(port, 1) == ["0"]


def test_checks_go_on_over_updates_and_end_with_the_target(t):
    a, b = Patient(t), Patient(t)
    group = upstream("app", [a.port, b.port], check={"type": "http", "path": "/health", **QUICK})
    p, port = group_proxy(t, group)
    until(lambda: b.checks.get(200, 0) >= 2, 20, "checked")
    for _ in range(20):
        assert p.put_routes(p.config["routes"]).status == 200
    before = a.checks[200]
    until(lambda: a.checks[200] > before, 20, "checked on")
    p.config["upstreams"] = (upstream("app", [a.port], check=group["check"]),)
    p.write()
    assert p.reload().status == 200
    until(lambda: len(p.upstreams()) == 1, 20, "b is gone")
    seen = len(b.origin.connections)
    before = a.checks[200]
    until(lambda: a.checks[200] > before + 5, 20, "a is checked on")
    assert len(b.origin.connections) <= seen + 1
    assert bodies(port, 2) == ["ok", "ok"]


# ---- ejection ----

def test_ejected_after_failures_in_a_row_and_back_after_the_time(t):
    state = {"status": 503}
    sick = t.origin(lambda c, r: c.send(answer(state["status"], b"sick")))
    well, other = named(t, 2)
    group = upstream("app", [sick.port, well.port, other.port], balance="round-robin", ejection={"failures": 3, "time": "2s"})
    p, port = group_proxy(t, group, workers=1)
    statuses = [get(port).status for _ in range(30)]
    assert statuses.count(503) == 3 and len(sick.requests) == 3, statuses
    view = p.target(sick.port)
    assert view["state"] == "ejected" and view["ejections"] == 1 and view["last_failure"]["reason"] == "status", view
    until(lambda: p.metric("smartproxy_target_up", f":{sick.port}") == 0, 10, "counted: smartproxy_target_up")
    until(lambda: p.metric("smartproxy_target_ejections_total", f":{sick.port}") == 1, 10, "counted: smartproxy_target_ejections_total")
    state["status"] = 200
    wait_state(p, sick.port, "up")
    assert [get(port).status for _ in range(12)] == [200] * 12
    assert len(sick.requests) >= 6, "it gets its share again"


def test_a_success_between_failures_counts_anew(t):
    turns = {"n": 0}

    def script(c, _r):
        turns["n"] += 1
        c.send(answer(200 if turns["n"] % 3 == 0 else 502, b"x"))
    odd = t.origin(script)
    well, = named(t, 1)
    group = upstream("app", [odd.port, well.port], balance="round-robin", ejection={"failures": 3, "time": "60s"})
    p, port = group_proxy(t, group, workers=1)
    for _ in range(60):
        get(port)
    assert p.target(odd.port)["ejections"] == 0 and turns["n"] == 30


def test_a_client_that_leaves_a_server_error_makes_no_success_of_it(t):
    def script(c, _r):
        c.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\nhalf")
        c.fill()
    sick, well = t.origin(script), named(t, 1)[0]
    group = upstream("app", [sick.port, well.port], balance="round-robin", ejection={"failures": 3, "time": "60s"})
    p, port = group_proxy(t, group, workers=1)
    statuses = []
    for _ in range(10):
        with Client(port) as c:
            statuses.append(c.request().head().status)
            reset(c)
        idle(p)
    assert statuses.count(503) == 3, statuses
    view = p.target(sick.port)
    assert (view["state"], view["failures"], view["last_failure"]["reason"]) == ("ejected", 3, "status"), view


def test_clients_that_stall_in_their_requests_eject_no_target(t):
    """An answer that begins before the request has ended waits for what is to come of it."""
    def script(c, r):
        while not c.buffer:
            c.fill()
        c.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(c.buffer), c.buffer))
        c.fill()
    echoes = [t.origin(script, reads_body=False) for _ in range(2)]
    group = upstream("app", [o.port for o in echoes], balance="round-robin", ejection={"failures": 3, "time": "60s"})
    p, port = group_proxy(t, group, workers=1, timeouts={"idle": "500ms"})
    clients = [t.connect(port).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello") for _ in range(8)]
    for c in clients:
        assert c.wait_closed().endswith(b"\r\nhello\r\n")
    until(lambda: ends(p, "client_idle") == 8, 10, "counted: client_idle")
    for o in echoes:
        view = p.target(o.port)
        assert (view["requests"], view["failures"], view["state"]) == (4, 0, "up"), view


def test_only_a_share_is_ejected_and_never_the_last_one(t):
    sick = [t.origin(fixed(b"sick", 503)) for _ in range(4)]
    well, = named(t, 1)
    group = upstream("app", [o.port for o in sick] + [well.port], balance="round-robin",
                     ejection={"failures": 2, "time": "60s", "max_share": 40})
    p, port = group_proxy(t, group, workers=4)
    burst(8, lambda ix: [get(port).status for _ in range(20)])
    states = [u["state"] for u in p.upstreams()]
    assert states.count("ejected") == 2, states
    alone = t.origin(fixed(b"sick", 503))
    p.config["upstreams"] = (upstream("app", [alone.port], ejection={"failures": 1, "time": "60s", "max_share": 100}),)
    p.write()
    assert p.reload().status == 200
    assert {get(port).status for _ in range(10)} == {503}
    assert len(alone.requests) == 10, "the last one is never ejected"
    pair = [t.origin(fixed(b"sick", 503)) for _ in range(2)]
    p.config["upstreams"] = (upstream("app", [o.port for o in pair], ejection={"failures": 1, "time": "60s", "max_share": 100}),)
    p.write()
    assert p.reload().status == 200
    burst(8, lambda ix: [get(port).status for _ in range(10)])
    assert sorted(u["state"] for u in p.upstreams() if int(u["target"].split(":")[1]) in [o.port for o in pair]) == ["ejected", "up"]


# ---- retries ----

def test_a_dying_target_costs_no_client_an_error(t):
    dying, well = t.origin(close_now), named(t, 1)[0]
    group = upstream("app", [dying.port, well.port], balance="round-robin", ejection={"failures": 5, "time": "60s"})
    p, port = group_proxy(t, group, workers=4)
    statuses = sum(burst(10, lambda ix: [get(port, method).status for method in ("/a", "/b", "/c", "/d", "/e")]), [])
    assert statuses == [200] * 50, statuses
    for method in ("HEAD", "OPTIONS", "DELETE", "PUT"):
        with Client(port) as c:
            c.request(method, "/", body=b"" if method == "PUT" else None)
            assert c.response(method).status == 200, method
    assert p.metric("smartproxy_target_retries_total") >= 5
    assert p.target(dying.port)["last_failure"]["reason"] == "closed"


def test_a_target_killed_under_load_costs_no_client_an_error(t):
    origins = named(t, 3)
    # Budget for everything that was under way at the moment of death.
    group = upstream("app", [o.port for o in origins], ejection={"failures": 3, "time": "60s"}, retry={"tries": 3, "budget": 100})
    _, port = group_proxy(t, group, workers=4)
    stop = threading.Event()
    failed = []

    def client(_ix):
        cnt = 0
        while not stop.is_set():
            with Client(port) as c:
                for _ in range(20):
                    response = c.get()
                    cnt += 1
                    if response.status != 200:
                        failed.append(response)
        return cnt

    def killer():
        until(lambda: all(len(o.requests) > 50 for o in origins), 30, "traffic")
        origins[0].stop()
        before = len(origins[1].requests)
        until(lambda: len(origins[1].requests) > before + 100, 30, "traffic goes on")
        stop.set()
    thread = threading.Thread(target=killer)
    thread.start()
    cnt = sum(burst(8, client))
    thread.join()
    assert not failed, (len(failed), cnt, failed[:3])


def test_what_was_sent_is_not_repeated_unless_it_is_idempotent(t):
    dying, well = t.origin(close_now), named(t, 1)[0]
    group = upstream("app", [dying.port, well.port], balance="round-robin", ejection=NO_EJECTION)
    p, port = group_proxy(t, group, workers=1)

    def statuses(method, body):
        found = []
        for _ in range(6):
            with Client(port) as c:
                c.request(method, "/", body=body)
                found.append(c.response().status)
        return sorted(found)
    assert statuses("POST", b"") == [200] * 3 + [502] * 3
    assert statuses("POST", b"body") == [200] * 3 + [502] * 3
    assert statuses("POST", [b"chunk"]) == [200] * 3 + [502] * 3
    assert statuses("PUT", b"body") == [200] * 3 + [502] * 3  # its body was begun
    assert len(dying.requests) == 12 and len(well.requests) == 12
    assert statuses("GET", None) == [200] * 6
    until(lambda: ends(p, "upstream_gone") == 12, 10, "counted: upstream_gone")


def test_a_post_that_never_left_may_go_elsewhere(t):
    dead = t.port()
    well, = named(t, 1)
    p, port = group_proxy(t, upstream("app", [dead, well.port], balance="round-robin", ejection=NO_EJECTION), workers=1)
    for _ in range(6):
        with Client(port) as c:
            c.request("POST", "/", body=b"x" * 1000)
            assert c.response().status == 200
    assert len(well.requests) == 6 and all(r.body == b"x" * 1000 for r in well.requests)
    assert p.target(dead)["failures"] >= 3 and p.target(dead)["last_failure"]["reason"] == "connect_refused"


def test_the_budget_bounds_retries(t):
    origins = [t.origin(close_now) for _ in range(3)]
    group = upstream("app", [o.port for o in origins], balance="round-robin", ejection=NO_EJECTION, retry={"tries": 3, "budget": 0})
    p, port = group_proxy(t, group, workers=1)
    assert {get(port).status for _ in range(100)} == {502}
    total = sum(len(o.requests) for o in origins)
    retries = p.metric("smartproxy_target_retries_total")
    assert total == 100 + retries and 10 <= retries <= 30, (total, retries)
    until(lambda: ends(p, "upstream_gone") == 100, 10, "counted: upstream_gone")


def test_tries_bound_the_targets_of_one_request(t):
    origins = [t.origin(close_now) for _ in range(4)]
    group = upstream("app", [o.port for o in origins], balance="round-robin", ejection=NO_EJECTION, retry={"tries": 2, "budget": 1000})
    p, port = group_proxy(t, group, workers=1)
    assert {get(port).status for _ in range(10)} == {502}
    assert sum(len(o.requests) for o in origins) == 20
    p.config["upstreams"][0]["retry"] = {"tries": 1}
    p.write()
    assert p.reload().status == 200
    assert {get(port).status for _ in range(10)} == {502}
    assert sum(len(o.requests) for o in origins) == 30


# ---- kinds of failure ----

def test_b15_refused_silent_slow_and_dying_targets_are_told_apart(t):
    refused, silent = t.port(), Silent(t)
    slow_one, dying = t.origin(hang), t.origin(close_now)
    not_http = t.origin(lambda c, r: (c.send(b"220 mail\r\n\r\n"), c.close()))
    cut = t.origin(lambda c, r: (c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), c.close()))
    ports = {kind: t.port() for kind in ("refused", "silent", "slow", "dying", "not_http", "cut")}
    targets = {"refused": refused, "silent": silent.port, "slow": slow_one.port, "dying": dying.port, "not_http": not_http.port,
               "cut": cut.port}
    p = t.proxy([forward(kind, [ports[kind]], [targets[kind]]) for kind in ports], timeouts={"connect": "500ms", "response": "500ms"})
    for kind, status, end, reason in (("refused", 502, "connect_failed", "connect_refused"),
                                      ("silent", 504, "connect_timeout", "connect_timeout"),
                                      ("slow", 504, "upstream_timeout", "response_timeout"),
                                      ("dying", 502, "upstream_gone", "closed"),
                                      ("not_http", 502, "upstream_bad", "bad_response")):
        response = get(ports[kind])
        assert response.status == status, (kind, response)
        until(lambda: ends(p, end) == 1, 10, f"{kind} is counted")
        view = p.target(targets[kind])
        assert view["last_failure"]["reason"] == reason and view["failures"] == 1, (kind, view)
    assert is_cut(ports["cut"])
    until(lambda: p.target(cut.port)["failures"] == 1, 10, "the cut answer is counted")
    assert p.target(cut.port)["last_failure"]["reason"] == "closed"
    assert len(cut.requests) == 1, "an answer that was begun is not asked for again"
    until(lambda: p.metric("smartproxy_target_in_flight") == 0, 10, "nothing is left behind")
    until(lambda: len(slow_one.connections) == 1 and slow_one.connections[0].is_closed, 10, "the slow one was let go")


def test_a_silent_target_is_passed_over(t):
    silent, well = Silent(t), named(t, 1)[0]
    group = upstream("app", [silent.port, well.port], balance="round-robin", ejection={"failures": 1, "time": "60s"})
    p, port = group_proxy(t, group, workers=1, timeouts={"connect": "300ms"})
    for _ in range(10):
        with Client(port) as c:
            c.request("POST", "/", body=b"x")
            assert c.response().status == 200
    view = p.target(silent.port)
    assert view["state"] == "ejected" and view["failures"] == 1, view


def test_b20_a_client_that_goes_while_its_target_is_connected_to(t):
    silent = Silent(t)
    p, port = group_proxy(t, upstream("app", [silent.port]), timeouts={"connect": "10m"})
    clients = [t.connect(port) for _ in range(10)]
    for c in clients:
        c.request()
    until(lambda: p.target(silent.port)["in_flight"] == 10, 20, "ten are connecting")
    for c in clients:
        reset(c)
    until(lambda: p.target(silent.port)["in_flight"] == 0, 20, "nobody is any more")
    until(lambda: p.metric("smartproxy_connections_open") == 0, 20, "the clients are gone")
    assert p.target(silent.port)["failures"] == 0  # it is not the target's fault
    p.wait_fds()


def test_an_address_that_no_route_leads_to(t):
    t.need_namespace()  # which has nothing but loopback
    well, = named(t, 1)
    group = upstream("app", [("192.0.2.1", 80), ("2001:db8::1", 80), well.port], balance="round-robin", ejection={"failures": 1, "time": "60s", "max_share": 100})
    p, port = group_proxy(t, group)
    assert bodies(port, 20) == ["0"] * 20
    reasons = {u["target"]: u["last_failure"] for u in p.upstreams() if u["last_failure"]}
    assert len(reasons) == 2 and all(r["reason"] == "connect_refused" for r in reasons.values()), reasons
    p.config["upstreams"] = (upstream("app", [("192.0.2.1", 80)]),)
    p.write()
    assert p.reload().status == 200
    assert get(port).status == 502


def test_a_server_error_of_the_application_is_passed_on(t):
    for status in (500, 501, 502, 503, 504, 404):
        odd = t.origin(fixed(b"its own text", status))
        _, port = group_proxy(t, upstream("app", [odd.port]))
        response = get(port)
        assert response.status == status and response.body == b"its own text"
        assert len(odd.requests) == 1


def test_which_status_counts_as_a_failure(t):
    for status in (200, 404, 429, 500, 501, 502, 503, 504):
        odd = t.origin(fixed(b"x", status))
        p, port = group_proxy(t, upstream("app", [odd.port]))
        assert get(port).status == status
        wanted = 1 if status in (500, 502, 503, 504) else 0
        until(lambda: p.target(odd.port)["in_flight"] == 0, 10, "it has ended")
        assert p.target(odd.port)["failures"] == wanted, (status, p.target(odd.port))
        p.stop()


if __name__ == "__main__":
    main()
