"""Rows beside the peers. All programs run at once, pinned to one CPU (who is not asked costs nothing); loads take turns, in
another order each round, so that what drifts on the machine meets them all. A program's figure is the median of its rounds; the
ratio is the median of the rounds' ratios to the best peer, the one of nginx and HAProxy with the smaller figure."""
import dataclasses
import functools
import os
import socket
import ssl
import statistics
import subprocess
import time

from . import programs
from .loads import Work, load, see, served_cert
from .machine import cpu_us, memory_kib

PEERS = ("nginx", "haproxy")
CERTS = 10000


@dataclasses.dataclass(frozen=True)
class Row:
    group: str
    what: str
    work: Work
    goal: float = None  # share of the best peer to reach, or in `unit` when is_absolute
    is_absolute: bool = False
    unit: str = "us"
    figure: str = "cpu_us"


def http(goal, **options):
    work = Work("http", **options)
    return Row("http", f"HTTP keep-alive, {work.size}" + (", load by h2load" if work.tool == "h2load" else ""), work, goal)


ROWS = {
    "h1-1k": http(0.80),
    "h1-1k-h2load": http(0.80, tool="h2load"),
    "h1-16k": http(0.75, size="16k"),
    "h1-1m": http(0.65, size="1m", connections=16),
    "connection-a-request": Row("http", "HTTP, a connection each, 1k", Work("http", connections=32, is_short=True), 0.85),
    "connection-deferred": Row("http", "the same, accepts deferred by all", Work("deferred", connections=32, is_short=True)),
    "hosts-10000": Row("hosts", "HTTP for 10,000 names, 1k", Work("hosts", hosts=10000), 0.85),
    "tls-1k": Row("tls", "TLS keep-alive, 1k", Work("tls"), 0.85),
    "tls-1m": Row("tls", "TLS keep-alive, 1m", Work("tls", "1m", 16), 0.90),
    "tls-handshake": Row("tls", "full TLS 1.3 handshake and a request", Work("tls", is_short=True, tool="h2load"), 0.90),
    "tls-resumed": Row("tls", "resumed TLS 1.3 handshake and a request", Work("tls", connections=8, is_short=True, tool="resume")),
    "passthrough-1m": Row("tunnel", "TLS passed through by SNI, 1m", Work("passthrough", "1m", 16), 0.70),
    "passthrough-short": Row("tunnel", "TLS passed through, a connection each", Work("passthrough", connections=32, is_short=True), 0.85),
    "tcp-1m": Row("tunnel", "raw TCP, 1m", Work("tcp", "1m", 16), 0.70),
    "tcp-short": Row("tunnel", "raw TCP, a connection each", Work("tcp", connections=32, is_short=True), 0.85),
    "idle-tls": Row("memory", "an idle TLS connection, of 2,000", Work("tls", connections=2000), 12, True, "KiB", "kib"),
    "certs-10000": Row("memory", "a certificate with its key and route, of 10,000", Work("certs"), None, False, "KiB", "kib"),
    "certs-10000-start": Row("memory", "from the start to the first answer by TLS, 10,000 certificates", Work("certs"), None, False, "ms",
                             "start_ms"),
}


def in_turn(bench, running, one):
    """one(name) of every program, round by round: {name: [figures of a round]}."""
    names, rounds = list(running), {name: [] for name in running}
    for r in range(bench.options.rounds):
        for ix in range(len(names)):
            name = names[(r + ix) % len(names)]
            rounds[name].append(one(name))
    return rounds


def measure_load(bench, work, program):
    before = cpu_us(program.pid)
    done = load(bench, work, program.port, bench.options.seconds)
    spent = cpu_us(program.pid) - before
    return {"cpu_us": spent / max(done.requests, 1), "rps": done.requests * 1e6 / max(done.duration_us, 1), "p50_us": done.p50_us,
            "p99_us": done.p99_us, "requests": done.requests, "errors": done.errors + (done.requests == 0)}


def measure(bench, row):
    work = row.work
    running = {name: programs.start(bench, name, work.kind, work.hosts) for name in programs.names_for(bench, work.kind)}
    try:
        for program in running.values():
            see(bench, work, program.port)
            load(bench, work, program.port, 1)
        rounds = in_turn(bench, running, lambda name: measure_load(bench, work, running[name]))
        return rounds, {name: {"memory_kib": memory_kib(program.pid)} for name, program in running.items()}
    finally:
        bench.stop(*running.values())


# ---- memory ----

def hold(context, port, bench):
    s = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="localhost")
    s.sendall(b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n")
    got = b""
    while len(got.partition(b"\r\n\r\n")[2]) < len(bench.bodies["1k"]):
        data = s.recv(65536)
        if not data:
            break
        got += data
    return s, got.endswith(bench.bodies["1k"])


def is_open(s):
    s.settimeout(0)
    try:
        return len(s.recv(1)) > 0
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False


def measure_idle(bench, row):
    """KiB of the process that an idle TLS connection costs after its first request; the kernel's share is not in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    rounds, cnt = {}, row.work.connections
    for name in programs.names_for(bench, "tls"):
        program = programs.start(bench, name, "tls")
        held = []
        try:
            for _ in range(100):  # pools and tables are warm
                hold(context, program.port, bench)[0].close()
            before = memory_kib(program.pid)
            for _ in range(cnt):
                held.append(hold(context, program.port, bench))
            after = memory_kib(program.pid)
            rounds[name] = [{"kib": (after - before) / cnt, "errors": sum(not (is_good and is_open(s)) for s, is_good in held)}]
        finally:
            for s, _ in held:
                s.close()
            bench.stop(program)
    return rounds, {}


def make_certs(bench, folder, cnt, serial):
    os.makedirs(bench.path(folder), exist_ok=True)
    subprocess.run([bench.compile("certs", "-lcrypto"), bench.path(folder), str(cnt), str(serial)], check=True)


def der(file):
    with open(file, encoding="ascii") as f:
        return ssl.PEM_cert_to_DER_cert(f.read().partition("-----BEGIN PRIVATE KEY")[0])


def first_answer_ms(bench, name, cnt):
    """Starts it, and waits until the last name is served its own certificate: (program, ms, CPU ms, errors)."""
    argv, port, _ = programs.ARGV[name](bench, "certs", cnt)
    begin = time.monotonic()
    program = bench.start(argv, port)
    is_right = served_cert(port, f"host{cnt - 1}.test") == der(bench.path(f"certs/host{cnt - 1}.test.pem"))
    return program, (time.monotonic() - begin) * 1e3, cpu_us(program.pid) / 1e3, 0 if is_right else 1


def measure_certs(bench, _row):
    return certs_rounds(bench), {}


@functools.cache
def certs_rounds(bench):
    """Each starts alone with 10,000 certificates, then with one: the difference of their memory is the certificates'."""
    figures = {}
    for name in programs.names_for(bench, "certs"):
        memory, rounds = {}, []
        for cnt in (1, CERTS):
            make_certs(bench, "certs", cnt, 1)
            for _ in range(min(bench.options.rounds, 3) if cnt == CERTS else 1):
                program, start_ms, start_cpu_ms, errors = first_answer_ms(bench, name, cnt)
                memory[cnt] = memory_kib(program.pid)
                rounds.append({"start_ms": start_ms, "start_cpu_ms": start_cpu_ms, "memory_kib": memory[cnt], "errors": errors})
                bench.stop(program)
        for file in os.listdir(bench.path("certs")):
            os.unlink(bench.path("certs/" + file))
        figures[name] = [dict(r, kib=(r["memory_kib"] - memory[1]) / (CERTS - 1)) for r in rounds[1:]]
    return figures


MEASURES = {"idle-tls": measure_idle, "certs-10000": measure_certs, "certs-10000-start": measure_certs}


# ---- what follows from the rounds ----

def ratios(rounds, name, other, figure):
    return [a[figure] / b[figure] for a, b in zip(rounds[name], rounds[other]) if b[figure] > 0] or [0.0]


def judge(row, rounds, after):
    figures = {name: {key: statistics.median(r[key] for r in of) for key in of[0] if key not in ("errors", "requests")} | after.get(name, {}) |
               {"errors": sum(r["errors"] for r in of), "rounds": of} for name, of in rounds.items()}
    best = min(PEERS, key=lambda name: figures[name][row.figure])
    pairs = ratios(rounds, "smartproxy", best, row.figure)
    others = {f"to_{other}": statistics.median(ratios(rounds, "smartproxy", other, row.figure)) for other in ("floor", "before") if other in rounds}
    ratio = statistics.median(pairs)
    reached = figures["smartproxy"][row.figure] if row.is_absolute else ratio
    is_void = any(f["errors"] for f in figures.values())
    return {"group": row.group, "what": row.what, "unit": row.unit, "figure": row.figure, "programs": figures, "best_peer": best, "ratio": ratio,
            "ratio_min": min(pairs), "ratio_max": max(pairs), **others, "goal": row.goal, "goal_unit": row.unit if row.is_absolute else "ratio",
            "is_reached": None if row.goal is None else reached <= row.goal and not is_void, "is_void": is_void}


def run(bench, name):
    row = ROWS[name]
    return judge(row, *MEASURES.get(name, measure)(bench, row))
