"""What asks: wrk, h2load, and a client that resumes TLS sessions. Each is bounded in time, runs on LOAD_CPU, and says how
many answers were wrong: of 16 KiB or less each is compared byte by byte, of larger ones one before each row and the sum of bytes."""
import dataclasses
import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import time

from .bench import LOAD_CPU, SIZES

CHECKED_BYTES = 16384  # wrk would collect larger answers only to have them compared
LUA = """
local cnt = 0
request = function()
  cnt = cnt + 1
  %s
  return wrk.format("GET", nil, wrk.headers)
end
local file = io.open("%s", "rb")
local wanted = file:read("*a")
file:close()
wrong = 0
local check = function(status, headers, body) if status ~= 200 or body ~= wanted then wrong = wrong + 1 end end
if %s then response = check end
local threads = {}
setup = function(thread) table.insert(threads, thread) end
done = function(summary, latency, requests)
  local wrong_cnt = 0
  for _, thread in ipairs(threads) do wrong_cnt = wrong_cnt + (thread:get("wrong") or 0) end
  local e = summary.errors
  if summary.bytes < summary.requests * #wanted then wrong_cnt = wrong_cnt + 1 end
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), wrong_cnt + e.connect + e.read + e.write + e.timeout + e.status))
end
"""


@dataclasses.dataclass(frozen=True)
class Work:
    """One kind of load: what is asked for, and how."""
    kind: str
    size: str = "1k"
    connections: int = 64
    is_short: bool = False  # a connection each
    hosts: int = 0          # names that take turns
    tool: str = "wrk"

    @property
    def is_tls(self):
        return self.kind in ("tls", "certs", "passthrough")


@dataclasses.dataclass
class Load:
    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    errors: int


def tls_context(bench):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(bench.cert)
    return context


def see(bench, work, port):
    """One request: the program serves what is asked for, before it is measured."""
    connection = (http.client.HTTPSConnection("localhost", port, timeout=15, context=tls_context(bench)) if work.is_tls else
                  http.client.HTTPConnection("localhost", port, timeout=15))
    connection.request("GET", "/" + work.size, headers={"Host": "host0.test"} if work.hosts else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200 or body != bench.bodies[work.size]:
        bench.give_up(f"{work}: wrong answer, status {answer.status}, {len(body)} bytes")


def run(argv, seconds):
    return subprocess.run(["taskset", "-c", LOAD_CPU, *argv], capture_output=True, text=True, check=False, timeout=seconds + 60)


def result(bench, work, done):
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    if not found:
        bench.give_up(f"{work}: the load failed: {done.stdout}{done.stderr}")
    return Load(*(int(x) for x in found.groups()))


def wrk(bench, work, port, seconds):
    header = f'wrk.headers["Host"] = "host" .. (cnt * 7919 % {work.hosts}) .. ".test"' if work.hosts else ""
    is_checked = "true" if SIZES[work.size] <= CHECKED_BYTES else "false"
    script = bench.write("load.lua", LUA % (header, bench.path("www/" + work.size), is_checked))
    argv = ["wrk", "-t1", f"-c{work.connections}", f"-d{seconds}s", "-s", script]
    if work.is_short:
        argv += ["-H", "Connection: close"]
    return result(bench, work, run(argv + [f"http{'s' if work.is_tls else ''}://localhost:{port}/{work.size}"], seconds))


REQUESTS_A_SECOND = 15000  # h2load sends an exact number: this, times the seconds
BURST = 200                # connections of one request that it opens at once


def h2load_once(bench, work, port, connections, cnt):
    """Not one request more or less than asked for; every status and the exact sum of bytes are looked at. (errors, microseconds it
    took, those of each request)."""
    log = bench.path("h2load.log")
    if os.path.exists(log):
        os.unlink(log)
    done = run(["h2load", "--h1", "-t1", f"-c{connections}", f"-n{cnt}", f"--log-file={log}",
                f"http{'s' if work.is_tls else ''}://localhost:{port}/{work.size}"], 60)
    good = re.search(r"status codes: (\d+) 2xx", done.stdout)
    data = re.search(r"\((\d+)\) data", done.stdout)
    took = re.search(r"finished in ([\d.]+)(us|ms|s)", done.stdout)
    if not (good and data and took):
        bench.give_up(f"{work}: h2load failed: {done.stdout}{done.stderr}")
    with open(log, encoding="ascii") as f:
        times_us = [int(line.split("\t")[2]) for line in f]
    errors = cnt - int(good[1]) + (int(data[1]) != cnt * SIZES[work.size])
    return errors, int(float(took[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[took[2]]), times_us


def h2load(bench, work, port, seconds):
    """With is_short in bursts of new connections: unlike wrk, which resumes, each of them is a full handshake in TLS."""
    end, errors, took_us, times_us = time.monotonic() + seconds, 0, 0, []
    while not times_us or (work.is_short and time.monotonic() < end):
        connections, cnt = (BURST, BURST) if work.is_short else (work.connections, REQUESTS_A_SECOND * seconds)
        wrong, us, times = h2load_once(bench, work, port, connections, cnt)
        errors, took_us, times_us = errors + wrong, took_us + us, times_us + times
    times_us.sort()
    return Load(len(times_us), took_us, times_us[len(times_us) // 2], times_us[len(times_us) * 99 // 100], errors)


def resume(bench, work, port, seconds):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "resume.py")
    return result(bench, work, run([sys.executable, script, str(port), bench.cert, bench.path("www/" + work.size), str(seconds),
                                    str(work.connections)], seconds))


TOOLS = {"wrk": wrk, "h2load": h2load, "resume": resume}


def load(bench, work, port, seconds):
    return TOOLS[work.tool](bench, work, port, seconds)


def served_cert(port, name):
    """The certificate that a name is served, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60), server_hostname=name) as s:
        return s.getpeercert(binary_form=True)
