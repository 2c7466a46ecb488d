"""The promise about port 80: bound once, never missing, never in the way, whatever is updated meanwhile."""
import os
import re
import signal
import socket
import subprocess
import threading

from sp import Skip, main, slow, until
from sp.client import Client
from sp.conf import AUTO, block, forward, redirect, respond
from sp.wait import Deadline, pause

PREFIX = "/.well-known/acme-challenge/"


def wish(ix, port):
    return respond(f"w{ix}", [port], f"{ix}", domains=[f"w{ix}.test"], tls=AUTO)


def authority(t, **options):
    t.need_namespace()
    return t.pebble(http_port=80, **{"noncereject": 20, **options})


def hold(t, reuse_port):
    """A foreign listener on port 80, held by another process of the same uid."""
    code = ("import socket,sys\ns = socket.socket(socket.AF_INET)\n"
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
            f"s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, {1 if reuse_port else 0})\n"
            "s.bind(('0.0.0.0', 80))\ns.listen(5)\nprint('held', flush=True)\nsys.stdin.read()\n")
    holder = subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def end():
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
    t.cleanup(lambda: None if holder.poll() is not None else end())
    assert holder.stdout.readline() == b"held\n"
    return holder.pid, end


def listening_80():
    """sock_diag's view: listening sockets on port 80 in this namespace."""
    out = subprocess.run(["ss", "-Hltn", "sport = :80"], capture_output=True, text=True, check=True).stdout
    return len(out.splitlines())


class Steady:
    """A client of an untouched route that must not see a single failure: one kept connection and new ones in turn."""

    def __init__(self, port, wanted, target="/", host="steady.test"):
        self.port, self.wanted, self.target, self.host = port, wanted, target, host
        self.failures, self.served_cnt = [], 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        kept = Client(self.port)
        while not self.is_over.is_set():
            try:
                r = kept.get(self.target, host=self.host)
                with Client(self.port) as fresh:
                    other = fresh.get(self.target, host=self.host)
                if r.body != self.wanted or other.body != self.wanted:
                    self.failures.append(f"{r} {other}")
                self.served_cnt += 2
            except Exception as e:
                self.failures.append(repr(e))
                kept.close()
                try:
                    kept = Client(self.port)
                except OSError as again:
                    self.failures.append(repr(again))
                    pause(0.05)
        kept.close()

    def end(self, at_least=10):
        self.is_over.set()
        self.thread.join(10)
        assert not self.failures, f"{len(self.failures)} failures of {self.served_cnt}: {self.failures[:5]}"
        assert self.served_cnt >= at_least, f"only {self.served_cnt} requests were made"


def issue_60(t):
    """With Pebble itself, as many of its handlers at once as there are orders; None when Pebble hangs. (front.py says why it
    may. Its goroutines must show it, and it is seldom: nothing else is a reason for another try.)"""
    ca = authority(t, has_front=False)
    port = t.port()
    trace = t.path(f"trace{ca.port}")
    routes = [wish(ix, port) for ix in range(60)]
    p = t.proxy(routes, ca=ca, workers=4, start=False,
                wrapper=["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=bind", "-e", "signal=none", "-o", trace],
                env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
    p.start(60)
    most = 0
    try:
        def all_valid():
            nonlocal most
            states = [c["state"] for c in p.certificates()]
            most = max(most, p.status()["acme"]["orders"]["active"])
            return states.count("valid") == 60
        until(all_valid, 45, "60 certificates")
    except Deadline:
        hang = ca.check_hang()
        if not hang:
            raise
        print("#", *hang, sep="\n# ")
        p.sigkill()
        return None
    return ca, p, routes, trace, most


def test_60_certificates_at_once_one_activation_and_a_bind_a_worker(t):
    """In the whole life of the process, with updates after the issuance that take port 80 for a user route and leave it."""
    t.need("strace")
    ca, p, routes, trace, most = issue_60(t) or issue_60(t)
    p.wait_route("absent")
    route = p.challenge_route()
    assert (route["activated"], route["removed"]) == (1, 1), route
    assert most == 16, f"{most} orders at once at most"
    ca.check_one_order_each(60)
    assert ca.account_cnt() == 1
    assert listening_80() == 4, "keep_port keeps it"
    for extra in ([redirect("r", [80], "https://{host}{path}")], []):
        assert p.put_routes(routes + extra).status == 200
    p.stop()
    with open(trace) as f:
        binds = [line for line in f if re.search(r"bind\(.*htons\(80\)", line)]
    assert len(binds) == 4, "".join(binds)


def by_worker(p, cnt):
    """A kept connection to port 80 that each of cnt workers has accepted."""
    kept = {}

    def look():
        c = Client(80)
        c.get(host="any.test")
        me = "%s:%d" % c.sock.getsockname()[:2]
        worker = next(x["worker"] for x in p.connections() if x["client"] == me)
        if worker in kept:
            c.close()
        kept.setdefault(worker, c)
        return len(kept) == cnt
    until(look, 30, f"connections to {cnt} workers")
    return kept


def test_the_route_answers_through_the_whole_cycle(t):
    """Unknown tokens get the user's route all the time; known ones their key authorization, on every worker."""
    t.need_namespace()
    ca = authority(t, is_gated=True, nosleep=False, sleeptime=3)
    port = t.port()
    p = t.proxy([wish(ix, port) for ix in range(12)] + [respond("user", [80], "user")], ca=ca, workers=4)
    steady = Steady(80, b"user", PREFIX + "unknown-token", "w1.test")
    known = {}

    def tokens():
        for name, token in re.findall(r"Attempting to validate w/ HTTP: http://([a-z0-9.]+):\d+" + PREFIX + r"([A-Za-z0-9_-]+)",
                                      ca.log()):
            known[token] = name
        return len(known) == 12
    until(tokens, 30, "the CA looks for 12 tokens, and the gate holds it", 0.05)
    workers = by_worker(p, 4)
    answers = {token: set() for token in known}
    for c in workers.values():
        for token, name in known.items():
            r = c.get(PREFIX + token, host=name)
            assert r.status == 200 and r.body.startswith(token.encode() + b"."), r
            answers[token].add(r.body)
            assert c.get(PREFIX + token + "x", host=name).body == b"user"
    assert all(len(a) == 1 for a in answers.values()), answers
    ca.gate.open()
    final = set() # known no more: the CA has seen what it wanted
    while len([c for c in p.certificates() if c["state"] == "valid"]) < 12:
        for token, name in known.items():
            for c in workers.values():
                body = c.get(PREFIX + token, host=name).body
                assert body == b"user" if token in final else body in answers[token] | {b"user"}, body
                if body == b"user":
                    final.add(token)
        until(lambda: ca.valid_authz_cnt() >= len(final), 5, f"{len(final)} authorizations that are final")
    steady.end()
    for c in workers.values():
        c.close()
    ca.check_one_order_each(12)
    p.wait_route("absent")
    assert p.challenge_route()["activated"] == 1


def update_storm(t, cnt, wishes, clients):
    ca = authority(t, nosleep=False, sleeptime=2)
    o = t.origin()
    port, steady_port = t.port(), t.port()
    base = [wish(ix, port) for ix in range(wishes)] + [forward("steady", [steady_port], [o.port]),
                                                       respond("steady80", [80], "steady", domains=["steady.test"])]
    p = t.proxy(base, ca=ca, workers=4, acme={"order_interval": "0"})
    steady, steady80 = Steady(steady_port, b"origin\n"), Steady(80, b"steady")
    failures = []

    def update(ix):
        for round_ in range(cnt // clients):
            extra = [respond(f"x{ix}", [80], "x", domains=[f"x{ix}.test"])] if round_ % 2 else []
            extra += [redirect("to-https", [80], "https://{host}{path}")] if round_ % 3 == 0 else []
            try:
                if round_ % 5 == 4:
                    p.sighup()
                else:
                    answer = p.put_routes(base + extra)
                    if answer.status != 200:
                        failures.append(f"{answer.status} {answer.text}")
            except Exception as e:
                failures.append(repr(e))
    threads = [threading.Thread(target=update, args=(ix,)) for ix in range(clients)]
    for x in threads:
        x.start()
    for x in threads:
        x.join()
    assert not failures, f"{len(failures)} updates failed: {failures[:5]}"
    p.wait_certs(wishes, 90)
    steady.end(50)
    steady80.end(50)
    p.wait_route("absent")
    route = p.challenge_route()
    assert (route["activated"], route["removed"]) == (1, 1), route
    ca.check_one_order_each(wishes)
    assert "EADDRINUSE" not in p.log_text() and "in use" not in p.log_text()
    assert p.metric("smartproxy_listener_binds_total") == 3 * 4, "kept ports were bound again"
    assert listening_80() == 4


def test_updates_during_orders(t):
    update_storm(t, 80, 10, 8)


@slow
def test_500_updates_of_8_clients_during_60_orders(t):
    update_storm(t, 500, 60, 8)


def held_at_start(t, reuse_port):
    ca = authority(t)
    pid, release = hold(t, reuse_port)
    port, plain = t.port(), t.port()
    p = t.proxy([wish(ix, port) for ix in range(5)] + [respond("plain", [plain], "served")], ca=ca, workers=4)
    assert t.connect(plain).get().body == b"served"
    route = p.wait_route("waiting-for-port")
    waiting = until(lambda: p.challenge_route().get("waiting"), 5, "the holder")
    assert str(pid) in str(waiting) and "python3" in str(waiting), route
    assert {c["state"] for c in p.certificates()} == {"waiting-for-port"}
    assert ca.order_cnt() == 0, "an order was made before the port was there"
    # The same port wanted by a user route: refused with 409, and nothing changed.
    answer = p.put_routes([respond("plain", [plain], "changed"), respond("u", [80])])
    assert answer.status == 409 and str(pid) in answer.text and "python3" in answer.text, f"{answer.status} {answer.text}"
    p.write([respond("plain", [plain], "changed"), respond("u", [80])])
    assert p.reload().status == 409
    assert t.connect(plain).get().body == b"served"
    assert [c["state"] for c in p.certificates()] == ["waiting-for-port"] * 5
    waiting_lines = p.command.count(r"acme.*port 80|port 80.*in use")
    release()
    p.wait_certs(5, 60)
    assert waiting_lines <= 8, f"{waiting_lines} lines about the port: log once a change"
    ca.check_one_order_each(5)


def test_port_held_at_start(t):
    held_at_start(t, False)


def test_port_held_at_start_with_reuse_port(t):
    held_at_start(t, True)


def test_port_of_a_user_route_held_at_start_is_fatal_and_named(t):
    t.need_namespace()
    pid, _ = hold(t, True)
    p = t.proxy([respond("u", [80])], start=False)
    p.spawn()
    assert p.wait_exit(15) == 1
    assert str(pid) in p.log_text() and "python3" in p.log_text() and "80" in p.log_text(), p.log_text()


def test_a_second_instance_refuses_to_start_and_names_the_first(t):
    ca = authority(t)
    routes = [wish(0, t.port()), respond("u", [80])]
    p = t.proxy(routes, ca=ca, workers=4)
    p.wait_certs(1)
    for state in (p.state_dir, None):
        second = t.proxy(routes, ca=ca, workers=4, start=False, state=state)
        second.spawn()
        assert second.wait_exit(15) == 1
        assert str(p.pid) in second.log_text(), second.log_text()
    assert p.is_alive() and t.connect(80).get().status == 200


def test_redirect_block_or_nothing_on_port_80(t):
    ca = authority(t)
    port = t.port()
    cnt = 0
    for keep in (False, True):
        for kind in ([redirect("r", [80], "https://{host}{path}")], [block("b", [80])], []):
            cnt += 1
            p = t.proxy([wish(cnt, port)] + kind, ca=ca, workers=4, acme={"keep_port": keep})
            p.wait_certs(1)
            p.wait_route("absent")
            wanted = 4 if kind or keep else 0
            until(lambda n=wanted: listening_80() == n, 5, f"{wanted} listening sockets on port 80 (keep={keep}, {kind})")
            if kind:
                with Client(80) as c:
                    r = c.get(PREFIX + "x", host=f"w{cnt}.test")
                assert r.status == (301 if kind[0]["name"] == "r" else 403), r
            p.stop()
            assert listening_80() == 0
    ca.check_one_order_each(cnt)


def test_sigterm_frees_the_port_at_once(t):
    ca = authority(t)
    p = t.proxy([wish(0, t.port()), respond("u", [80])], ca=ca, workers=4)
    kept = Client(80)
    kept.get()
    p.wait_certs(1)
    p.signal(signal.SIGTERM)
    assert p.wait_exit() == 0
    kept.close()
    assert listening_80() == 0
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 80))
    s.close()


def test_removing_a_port_under_load_loses_no_connection(t):
    """The port leaves the routes while connections arrive: what was accepted by the kernel is served."""
    t.need_namespace()
    port = t.port()
    stay = t.port()
    p = t.proxy([respond("a", [port], "a"), respond("b", [stay], "b")], workers=4)
    lost = []
    is_over = threading.Event()

    def load():
        while not is_over.is_set():
            try:
                with Client(port, timeout_s=5) as c:
                    r = c.get()
                    if r.body != b"a" and r.status != 404: # 404: its route went away before it asked
                        lost.append(repr(r))
            except ConnectionRefusedError:
                pass # not there at this moment: refused, not lost
            except Exception as e:
                lost.append(repr(e))
    threads = [threading.Thread(target=load) for _ in range(4)]
    for x in threads:
        x.start()
    for ix in range(30):
        assert p.put_routes([respond("b", [stay], "b")]).status == 200
        assert p.put_routes([respond("a", [port], "a"), respond("b", [stay], "b")]).status == 200
    is_over.set()
    for x in threads:
        x.join()
    assert not lost, f"{len(lost)} connections lost: {lost[:5]}"


def test_low_ports_need_the_privilege_and_say_so(t):
    t.need_namespace()
    t.need("setpriv")
    os.chmod(t.dir, 0o777)
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
        if int(f.read()) <= 80:
            raise Skip("every user may bind port 80 here")
    p = t.proxy([respond("u", [80])], start=False, wrapper=["setpriv", "--reuid=65534", "--clear-groups", "--regid=65534"])
    os.chmod(p.dir, 0o777)
    p.spawn()
    assert p.wait_exit(15) == 1
    assert "80" in p.log_text() and "CAP_NET_BIND_SERVICE" in p.log_text(), p.log_text()


if __name__ == "__main__":
    main()
