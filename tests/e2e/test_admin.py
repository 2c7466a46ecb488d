"""The admin API on its Unix socket, smartproxyctl and the metrics."""
import json
import os
import signal
import socket
import threading

from sp import main, until
from sp.conf import forward, redirect, respond, to_upstream, upstream
from sp.origin import fixed
from sp.process import run_ctl
from sp.wait import Deadline


def test_status_routes_listeners(t):
    first, second = t.port(), t.port()
    p = t.proxy([respond("a", [first, second], domains=["a.test"]), redirect("b", [second], "https://{host}{path}")], workers=3)
    status = p.status()
    assert status["pid"] == p.pid and status["workers"] == 3 and status["generation"] >= 1 and status["version"]
    assert status["acme"]["challenge_route"]["state"] == "absent"
    routes = p.get("/v1/routes")["routes"]
    assert [r["name"] for r in routes] == ["a", "b"]
    assert routes[0]["match"]["ports"] == [first, second] and routes[0]["match"]["domains"] == ["a.test"]
    assert routes[1]["action"]["type"] == "redirect"
    listeners = p.listeners()
    assert sorted(x["port"] for x in listeners) == sorted([first, second])
    assert all(x["sockets"] == 3 for x in listeners), listeners
    assert p.certificates() == []


def test_put_routes_replaces_the_list(t):
    first, second = t.port(), t.port()
    p = t.proxy([respond("a", [first], "one")])
    answer = p.put_routes([respond("a", [first], "two"), respond("b", [second], "three")])
    assert answer.status == 200, answer.text
    # "applied" means every worker: a new connection and any number of them see it at once.
    for _ in range(20):
        assert t.connect(first).get().body == b"two" and t.connect(second).get().body == b"three"
    assert p.put_routes(p.get("/v1/routes")["routes"]).status == 200, "what GET gives, PUT takes"
    answer = p.api("PUT", "/v1/routes", p.api("GET", "/v1/routes").text)
    assert answer.status == 200 and answer.json()["routes"] == 2, answer.text
    assert p.put_routes([]).status == 200
    try:
        t.connect(second)
        raise AssertionError("the port is still open")
    except ConnectionRefusedError:
        pass
    assert p.reload().status == 200
    assert t.connect(first).get().body == b"one", "reload returns to the file"


def test_bad_updates_change_nothing_and_say_where(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "one")])
    generation = p.status()["generation"]
    for body, word in ((b"{", "JSON"), (b"", ""), (b"5", ""), (b'{"routes":5}', "routes"),
                       ([{"name": "x"}], "match"), ([respond("x", [0])], "ports"), ([respond("x", [port]), respond("x", [port])], "x"),
                       ([forward("x", [port], [])], "targets"), ([{**respond("x", [port]), "colour": "red"}], "colour"),
                       (b"[" * 100000, ""), (b'"' + b"a" * 1000000 + b'"', "")):
        answer = p.api("PUT", "/v1/routes", body)
        assert 400 <= answer.status < 500, f"{str(body)[:60]}: {answer.status}"
        assert word in answer.text, f"{str(body)[:60]}: {answer.text}"
        json.loads(answer.text)
    assert p.status()["generation"] == generation
    assert t.connect(port).get().body == b"one"


def test_a_port_in_use_refuses_the_update_with_409_and_the_holder(t):
    port, other = t.port(), t.port()
    p = t.proxy([respond("a", [port], "one")])
    holder = socket.socket()
    t.cleanup(holder.close)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", other))
    holder.listen(1)
    free = t.port()
    answer = p.put_routes([respond("a", [port], "two"), respond("free", [free]), respond("b", [other])])
    assert answer.status == 409, f"{answer.status} {answer.text}"
    assert str(other) in answer.text and str(os.getpid()) in answer.text and "python3" in answer.text, answer.text
    assert t.connect(port).get().body == b"one"
    assert [x["port"] for x in p.listeners()] == [port]
    try:
        t.connect(free)
        raise AssertionError("a port of the refused update is open")
    except ConnectionRefusedError:
        pass
    holder.close()
    assert p.put_routes([respond("b", [other], "now")]).status == 200
    assert t.connect(other).get().body == b"now"


def test_unknown_paths_and_methods(t):
    p = t.proxy([respond("a", [t.port()])])
    assert p.api("GET", "/").status == 404
    assert p.api("GET", "/v1/nothing").status == 404
    assert p.api("DELETE", "/v1/routes").status == 405
    assert p.api("POST", "/v1/status").status == 405
    assert p.api("GET", "/v1/reload").status == 405


def test_the_api_survives_bad_clients(t):
    p = t.proxy([respond("a", [t.port()])], workers=1)
    begin = p.fd_cnt()
    for data in (b"garbage\r\n\r\n", b"GET /v1/status HTTP/1.1\r\n\r\n", b"PUT /v1/routes HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
                 b"\x00" * 5000, b"GET /" + b"a" * 100000, b"PUT /v1/routes HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(p.socket_path)
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for s in silent:
        s.connect(p.socket_path)
    assert p.status()["pid"] == p.pid
    for s in silent:
        s.close()
    p.wait_fds(begin)


def ask(connection, data):
    """One answer's head and what of its body comes with it; the body's own length says how much that must be."""
    connection.sendall(data)
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        assert more, got
        got += more
    return got


def test_a_bad_request_behind_head_is_answered_with_its_body(t):
    p = t.proxy([respond("a", [t.port()])], workers=1)
    with p.raw_api() as s:
        head = ask(s, b"HEAD /v1/status HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n"), head
        head, _, body = ask(s, b"GET / HTTP/9.9\r\n\r\n").partition(b"\r\n\r\n")
        while more := s.recv(65536):
            body += more
        assert head.startswith(b"HTTP/1.1 505 "), head
        assert f"Content-Length: {len(body)}\r\n".encode() in head, (head, body)
        assert json.loads(body)["error"]["code"] == "bad_request"


def test_the_bodies_of_all_connections_have_a_bound_together(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "one")], workers=1)
    put = b"PUT /v1/routes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    go_on = b"HTTP/1.1 100 "
    with p.raw_api() as first:
        assert ask(first, put % (200 << 20)).startswith(go_on)
        with p.raw_api() as second:
            answer = ask(second, put % (100 << 20))
            assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in answer, answer
        assert p.put_routes([respond("a", [port], "two")]).status == 200, "a small one has room beside it"
        assert t.connect(port).get().body == b"two"

    def is_taken():
        with p.raw_api() as s:
            return ask(s, put % (100 << 20)).startswith(go_on)
    until(is_taken, what="the room of the first is free again")


def test_metrics(t):
    o = t.origin()
    port = t.port()
    p = t.proxy([forward("a", [port], [o.port])], workers=2)
    c = t.connect(port)
    for _ in range(5):
        c.get()
    c.get(host="a b")
    found = p.metrics()
    assert all(name.startswith("smartproxy_") or name.startswith("process_") for name, _ in found), found
    assert any(value >= 5 for (name, _), value in found.items() if "requests" in name), found
    text = p.api("GET", "/metrics").text
    assert "# TYPE smartproxy_" in text and "# HELP smartproxy_" in text


def test_ctl_speaks_to_the_proxy(t):
    port = t.port()
    p = t.proxy([respond("first", [port], domains=["a.test"]), respond("second", [port])])
    code, out, err = run_ctl(p, "status")
    assert code == 0 and str(p.pid) in out, out + err
    code, out, err = run_ctl(p, "routes")
    assert code == 0 and "first" in out and "second" in out and "a.test" in out, out + err
    code, out, err = run_ctl(p, "ports")
    assert code == 0 and str(port) in out, out + err
    code, out, err = run_ctl(p, "certs")
    assert code == 0, out + err
    for verb in ("status", "routes", "ports", "certs"):
        code, out, err = run_ctl(p, verb, "--json")
        assert code == 0, out + err
        json.loads(out)
    code, out, err = run_ctl(p, "reload")
    assert code == 0, out + err
    code, out, err = run_ctl(p, "nonsense")
    assert code != 0 and err, out
    p.config["global"]["workerz"] = 1
    p.write()
    code, out, err = run_ctl(p, "reload")
    assert code != 0 and "workerz" in out + err, out + err
    p.stop()
    code, out, err = run_ctl(p, "status")
    assert code != 0 and p.socket_path in err, out + err


def test_ctl_shows_targets_and_connections(t):
    port, dead, o = t.port(), t.port(), t.origin()
    group = upstream("app", [dead, o.port], balance="round-robin", max_connections=9, ejection={"failures": 1, "time": "1m"})
    p = t.proxy([to_upstream("r", [port], "app")], upstreams=(group,))
    c = t.connect(port)
    for _ in range(3):
        assert c.get().status == 200
    p.wait_log(rf"a target is ejected after failures of traffic: Connection refused target=127.0.0.1:{dead} group=app "
               r"reason=connect_refused time_ms=60000 \(the others")
    code, out, err = run_ctl(p, "upstreams")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and rows[0][:4] == ["GROUP", "TARGET", "TLS", "STATE"], out + err
    assert ["app", f"127.0.0.1:{dead}", "-", "ejected"] in [r[:4] for r in rows], out
    assert ["app", f"127.0.0.1:{o.port}", "-", "up", "1", "none", "0", "of", "9"] in [r[:9] for r in rows], out
    assert ["app", f"127.0.0.1:{dead}", "ejected", "connect_refused", "Connection", "refused"] in [r[1:] for r in rows], out
    assert "2 targets: 1 up, 1 ejected" in out, out
    t.connect(port).get()
    code, out, err = run_ctl(p, "connections")
    rows = [line.split() for line in out.splitlines()]
    ages = [float(r[7][:-1]) for r in rows[1:]]
    assert code == 0 and rows[0][0] == "ID" and len(rows) == 3, out + err
    assert rows[1][3:7] == ["-", "-", "http", "idle"] and ages == sorted(ages, reverse=True), out
    code, out, err = run_ctl(p, "connections", "1")
    assert code == 0 and "2 connections are open, 1 are shown" in out, out + err


def test_updates_from_many_clients_are_serialised(t):
    o = t.origin()
    kept, extra = t.port(), [t.port() for _ in range(4)]
    keep = forward("keep", [kept], [o.port])
    p = t.proxy([keep], workers=2)
    failures = []

    def update(ix):
        try:
            for round_ in range(10):
                routes = [keep] + [respond(f"x{n}", [n], "x") for n in extra[:(ix + round_) % 5]]
                answer = p.put_routes(routes) if round_ % 3 else p.reload()
                if answer.status != 200:
                    failures.append(f"{answer.status} {answer.text}")
        except Exception as e:
            failures.append(repr(e))

    steady = t.connect(kept)
    threads = [threading.Thread(target=update, args=(ix,)) for ix in range(8)]
    for x in threads:
        x.start()
    served = 0
    while any(x.is_alive() for x in threads):
        assert steady.get().status == 200
        assert t.connect(kept).get().status == 200
        served += 1
    assert not failures, failures[:5]
    assert served
    assert p.put_routes([keep]).status == 200
    for port in extra:
        try:
            t.connect(port)
            raise AssertionError(f"port {port} is open")
        except ConnectionRefusedError:
            pass


def test_stop_by_signals(t):
    port = t.port()
    for number in (signal.SIGTERM, signal.SIGINT):
        p = t.proxy([respond("a", [port])])
        idle = t.connect(port)
        idle.get()
        p.signal(number)
        assert p.wait_exit(10) == 0
        assert not os.path.exists(p.socket_path), "the socket file is left behind"


def test_shutdown_timeout_ends_a_request_that_does_not_end(t):
    from sp.origin import hang
    o = t.origin(hang)
    port = t.port()
    p = t.proxy([forward("a", [port], [o.port])], global_={"shutdown_timeout": "500ms"})
    c = t.connect(port)
    c.request()
    o.wait_requests(1)
    p.signal(signal.SIGTERM)
    assert p.wait_exit(8) == 0


def test_a_stop_waits_for_an_answer_under_way_and_no_longer(t):
    """Its head promised that the connection is kept: a request that is there already is answered, too."""
    for is_followed in (False, True):
        gate = threading.Event()

        def half(c, _r):
            c.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            assert gate.wait(30)
            c.send(b"world")
        o = t.origin(half, fixed(b"next"))
        port = t.port()
        p = t.proxy([forward("a", [port], [o.port])], workers=1, global_={"shutdown_timeout": "300s"})
        idle, c = t.connect(port), t.connect(port)
        c.request()
        assert c.head().header("connection") is None
        if is_followed:
            c.request(target="/next")
        until(lambda p=p: p.metric("smartproxy_connections_open") == 2, 10, "the idle one is accepted")
        p.signal(signal.SIGTERM)
        assert idle.wait_closed() == b""  # the worker knows
        gate.set()
        while not c.buffer.startswith(b"helloworld"):
            c.fill()
        c.buffer = c.buffer[10:]
        if is_followed:
            r = c.response()
            assert r.body == b"next" and r.header("connection") == "close", r
        assert c.wait_closed() == b""
        assert p.wait_exit(20) == 0


def test_a_stale_socket_file_is_replaced(t):
    p = t.proxy([respond("a", [t.port()])])
    p.sigkill()
    assert os.path.exists(p.socket_path)
    p.start()
    assert p.status()["pid"] == p.pid


def test_a_second_instance_is_refused_and_the_first_is_named(t):
    p = t.proxy([respond("a", [t.port()])])
    second = t.proxy([respond("a", [t.port()])], start=False, state=p.state_dir)
    second.spawn()
    assert second.wait_exit(10) == 1
    assert str(p.pid) in second.log_text(), second.log_text()
    third = t.proxy(p.config["routes"], start=False)
    third.spawn()
    assert third.wait_exit(10) == 1
    assert str(p.pid) in third.log_text() and "in use" in third.log_text(), third.log_text()
    assert p.status()["pid"] == p.pid


def test_the_log_has_no_line_of_error(t):
    port = t.port()
    p = t.proxy([respond("a", [port])])
    t.connect(port).get()
    p.stop()
    bad = [line for line in p.log_text().splitlines() if " error " in line.lower() or " ERROR " in line]
    assert not bad, bad
    try:
        until(lambda: not p.is_alive(), 1, "ended")
    except Deadline:
        raise AssertionError("still alive") from None


if __name__ == "__main__":
    main()
