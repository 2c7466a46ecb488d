"""Mixed traffic for a while, with targets that die and come back and routes that change each second; then nothing is left.

SP_SOAK_S: how long the traffic lasts (default 20 s, the slow test 60 s). Its counts are printed as comments.
"""
import multiprocessing
import os
import random
import time

from sp import main, slow, until
from sp.client import Client, tls_context
from sp.conf import finish_route, forward, passthrough, reencrypt, respond, static_tls, tcp, to_upstream, upstream
from sp.pebble import make_ca, make_leaf
from sp.process import binary, die_with_parent, is_sanitized
from sp.runner import comment
from sp.soak import pattern, run_origins
from sp.soak_clients import KINDS, PROCESSES, run_clients
from sp.wait import Deadline

WARM_S = 5
SLOW_FACTOR = 3 if os.environ.get("SMARTPROXY") and is_sanitized(binary()) else 1
LIMIT_S = 30 * SLOW_FACTOR  # no single step of a client takes longer
FLAP_S = 15 * SLOW_FACTOR   # three tries of 3 s, and a queue of 2 s, and the machine's own pace
TIMEOUTS = {"connect": "2s", "response": "3s", "idle": "8s", "header": "10s", "hello": "10s"}


def child(t, target, *args):
    """A forked process with a pipe to it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def run():
        die_with_parent()
        ours.close()
        target(*args, theirs)
    process = context.Process(target=run, daemon=True)
    process.start()
    theirs.close()

    def kill():
        process.kill()
        process.join(5)
        ours.close()
    t.cleanup(kill)
    return process, ours


def answer_of(process, line, timeout_s, what):
    if not line.poll(timeout_s):
        raise Deadline(f"{what}: nothing within {timeout_s} s (exit code {process.exitcode})")
    return line.recv()


class Soak:
    """The configuration, its origins and its clients."""

    def __init__(self, t):
        t.need_namespace()
        self.t = t
        self.rng = random.Random(11)
        self.ca = make_ca(t.dir)
        self.cert = {name: make_leaf(t.dir, name, [f"{name}.test"], self.ca) for name in ("own", "again", "pass", "raw", "inner")}
        self.ports = {name: t.port() for name in ("web", "tls", "raw", "proxied", "proxied_raw", "distrusted", "flap", "flap_raw")}
        self.spare = [t.port() for _ in range(8)]
        kinds = {"http": ("http", 2, False), "https": ("https", 2, False), "echo": ("echo", 2, False),
                 "tls_echo": ("tls_echo", 2, False), "proxied_echo": ("proxied_echo", 1, False), "flap": ("http", 4, True),
                 "flap_echo": ("echo", 3, True)}
        self.back = {name: [t.port() for _ in range(cnt)] for name, (_, cnt, _) in kinds.items()}
        origins = [(port, kinds[name][0], kinds[name][2]) for name, ports in self.back.items() for port in ports]
        # The origins' certificate serves all: the proxy verifies inner.test, the clients of passthrough pass.test.
        both = make_leaf(t.dir, "both", ["inner.test", "pass.test"], self.ca)
        self.origins = child(t, run_origins, {"cert": both, "seed": 3, "origins": origins})
        assert answer_of(*self.origins, 20, "origins") == "ready"
        self.clients = []

    def upstreams(self, weights=(1, 1, 1, 1)):
        steady = {"type": "http", "path": "/health", "interval": "2s", "timeout": "2s", "rise": 1, "fall": 5}
        quick = {"interval": "500ms", "timeout": "500ms", "rise": 1, "fall": 2}
        flapping = tuple({"host": "127.0.0.1", "port": port, "weight": weight} for port, weight in zip(self.back["flap"], weights))
        return (upstream("healthy", self.back["http"], check=steady, max_connections=500),
                upstream("flapping", flapping, balance="least-connections", check={**quick, "type": "http", "path": "/health"}, slow_start="1s", max_connections=50, queue=50,
                         queue_timeout="2s", ejection={"failures": 3, "time": "1s", "max_share": 75}),
                upstream("flapping-echo", self.back["flap_echo"], balance="round-robin", check={**quick, "type": "tcp"}),
                upstream("secure", self.back["https"], balance="round-robin", check={**steady, "type": "https"}))

    def routes(self):
        ports, back, ca = self.ports, self.back, self.ca[0]
        again = reencrypt(*self.cert["again"], ca_file=ca, server_name="inner.test")
        routes = [respond("web-own", [ports["web"]], "own", domains=["web.test"], path="/own"),
                  to_upstream("web", [ports["web"], ports["proxied"], ports["distrusted"]], "healthy", ["web.test"]),
                  to_upstream("own", [ports["tls"]], "healthy", ["own.test"], tls=static_tls(*self.cert["own"])),
                  to_upstream("again", [ports["tls"]], "secure", ["again.test"], tls=again),
                  passthrough("pass", [ports["tls"]], back["tls_echo"], ["pass.test"]),
                  tcp("tls-raw", [ports["tls"]], back["echo"], ["raw.test"], static_tls(*self.cert["raw"])),
                  tcp("raw", [ports["raw"]], back["echo"]),
                  tcp("proxied-raw", [ports["proxied_raw"]],
                      [{"host": "127.0.0.1", "port": back["proxied_echo"][0], "proxy_protocol": "v2"}]),
                  to_upstream("flap", [ports["flap"]], "flapping", ["flap.test"]),
                  to_upstream("flap-raw", [ports["flap_raw"]], "flapping-echo", protocol="tcp")]
        for route in routes:
            route["max_connections"] = 2000
        return routes

    def start(self):
        listeners = ({"ports": [self.ports["proxied"], self.ports["proxied_raw"]], "proxy_protocol": {"trusted": ["127.0.0.0/8"]}},
                     {"ports": [self.ports["distrusted"]], "proxy_protocol": {"trusted": ["10.0.0.0/8"]}})
        quarantine = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=16"  # else freed memory looks like a leak
        self.proxy = self.t.proxy(self.routes(), start=False, env={"ASAN_OPTIONS": quarantine.lstrip(":")}, upstreams=self.upstreams(), listeners=listeners,
                                  timeouts=TIMEOUTS, limits={"connections": 5000, "connections_per_ip": 4000})
        plan = {"ports": self.ports, "ca": self.ca[0], "limit_s": LIMIT_S, "flap_s": FLAP_S, "seed": 5}
        self.proxy.start(30)
        self.wait_up("healthy")
        self.wait_up("secure")
        self.clients = [child(self.t, run_clients, plan, ix) for ix in range(len(PROCESSES))]
        return self.proxy

    def wait_up(self, group):
        until(lambda: all(u["state"] == "up" for u in self.proxy.upstreams() if u["group"] == group), 20, f"group {group} up")

    # what changes each second, beside routes that never do
    def extra(self, ix):
        """A route that comes and goes, and how to see that it is there."""
        port, rng = self.spare[ix % len(self.spare)], self.rng
        kind = rng.randrange(5)
        if kind == 0:
            return respond(f"x{ix}", [port], f"x{ix}"), lambda: self.sees(port, f"x{ix}".encode())
        if kind == 1:
            return to_upstream(f"x{ix}", [port], "healthy"), lambda: self.sees(port, pattern(9), "/b/9")
        if kind == 2:
            return respond(f"x{ix}", [self.ports["web"]], f"x{ix}", domains=[f"x{ix}.test"]), lambda: self.sees(
                self.ports["web"], f"x{ix}".encode(), host=f"x{ix}.test")
        if kind == 3:
            targets = [{"host": "127.0.0.1", "port": back, "weight": rng.randrange(1, 100)} for back in self.back["http"]]
            return forward(f"x{ix}", [port], targets), lambda: self.sees(port, pattern(9), "/b/9")
        return finish_route(tcp(f"x{ix}", [port], self.back["echo"]), None, None, None), lambda: self.echoes(port)

    def sees(self, port, body, path="/", host="x.test"):
        with Client(port, timeout_s=LIMIT_S) as c:
            response = c.get(path, host)
            assert response.status == 200 and response.body == body, response

    def echoes(self, port):
        with Client(port, timeout_s=LIMIT_S) as c:
            c.send(b"ping").half_close()
            assert c.wait_closed() == b"ping"

    def update(self, number):
        """Routes by the API; now and then weights by a reload."""
        if number % 4 == 3:
            self.proxy.config["upstreams"] = self.upstreams([self.rng.randrange(1, 10) for _ in range(4)])
            self.proxy.write(self.routes())
            answer = self.proxy.reload()
            assert answer.status == 200, answer.text
            return
        extras = [self.extra(number * 3 + ix) for ix in range(self.rng.randrange(4))]
        before, after = extras[:1], extras[1:]
        answer = self.proxy.put_routes([r for r, _ in before] + self.routes() + [r for r, _ in after])
        assert answer.status == 200, answer.text
        for _, look in extras:
            look()

    def traffic(self, seconds):
        """Returns the memory in use once all pools are filled."""
        begin = time.monotonic()
        warm_kib = number = 0
        while time.monotonic() - begin < seconds:
            due = begin + number + 1
            self.update(number)
            number += 1
            if not warm_kib and time.monotonic() - begin > min(WARM_S, seconds / 2):
                warm_kib = self.proxy.rss_kib()
            for process, _ in self.clients + [self.origins]:
                assert process.is_alive(), "a process of the test ended early"
            until(lambda at=due: time.monotonic() >= at, 5, "the second's end", 0.02)
        return warm_kib

    def stop_clients(self):
        counts = {}
        for _, line in self.clients:
            line.send("stop")
        for process, line in self.clients:
            counts.update(answer_of(process, line, LIMIT_S * 2 + 30, "clients"))
        return counts


def show(counts):
    for kind, c in counts.items():
        rest = " ".join(f"{k}={v}" for k, v in sorted(c.items()) if k not in ("done", "failed", "slowest_s", "failures"))
        comment(f"{kind}: done={c['done']} failed={c['failed']} slowest={c['slowest_s']:.2f}s {rest}")


def check_counts(counts):
    show(counts)
    failed = "\n".join(f"{kind}: {c['failed']} of {c['failed'] + c['done']} failed\n" + "\n".join(c["failures"])
                       for kind, c in counts.items() if c["failed"])
    assert not failed, failed
    assert set(counts) == set(KINDS) and all(c["done"] > 0 for c in counts.values()), counts.keys()
    statuses = counts["flapping_http"]
    assert statuses.get("200", 0) > 0 and counts["flapping_tcp"].get("whole", 0) > 0, statuses


def check_nothing_left(soak, p, warm_kib, begin_fds):
    assert p.reload().status == 200
    until(lambda: p.metric("smartproxy_connections_open") == 0, 20, "no connection open")
    assert p.connections() == []
    assert p.metric("smartproxy_tunnels_open") == 0
    until(lambda: p.status()["retired_generations"] == 0, 10, "no retired generation")
    until(lambda: all(u["in_flight"] == 0 and u["queued"] == 0 for u in p.upstreams()), 10, "nothing in flight")
    m = p.metrics()

    def total(name):
        return sum(v for (n, _), v in m.items() if n == name)
    assert total("smartproxy_limited_addresses") == 0
    ends, accepted = total("smartproxy_connection_ends_total"), total("smartproxy_connections_accepted_total")
    assert ends == accepted, f"{ends} ends of {accepted} connections"
    # Who lied in a PROXY header is counted here, and nobody else.
    refused = {l: v for (n, l), v in m.items() if n == "smartproxy_connection_ends_total" and v and "over_" in l}
    assert not refused, refused
    try:
        p.wait_fds(begin_fds, 20)
    except Deadline as e:
        held = {}
        for fd in os.listdir(f"/proc/{p.pid}/fd"):
            try:
                kind = os.readlink(f"/proc/{p.pid}/fd/{fd}").split(":")[0]
            except OSError:
                continue
            held[kind] = held.get(kind, 0) + 1
        raise Deadline(f"{e}: {held}") from None
    until(lambda: p.metric("smartproxy_buffers_used") == 0, 5, "no buffer lent")
    comment(f"connections={accepted:.0f} tunnels={total('smartproxy_tunnels_total'):.0f} updates={total('smartproxy_update_total'):.0f} "
            f"retries={total('smartproxy_upstream_retries_total'):.0f} memory KiB: warm={warm_kib} end={p.rss_kib()}")
    p.check_growth(warm_kib)


def run(t, default_s):
    soak = Soak(t)
    p = soak.start()
    begin_fds = p.begin_fds
    warm_kib = soak.traffic(int(os.environ.get("SP_SOAK_S", default_s)))
    check_counts(soak.stop_clients())
    check_nothing_left(soak, p, warm_kib, begin_fds)
    soak.origins[1].send("stop")
    assert answer_of(*soak.origins, 10, "origins") == "done"


def test_soak_short(t):
    run(t, 20)


@slow
def test_soak_long(t):
    run(t, 60)


for test in (test_soak_short, test_soak_long):
    test.timeout_s = int(os.environ.get("SP_SOAK_S", 60)) + 100 + 4 * LIMIT_S


if __name__ == "__main__":
    main()
