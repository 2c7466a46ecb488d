"""The control thread: one client of the admin API does not lock out the others, nothing blocks it, nothing makes it spin; privileges."""
import http.client
import os
import re
import socket
import ssl
import time

from sp import main, until
from sp.client import Client, tls_context
from sp.conf import AUTO, forward, respond, static_tls
from sp.dns import DnsServer
from sp.pebble import make_ca, make_leaf
from sp.process import run_ctl
from sp.runner import Skip


def dial(p):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(p.socket_path)
    return s


def get_once(s):
    s.sendall(b"GET /v1/reload HTTP/1.1\r\nHost: l\r\n\r\n") # 405, and the connection stays
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"\n"):
        got = s.recv(65536)
        assert got, data
        data += got


def test_idle_connections_do_not_lock_out_the_next_question(t):
    p = t.proxy([respond("a", [t.port()])])
    kept = [dial(p) for _ in range(64)]
    for s in kept:
        t.cleanup(s.close)
        get_once(s)
    for _ in range(10):
        assert p.status()["pid"] == p.pid


def cpu_s(p):
    with open(f"/proc/{p.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_loop_does_not_spin_when_descriptors_are_out(t):
    port = t.port()
    p = t.proxy([respond("a", [port])], workers=1, wrapper=["prlimit", "--nofile=64:64"])
    clients = []
    while p.fd_cnt() < 64 and len(clients) < 80:
        clients.append(Client(port))
    asking = dial(p) # waits in the queue
    t.cleanup(asking.close)
    begin_s, at = cpu_s(p), time.monotonic()
    until(lambda: time.monotonic() - at > 1, 5, "a second")
    used_s = cpu_s(p) - begin_s
    for c in clients:
        c.close()
    assert used_s < 0.5, f"{used_s} s of CPU in one idle second"
    get_once(asking)


def test_an_access_log_that_nobody_reads_holds_up_nothing(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "x")])
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    p.config["global"]["log"]["access"] = fifo
    p.write()
    assert p.api("POST", "/v1/reload", timeout_s=10).status == 200
    p.wait_log(r"access log .*fifo cannot be opened", 5)
    assert t.connect(port).get().body == b"x"


def test_an_update_past_its_deadline_is_refused_and_leaves_nothing(t):
    """The name of a new target is waited for, a second at most; global.control.update_timeout is over before that."""
    dns = DnsServer(t, {"late.test": "silent"})
    port, new_port = t.port(), t.port()
    p = t.proxy([respond("a", [port], "a")], start=False, dns=dns.config())
    p.config["global"]["control"]["update_timeout"] = "300ms"
    p.write()
    p.start()
    generation, before = p.metric("smartproxy_generation"), p.get("/v1/routes")
    wanted = [respond("a", [port], "b"), forward("n", [new_port], [("late.test", t.origin().port)])]
    for reload_first in (False, True):
        if reload_first:
            p.write(wanted)
        answer = p.reload() if reload_first else p.put_routes(wanted)
        assert answer.status == 503 and answer.json()["error"]["code"] == "timeout", f"{answer.status} {answer.text}"
        assert "global.control.update_timeout (300 ms), nothing was changed" in answer.text, answer.text
        assert p.get("/v1/routes") == before and p.metric("smartproxy_generation") == generation
        assert [x["port"] for x in p.listeners()] == [port] and p.upstreams() == []
        with Client(port) as c:
            assert c.get().body == b"a"
    assert p.metric("smartproxy_update_total", 'result="late"') == 2 and p.metric("smartproxy_update_total", 'result="applied"') == 0
    p.wait_fds(p.begin_fds + 1) # to the name server
    dns.zone["late.test"] = (["127.0.0.1"], 60)
    until(lambda: p.reload().status == 200, 10, "an update that is in time")
    assert t.connect(port).get().body == b"b" and t.connect(new_port).get().body == b"origin\n"


def test_a_control_socket_of_somebody_else_is_left_alone(t):
    if os.getuid() != 0:
        raise Skip("needs root")
    port = t.port()
    os.chmod(t.dir, 0o777)
    path = t.path("foreign.sock")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen(1)
        os.chmod(path, 0o600) # of root
        p = t.proxy([respond("a", [port])], start=False, global_={"control": {"path": path}},
                    wrapper=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        os.chmod(p.dir, 0o777)
        p.spawn()
        assert p.wait_exit(10) == 1
        assert path in p.log_text(), p.log_text()
        with socket.socket(socket.AF_UNIX) as c:
            c.connect(path) # still his


def test_a_start_that_fails_for_the_control_socket_says_so(t):
    p = t.proxy([respond("a", [t.port()])], start=False, global_={"control": {"path": t.path("no", "such", "c.sock")}})
    p.spawn()
    assert p.wait_exit(10) == 1
    assert "start failed: control socket" in p.log_text() and "global.control.path" in p.log_text(), p.log_text()
    assert p.command.count("ready") == 0


def as_nobody(t, ports, **options):
    if os.getuid() != 0:
        raise Skip("needs root")
    t.need_namespace()
    os.chmod(t.dir, 0o755)
    p = t.proxy([respond("a", ports, "x")], start=False, global_={"user": "nobody", "group": "nogroup"}, **options)
    os.chmod(p.dir, 0o777)
    return p


def test_a_reload_opens_a_low_port_after_the_privileges_are_gone(t):
    p = as_nobody(t, [80])
    p.start()
    with open(f"/proc/{p.pid}/status") as f:
        status = dict(line.split(":\t", 1) for line in f.read().splitlines())
    assert status["Uid"].split() == ["65534"] * 4 and status["Groups"].split() in ([], ["65534"]), status
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 10, status
    p.write([respond("a", [80, 443], "x")])
    answer = p.reload()
    assert answer.status == 200, answer.text
    assert t.connect(443).get().body == b"x" and t.connect(80).get().body == b"x"
    assert os.stat(p.state_dir).st_uid == 65534 and os.stat(p.state_dir).st_mode & 0o777 == 0o700
    p.write([respond("a", [80], "x")])
    assert p.reload().status == 200


def test_without_the_capability_high_ports_are_served(t):
    t.need("setpriv")
    port = t.port()
    p = as_nobody(t, [port], wrapper=["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"])
    p.start()
    assert t.connect(port).get().body == b"x"
    assert p.command.count("CAP_NET_BIND_SERVICE") == 1


def test_a_state_dir_of_root_is_named_with_what_to_do(t):
    p = as_nobody(t, [t.port()])
    os.mkdir(p.state_dir, 0o700)
    p.spawn()
    assert p.wait_exit(10) == 1
    assert f"chown -R nobody {p.state_dir}" in p.log_text(), p.log_text()


def test_ctl_names_a_path_that_is_too_long(t):
    p = t.proxy([respond("a", [t.port()])])
    path, p.socket_path = p.socket_path, "/" + "x" * 120
    code, _, err = run_ctl(p, "status")
    p.socket_path = path
    assert code == 3 and "107 bytes" in err, err


def test_a_shorter_ticket_rotation_counts_from_the_reload(t):
    ca = make_ca(t.dir)
    port = t.port()
    p = t.proxy([respond("a", [port], "x", tls=static_tls(*make_leaf(t.dir, "leaf", ["a.test"], ca)))])
    context = tls_context(ca[0], maximum=ssl.TLSVersion.TLSv1_2)
    with Client(port, tls=context, server_name="a.test") as c:
        c.get(host="a.test")
        session = c.sock.session

    def resumes():
        with Client(port, tls=context, server_name="a.test", session=session) as c:
            c.get(host="a.test")
            return c.sock.session_reused
    assert resumes()
    p.config["tls"] = {"ticket_rotation": "1s"}
    p.write()
    assert p.reload().status == 200
    until(lambda: not resumes(), 15, "the ticket's key is gone", 0.2)


LABELS = r'\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)+\}'


def test_the_metrics_are_what_prometheus_reads(t):
    """Each family once and in one piece: HELP, TYPE, then its samples, no two the same; counters end in _total."""
    port = t.port()
    p = t.proxy([respond("a", [port], "x", domains=["a.test"], tls=AUTO)], acme={"directory": "https://127.0.0.1:1/dir", "port": t.port()})
    text = p.api("GET", "/metrics").text
    assert text.endswith("\n")
    types, samples, family = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in types, line
            types[family] = None
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and types[name] is None and kind in ("counter", "gauge"), line
            assert (kind == "counter") == name.endswith("_total"), line
            types[name] = kind
        else:
            match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(" + LABELS + r")? (-?\d+(?:\.\d+)?)", line)
            assert match and match.group(1) == family and types[family], line
            assert match.group(1, 2) not in samples, line
            samples.add(match.group(1, 2))
    assert len(types) > 30 and len(samples) > len(types)


def test_an_answer_is_whole_or_has_not_begun(t):
    from test_faults import start_under_faults
    p = start_under_faults(t, "malloc=0.01", [respond("a", [t.port()])])
    statuses = set()
    for _ in range(600):
        try:
            statuses.add(p.api("GET", "/metrics").status)
        except http.client.IncompleteRead:
            raise
        except (OSError, http.client.HTTPException):
            pass # not begun
    assert statuses == {200, 503}, statuses


def test_the_first_certificate_to_go_needs_no_new_thread(t):
    """What is made late can fail late: liburcu ends the process when its own thread cannot be made."""
    port = t.port()
    leaf = make_leaf(t.dir, "leaf", ["a.test"], make_ca(t.dir))
    p = t.proxy([respond("a", [port], tls=static_tls(*leaf))])
    threads = os.listdir(f"/proc/{p.pid}/task")
    assert p.put_routes([respond("a", [port])]).status == 200
    until(lambda: p.status()["retired_generations"] == 0, 5, "the old generation is gone")
    assert os.listdir(f"/proc/{p.pid}/task") == threads


def test_a_worker_that_does_not_answer_refuses_the_update_and_no_more(t):
    """Stopped by ptrace; the calls that wait for it outlive the update that asked."""
    ptrace = tracer()
    first, second = t.port(), t.port()
    p = t.proxy([respond("a", [first], "one"), respond("b", [second], "one")], workers=2)
    tid = next(int(x) for x in os.listdir(f"/proc/{p.pid}/task") if comm(p.pid, x) == "worker-1")
    ptrace(16, tid) # PTRACE_ATTACH
    os.waitpid(tid, 0x40000000) # __WALL
    try:
        answer = p.put_routes([respond("a", [first], "two")])
    finally:
        ptrace(17, tid) # PTRACE_DETACH
    assert answer.status == 503 and "worker" in answer.text, answer.text
    assert t.connect(second).get().body == b"one"
    assert p.put_routes([respond("a", [first], "two")]).status == 200
    until(lambda: t.connect(first).get().body == b"two", 10, "applied")
    assert [x["port"] for x in p.listeners()] == [first]


def comm(pid, tid):
    with open(f"/proc/{pid}/task/{tid}/comm") as f:
        return f.read().strip()


def tracer():
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(what, tid):
        if libc.ptrace(what, tid, None, None) != 0:
            raise Skip("ptrace is not allowed here")
    return ptrace


if __name__ == "__main__":
    main()
