"""Rows of SmartProxy alone: what the others have no like of, or what is compared with itself. Each returns its cases:
{"case", "says", "values", "errors"}."""
import http.client
import json
import os
import re
import statistics
import subprocess
import threading
import time

from sp.process import UnixConnection

from . import micro, programs
from .bench import LOAD_CPU
from .loads import Work, load, see, served_cert
from .machine import cpu_us, switches
from .peers import der, in_turn, make_certs, measure_load

HOST_COUNTS = (1, 1000, 10000, 100000)
ROUTE_COUNTS = (1, 1000, 10000)
SWAP_CERTS = 1000
ANSWER_S = 60
MOST_CHANGES = 500
CHANGES_FOR = 3  # loads that changes come beside last so many times --seconds
WATCHERS = 32  # connections that the kernel spreads over the workers by the hash of their addresses


def case(name, says, values, errors=0):
    return {"case": name, "says": says, "values": values, "errors": errors}


def at(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def median(rounds, key):
    return statistics.median(r[key] for r in rounds)


# ---- CPU time a request, compared with itself ----

def flatness(bench):
    """1 to 100,000 host routes, all names asked for in turn; loads interleaved as beside the peers."""
    running = {cnt: programs.ours(bench, "hosts", cnt) for cnt in HOST_COUNTS}
    works = {cnt: Work("hosts", hosts=cnt) for cnt in HOST_COUNTS}
    try:
        for cnt, program in running.items():
            see(bench, works[cnt], program.port)
            load(bench, works[cnt], program.port, 1)
        rounds = in_turn(bench, running, lambda cnt: measure_load(bench, works[cnt], running[cnt]))
    finally:
        bench.stop(*running.values())
    cases = []
    for cnt, of in rounds.items():
        ratio = statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in zip(of, rounds[HOST_COUNTS[0]]))
        cases.append(case(f"hosts-{cnt}", f"{median(of, 'cpu_us'):.1f} us a request, {ratio:.2f} of hosts-1",
                          {"cpu_us": median(of, "cpu_us"), "to_hosts_1": ratio, "rps": median(of, "rps"), "p99_us": median(of, "p99_us")},
                          sum(r["errors"] for r in of)))
    return cases


def scaling(bench):
    """1 to N workers on as many CPUs. Load and origin share the last CPU with the last worker when it has one, so requests a second say
    little; CPU time a request and context switches do. Futex calls show contention of locks (strace, in a load of its own)."""
    cpus, work, running = os.cpu_count(), Work("http"), {}
    for workers in range(1, cpus + 1):
        running[workers] = programs.ours(bench, "http", workers=workers, cpus=f"0-{workers - 1}")

    def one(workers):
        before = switches(running[workers].pid)
        figures = measure_load(bench, work, running[workers])
        voluntary, forced = (b - a for a, b in zip(before, switches(running[workers].pid)))
        return dict(figures, voluntary=voluntary / max(figures["requests"], 1), involuntary=forced / max(figures["requests"], 1))
    try:
        for program in running.values():
            see(bench, work, program.port)
            load(bench, work, program.port, 1)
        rounds = in_turn(bench, running, one)
        futexes = {workers: count_futexes(bench, work, program) for workers, program in running.items()}
    finally:
        bench.stop(*running.values())
    cases = []
    for workers, of in rounds.items():
        ratio = statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in zip(of, rounds[1]))
        values = {key: median(of, key) for key in ("cpu_us", "rps", "voluntary", "involuntary")} | {"to_one_worker": ratio, "futexes": futexes[workers]}
        cases.append(case(f"{workers} worker{'s' if workers > 1 else ''}",
                          f"{values['cpu_us']:.1f} us a request, {ratio:.2f} of one worker; context switches a request {values['voluntary']:.3f} voluntary, "
                          f"{values['involuntary']:.3f} not; futex calls a request {values['futexes']:.5f}", values, sum(r["errors"] for r in of)))
    return cases


def count_futexes(bench, work, program):
    """Calls of futex a request, in a second of load."""
    out = bench.path("futex")
    tracer = subprocess.Popen(["strace", "-f", "-c", "-e", "trace=futex", "-o", out, "-p", str(program.pid)], stderr=subprocess.PIPE, text=True)
    try:
        tracer.stderr.readline()  # "attached"
        done = load(bench, work, program.port, 1)
    finally:
        tracer.terminate()
        tracer.wait(10)
        tracer.stderr.close()
    with open(out, encoding="utf-8") as f:
        found = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+futex$", f.read(), re.M)
    return int(found[1]) / max(done.requests, 1) if found else 0.0


# ---- changes while a load runs ----

class Admin:
    """The admin API, as any user has it."""

    def __init__(self, program):
        self.connection = UnixConnection(program.control, ANSWER_S)
        self.times_ms, self.errors = [], 0

    def tell(self, method, path, body=None):
        """Sends, waits for the answer, keeps the time; anything but 200 is an error."""
        begin = time.monotonic()
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        answer.read()
        self.times_ms.append((time.monotonic() - begin) * 1e3)
        self.errors += answer.status != 200
        return answer.status == 200

    def times(self):
        return {"p50_ms": at(self.times_ms, 0.5), "p99_ms": at(self.times_ms, 0.99), "cnt": len(self.times_ms)}


def under_load(bench, work, program, admin, change):
    """The same load twice, without and with change(number) in a loop: (quiet, busy, seconds of changes)."""
    seconds = CHANGES_FOR * bench.options.seconds
    quiet = load(bench, work, program.port, seconds)
    is_over, took_s = threading.Event(), []

    def loop():
        begin, number = time.monotonic(), 0
        try:
            while not is_over.is_set():
                number += 1
                change(number)
        except (OSError, http.client.HTTPException):
            admin.errors += 1
        took_s.append(time.monotonic() - begin)
    thread = threading.Thread(target=loop)
    thread.start()
    try:
        busy = load(bench, work, program.port, seconds)
    finally:
        is_over.set()
        thread.join()
    return quiet, busy, took_s[0]


def json_routes(port, cnt, number, first):
    """`first` takes every host; the others differ by name, and the last one by number too."""
    routes = [dict(first, match=dict({"ports": [port]}, **first.get("match", {})))]
    for ix in range(1, cnt):
        domain = f"host{ix}.test" if ix < cnt - 1 else f"change{number}.test"
        routes.append({"name": f"r{ix}", "match": {"ports": [port], "domains": [domain]}, "action": {"type": "forward", "upstream": "origin"}})
    return json.dumps(routes).encode()


def update_rate(bench):
    """PUT /v1/routes over the Unix socket, one after another, while keep-alive requests take what the CPU has."""
    cases, work = [], Work("http", connections=16)
    for cnt in ROUTE_COUNTS:
        program = programs.ours(bench, "http")
        try:
            see(bench, work, program.port)
            load(bench, work, program.port, 1)
            admin = Admin(program)
            bodies = [json_routes(program.port, cnt, number, {"name": f"all{number}", "action": {"type": "forward", "upstream": "origin"}})
                      for number in (0, 1)]
            quiet, busy, took_s = under_load(bench, work, program, admin, lambda number: admin.tell("PUT", "/v1/routes", bodies[number % 2]))
        finally:
            bench.stop(program)
        values = admin.times() | {"updates_a_second": len(admin.times_ms) / took_s, "load_p99_us": busy.p99_us, "quiet_p99_us": quiet.p99_us,
                                  "load_rps": busy.requests * 1e6 / busy.duration_us, "quiet_rps": quiet.requests * 1e6 / quiet.duration_us}
        cases.append(case(f"{cnt} route{'s' if cnt > 1 else ''}", f"{values['updates_a_second']:.1f} updates a second; p99 of the load {busy.p99_us / 1e3:.2f} ms, "
                          f"without updates {quiet.p99_us / 1e3:.2f} ms", values, admin.errors + busy.errors + quiet.errors))
    return cases


def publish_latency(bench):
    """From the first byte of a PUT to its answer, which comes after the swap and a grace period: every worker has passed a point
    where it held no older generation. That is looked at: connections spread over both workers are asked right after, and have to
    answer by the new routes."""
    cases = []
    for cnt in ROUTE_COUNTS:
        program = programs.ours(bench, "http", workers=2, cpus=f"0-{LOAD_CPU}")
        try:
            admin, watchers, old = Admin(program), [Watcher(program.port) for _ in range(WATCHERS)], 0
            end = time.monotonic() + CHANGES_FOR * bench.options.seconds
            for number in range(MOST_CHANGES):
                action = {"type": "respond", "status": 200, "body": f"change {number}"}
                body = json_routes(program.port, cnt, number, {"name": "which", "action": action})
                admin.tell("PUT", "/v1/routes", body)
                old += sum(watcher.ask() != action["body"] for watcher in watchers)
                if time.monotonic() > end and number >= 2:
                    break
        finally:
            bench.stop(program)
        values = admin.times() | {"old_answers": old}
        cases.append(case(f"{cnt} route{'s' if cnt > 1 else ''}", f"p50 {values['p50_ms']:.2f} ms, p99 {values['p99_ms']:.2f} ms of {values['cnt']}",
                          values, admin.errors + old))
    return cases


class Watcher:
    """A keep-alive connection: it stays with the worker that accepted it."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
        self.connection.connect()

    def ask(self):
        self.connection.request("GET", "/")
        return self.connection.getresponse().read().decode()


def cert_swap(bench):
    """1,000 certificate files replaced by rename and read again by POST /v1/reload, while TLS keep-alive requests go on; after each
    reload some names are asked for their new certificate. Rewriting the files is not in the time."""
    work, live = Work("certs", connections=16), bench.path("certs")
    make_certs(bench, "certs", SWAP_CERTS, 1)
    for ix in (0, 1):
        make_certs(bench, f"certs{ix}", SWAP_CERTS, 1 + (ix + 1) * SWAP_CERTS)
    program = programs.ours(bench, "certs", SWAP_CERTS)
    admin, wrong = Admin(program), []

    def swap(number):
        folder = bench.path(f"certs{number % 2}")
        for file in os.listdir(folder):
            os.link(f"{folder}/{file}", f"{live}/next")
            os.rename(f"{live}/next", f"{live}/{file}")
        admin.tell("POST", "/v1/reload")
        for ix in range(0, SWAP_CERTS, SWAP_CERTS // 5):
            name = f"host{ix}.test"
            if served_cert(program.port, name) != der(f"{folder}/{name}.pem"):
                wrong.append(name)
    try:
        see(bench, work, program.port)
        load(bench, work, program.port, 1)
        quiet, busy, _ = under_load(bench, work, program, admin, swap)
    finally:
        bench.stop(program)
    values = admin.times() | {"certificates_a_second": SWAP_CERTS * 1e3 / at(admin.times_ms, 0.5), "load_p99_us": busy.p99_us, "quiet_p99_us": quiet.p99_us}
    return [case(f"{SWAP_CERTS} certificates", f"{values['certificates_a_second']:.0f} certificates a second (a reload {values['p50_ms']:.0f} ms); p99 of the "
                 f"load {busy.p99_us / 1e3:.2f} ms, without reloads {quiet.p99_us / 1e3:.2f} ms", values, admin.errors + busy.errors + quiet.errors + len(wrong))]


ROWS = {
    "hosts-flat": ("hosts", "1 to 100,000 host routes, 1k", flatness),
    "update-rate": ("control", "routes put by the admin API, one list after another, under load on the same CPU", update_rate),
    "publish-latency": ("control", "from the begin of a PUT until both workers serve the new routes", publish_latency),
    "cert-swap": ("control", "certificate files replaced and reloaded, under load on the same CPU", cert_swap),
    "scaling": ("scaling", "1 to N workers on N CPUs; the load shares the last one", scaling),
    **micro.ROWS,
}


def run(bench, name):
    group, what, measure = ROWS[name]
    cases = measure(bench)
    return {"group": group, "what": what, "cases": cases, "is_void": any(c["errors"] for c in cases)}
