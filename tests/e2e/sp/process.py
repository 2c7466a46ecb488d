"""The proxy under test as a process."""
import ctypes
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from . import conf
from .wait import Deadline, until

PR_SET_PDEATHSIG = 1
SANITIZER = re.compile(r"ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:|WARNING: ThreadSanitizer"
                       r"|FATAL: ThreadSanitizer|UndefinedBehaviorSanitizer|: assertion|Assertion .* failed")
_libc = ctypes.CDLL(None)


def die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def binary(name="SMARTPROXY"):
    found = os.environ.get(name)
    if found:
        return found
    from .runner import Skip
    raise Skip(f"set {name} to the binary under test")


@functools.cache
def is_sanitized(path):
    """Was the binary built with a sanitizer? Its memory and times are then its own."""
    with open(path, "rb") as f:
        data = f.read()
    return b"__asan_init" in data or b"__tsan_init" in data


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout_s):
        super().__init__("localhost", timeout=timeout_s)
        self.unix_path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Answer:
    """An answer of the admin API."""

    def __init__(self, status, text):
        self.status, self.text = status, text

    def json(self):
        return json.loads(self.text)


class Command:
    """A child whose stderr is read line by line by a thread of its own."""

    def __init__(self, argv, env=None, cwd=None):
        self.argv = argv
        self.lines = []
        self.grown = threading.Condition()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, env=env, cwd=cwd, preexec_fn=die_with_parent)
        self.is_eof = False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for raw in self.process.stderr:
            with self.grown:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self.grown.notify_all()
        with self.grown:
            self.is_eof = True
            self.grown.notify_all()

    def wait_log(self, pattern, timeout_s=10.0, since=0):
        """The first match in the log from line `since` on."""
        regex = re.compile(pattern)
        end = time.monotonic() + timeout_s
        ix = since
        with self.grown:
            while True:
                while ix < len(self.lines):
                    match = regex.search(self.lines[ix])
                    if match:
                        return match
                    ix += 1
                if self.is_eof:
                    raise Deadline(f"{self.argv[0]} ended before its log said {pattern!r}:\n" + self.tail(30))
                left = end - time.monotonic()
                if left <= 0:
                    raise Deadline(f"log line {pattern!r}: not within {timeout_s} s:\n" + self.tail(30))
                self.grown.wait(left)

    def tail(self, cnt):
        return "\n".join(self.lines[-cnt:])

    def count(self, pattern):
        regex = re.compile(pattern)
        with self.grown:
            return sum(1 for line in self.lines if regex.search(line))

    def join(self, timeout_s):
        code = self.process.wait(timeout_s)
        self.thread.join(5)
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.thread.join(5)
        self.process.stderr.close()


class Proxy:
    """One configuration and the runs of the proxy with it.

    sections: further top-level groups (acme, timeouts, limits ...); global_: keys for the global group. workers: 4 with a CA, else 2.
    """

    def __init__(self, test, routes=(), workers=None, acme=None, env=None, wrapper=(), args=(), global_=None, log="info",
                 text=None, ca=None, state=None, **sections):
        self.test = test
        self.number = len(test.proxies)
        self.dir = test.path(f"proxy{self.number}")
        os.mkdir(self.dir)
        self.file = os.path.join(self.dir, "smartproxy.conf")
        self.state_dir = state or os.path.join(self.dir, "state")
        self.socket_path = os.path.join(self.dir, "control.sock")
        self.env, self.wrapper, self.args = env or {}, list(wrapper), list(args)
        self.command = None
        self.past = []  # logs of earlier runs
        self.expects_kill = False
        self.text = text
        workers = workers or (2 if ca is None else 4)
        self.config = {"global": {"workers": workers, "state_dir": self.state_dir,
                                  "control": {"path": self.socket_path}, "log": {"level": log}, **(global_ or {})}}
        if ca is not None:
            acme = {"directory": ca.directory, "ca_file": ca.ca_file, "port": ca.http_port, **(acme or {})}
        if acme is not None:
            self.config["acme"] = acme
        self.config.update(sections)
        self.config["routes"] = tuple(routes)
        self.write()
        test.proxies.append(self)
        test.cleanup(self.kill)

    def describe(self):
        return f"proxy{self.number} ({self.file})"

    def write(self, routes=None):
        if routes is not None:
            self.config["routes"] = tuple(routes)
        with open(self.file + ".new", "w") as f:
            f.write(self.text if self.text is not None else conf.to_libconfig(self.config))
        os.rename(self.file + ".new", self.file)

    # life
    def spawn(self):
        if self.command:
            self.past.append(self.command)
        env = dict(os.environ, **self.env)
        self.expects_kill = False
        self.command = Command(self.wrapper + [binary(), "-c", self.file] + self.args, env=env)

    def start(self, timeout_s=15.0):
        self.spawn()
        self.command.wait_log(r"main: ready|\bready\b", timeout_s)
        self.begin_fds = self.fd_cnt()
        return self

    @property
    def pid(self):
        """Of the proxy itself, below strace as well (other wrappers become the proxy)."""
        if not self.wrapper or self.wrapper[0] != "strace":
            return self.command.process.pid
        children = f"/proc/{self.command.process.pid}/task/{self.command.process.pid}/children"

        def child():
            with open(children) as f:
                return int((f.read().split() or ["0"])[0])
        return until(child, 5, "the wrapper's child")

    def is_alive(self):
        return self.command is not None and self.command.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def wait_log(self, pattern, timeout_s=10.0, since=0):
        return self.command.wait_log(pattern, timeout_s, since)

    def log_mark(self):
        return len(self.command.lines)

    def log_text(self):
        return "\n".join("\n".join(c.lines) for c in self.past + ([self.command] if self.command else []))

    def log_tail(self, cnt):
        return "\n".join(self.log_text().splitlines()[-cnt:])

    def wait_exit(self, timeout_s=40.0):
        code = self.command.join(timeout_s)
        self.check_sanitizer()
        return code

    def stop(self, timeout_s=40.0, code=0):
        """SIGTERM; the exit code and a silent sanitizer are asserted."""
        if not self.is_alive():
            raise AssertionError(f"{self.describe()} ended by itself with {self.command.process.poll()}")
        self.signal(signal.SIGTERM)
        got = self.wait_exit(timeout_s)
        assert got == code, f"{self.describe()}: exit code {got}, wanted {code}"

    def finish(self):
        """At the end of a test: a run that still lives is stopped properly."""
        if self.command is None or self.expects_kill:
            return
        if self.command.process.poll() is None:
            self.stop()
        else:
            self.check_sanitizer()

    def sigkill(self):
        self.expects_kill = True
        if self.is_alive():
            self.signal(signal.SIGKILL)
            self.command.join(10)
        self.check_sanitizer()

    def kill(self):
        if self.command:
            if self.wrapper and self.is_alive():
                try:
                    self.signal(signal.SIGKILL)
                except (OSError, Deadline, IndexError):
                    pass
            self.command.kill()

    def check_sanitizer(self):
        for line in self.command.lines:
            if SANITIZER.search(line):
                raise AssertionError(f"{self.describe()}: {line}\n" + "\n".join(self.command.lines[-120:]))

    def crash(self):
        """Words on a run that a signal has ended, if nobody sent it; else ''."""
        code = self.command.process.poll() if self.command else None
        is_crash = code is not None and code < 0 and code != -signal.SIGKILL
        return f"--- it ended by signal {-code}\n" if is_crash else ""

    # looking inside
    def fd_cnt(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_fds(self, cnt=None, timeout_s=10.0):
        """File descriptors are back to where they began."""
        wanted = self.begin_fds if cnt is None else cnt
        until(lambda: self.fd_cnt() <= wanted, timeout_s, f"at most {wanted} file descriptors (now {self.fd_cnt()})")

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def check_growth(self, before_kib, limit_mib=24):
        """Resident memory has not grown by more than that since it was before_kib."""
        limit_kib = limit_mib * 1024 * (4 if is_sanitized(binary()) else 1)
        now_kib = self.rss_kib()
        assert now_kib - before_kib < limit_kib, f"resident memory grew from {before_kib} to {now_kib} KiB"

    # admin API
    def api(self, method, path, body=None, timeout_s=35.0):
        connection = UnixConnection(self.socket_path, timeout_s)
        try:
            headers = {}
            if body is not None and not isinstance(body, (str, bytes)):
                body = json.dumps(body)
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def raw_api(self, timeout_s=35.0):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        connection.connect(self.socket_path)
        return connection

    def get(self, path):
        answer = self.api("GET", path)
        assert answer.status == 200, f"GET {path}: {answer.status} {answer.text}"
        return answer.json()

    def status(self):
        return self.get("/v1/status")

    def certificates(self):
        return self.get("/v1/certificates")["certificates"]

    def listeners(self):
        return self.get("/v1/listeners")["listeners"]

    def connections(self, limit=1000):
        return self.get(f"/v1/connections?limit={limit}")["connections"]

    def upstreams(self):
        self.settle()
        return self.get("/v1/upstreams")["upstreams"]

    def target(self, port, group=None):
        """The view of the target 127.0.0.1:port."""
        found = [u for u in self.upstreams() if u["target"].endswith(f":{port}") and (group is None or u["group"] == group)]
        assert len(found) == 1, (port, self.upstreams())
        return found[0]

    def end_cnt(self, reason):
        return self.metric("smartproxy_connection_ends_total", f'end="{reason}"')

    def put_routes(self, routes):
        return self.api("PUT", "/v1/routes", list(routes))

    def reload(self):
        return self.api("POST", "/v1/reload")

    def sighup(self):
        self.signal(signal.SIGHUP)

    def challenge_route(self):
        return self.status()["acme"]["challenge_route"]

    def settle(self):
        """Every worker has ended the turn it is in: what belongs to an answer that a client has read is counted. (Listing
        connections asks them all.)"""
        self.api("GET", "/v1/connections?limit=1")

    def metrics(self):
        """{(name, labels text): value}"""
        self.settle()
        answer = self.api("GET", "/metrics")
        assert answer.status == 200, answer.text
        return parse_metrics(answer.text)

    def metric(self, name, labels=None):
        """The sum over all series of a name whose label text holds `labels`."""
        return sum(v for (n, l), v in self.metrics().items() if n == name and (labels or "") in l)

    def wait_certs(self, cnt, timeout_s=30.0, state="valid"):
        """cnt certificates in that state."""
        def look():
            certs = [c for c in self.certificates() if c["state"] == state]
            return certs if len(certs) >= cnt else None
        try:
            return until(look, timeout_s, f"{cnt} certificates {state}", 0.05)
        except Deadline as e:
            others = [c for c in self.certificates() if c["state"] != state]
            shown = "\n".join(f"{c['names']} {c['state']} {c['step']} {c['last_error']}" for c in others[:20])
            raise Deadline(f"{e}\n{shown}") from None

    def wait_route(self, state, timeout_s=15.0):
        return until(lambda: (lambda r: r if r["state"] == state else None)(self.challenge_route()), timeout_s,
                     f"challenge route {state}", 0.02)


def parse_metrics(text):
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?\s+(\S+)(\s+\d+)?", line)
        assert match, f"metrics line {line!r}"
        found[(match.group(1), match.group(2) or "")] = float(match.group(3))
    return found


def run_ctl(proxy, *args, timeout_s=40):
    """smartproxyctl against this proxy; returns (code, stdout, stderr)."""
    done = subprocess.run([binary("SMARTPROXYCTL"), "-s", proxy.socket_path, *args], capture_output=True, text=True,
                          timeout=timeout_s, check=False)
    return done.returncode, done.stdout, done.stderr


def run_proxy(*args, timeout_s=40, env=None):
    """smartproxy with other arguments than a plain run."""
    done = subprocess.run([binary(), *args], capture_output=True, text=True, timeout=timeout_s, check=False,
                          env=dict(os.environ, **(env or {})))
    return done.returncode, done.stdout, done.stderr
