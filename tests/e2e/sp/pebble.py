"""Pebble, a real ACME CA, with its DNS (pebble-challtestsrv), both on loopback."""
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import socket
import sys

from . import front
from .gate import Gate
from .process import Command
from .wait import until


def openssl(*args, text=None):
    subprocess.run(["openssl", *args], input=text, text=True, check=True, capture_output=True)


def make_ca(folder, name="ca"):
    """A CA; returns (certificate file, key file)."""
    cert, key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert,
            "-days", "30", "-subj", f"/CN=Test {name}")
    return cert, key


def make_leaf(folder, name, names, ca=None, days=30, key_args=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
    """A certificate for names (DNS names or addresses), self-signed unless ca is given; (chain file, key file)."""
    cert, key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    san = ",".join(("IP:" if re.fullmatch(r"[0-9.]+|.*:.*", n) else "DNS:") + n for n in names)
    args = ["req", "-x509", "-newkey", *key_args, "-nodes", "-keyout", key, "-out", cert, "-days", str(days),
            "-subj", f"/CN={names[0]}", "-addext", f"subjectAltName={san}", "-addext", "basicConstraints=critical,CA:FALSE"]
    if ca is None:
        openssl(*args)
        return cert, key
    request = os.path.join(folder, name + ".csr")
    openssl("req", "-newkey", *key_args, "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={names[0]}")
    extensions = os.path.join(folder, name + ".ext")
    with open(extensions, "w") as f:
        f.write(f"subjectAltName={san}\nbasicConstraints=critical,CA:FALSE\n")
    openssl("x509", "-req", "-in", request, "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial", "-days", str(days),
            "-extfile", extensions, "-out", cert)
    return cert, key


def is_open(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


class Pebble:
    """http_port: where it validates http-01, the acme.port under test; with is_gated through a gate (gate.py) that the test
    opens. port: its ACME API, which is that of a front (front.py) that lets one request at a time in; own_port is for the front
    alone. Without has_front it is Pebble's own: such a test must be ready for a Pebble that hangs (check_hang)."""

    def __init__(self, test, http_port=None, nosleep=True, sleeptime=None, noncereject=20, authzreuse=0, validity_s=None,
                 chain_length=None, start=True, is_gated=False, has_front=True):
        test.need("pebble", "pebble-challtestsrv", "openssl")
        self.test = test
        self.dir = test.path(f"pebble{len(test.undo)}")
        os.mkdir(self.dir)
        self.http_port = http_port or test.port()
        self.gate = Gate(test, self.http_port) if is_gated else None
        self.own_port, self.management_port, self.has_front = test.port(), test.port(), has_front
        self.port = test.port() if has_front else self.own_port
        self.dns_port, self.dns_management_port = test.port(), test.port()
        ca = make_ca(self.dir)
        self.ca_file = ca[0]
        self.log_file = os.path.join(self.dir, "pebble.log")
        cert, key = make_leaf(self.dir, "server", ["localhost", "127.0.0.1"], ca)
        self.config = {"listenAddress": f"127.0.0.1:{self.own_port}", "managementListenAddress": f"127.0.0.1:{self.management_port}",
                       "certificate": cert, "privateKey": key, "tlsPort": test.port(),
                       "httpPort": self.gate.port if self.gate else self.http_port,
                       "ocspResponderURL": "", "externalAccountBindingRequired": False}
        if validity_s:
            self.config["certificateValidityPeriod"] = validity_s
        # One thread: with the front, which says more, what Pebble does by itself gets no chance to meet a handler badly.
        self.env = {"PEBBLE_WFE_NONCEREJECT": str(noncereject), "PEBBLE_AUTHZREUSE": str(authzreuse), "GOMAXPROCS": "1"}
        if sleeptime is not None:
            self.env["PEBBLE_VA_SLEEPTIME"] = str(sleeptime)
        elif nosleep:
            self.env["PEBBLE_VA_NOSLEEP"] = "1"
        if chain_length:
            self.env["PEBBLE_CHAIN_LENGTH"] = str(chain_length)
        self.directory = f"https://127.0.0.1:{self.port}/dir"
        self.server = self.dns = self.front = None
        test.pebbles.append(self)
        test.cleanup(self.stop)
        if start:
            self.start()

    def start(self):
        """Also again after stop_server(): a new Pebble has forgotten all accounts and orders."""
        file = os.path.join(self.dir, "pebble.json")
        with open(file, "w") as f:
            json.dump({"pebble": self.config}, f)
        if self.dns is None:
            self.dns = Logged(["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "",
                               "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{self.dns_port}",
                               "-management", f"127.0.0.1:{self.dns_management_port}"], os.path.join(self.dir, "dns.log"))
        env = {k: v for k, v in os.environ.items() if not k.startswith("PEBBLE_")}
        env.update(self.env)
        self.server = Logged(["pebble", "-config", file, "-dnsserver", f"127.0.0.1:{self.dns_port}"], self.log_file, env)
        if self.has_front:
            self.start_front()
        for what, port in (("pebble", self.own_port), ("pebble's management", self.management_port),
                           ("challtestsrv", self.dns_management_port)):
            until(lambda p=port: is_open(p), 15, f"{what} on port {port}")
        return self

    def start_front(self):
        self.front = Logged([sys.executable, front.__file__, str(self.port), str(self.own_port), self.config["certificate"],
                             self.config["privateKey"], self.ca_file, self.log_file], os.path.join(self.dir, "front.log"))
        until(lambda: is_open(self.port), 15, f"Pebble's front on port {self.port}")

    def stop_server(self):
        """With its front, so that clients see it go."""
        if self.front:
            self.front.kill()
            self.front = None
        if self.server:
            self.server.kill()
            self.server = None

    def stop(self):
        self.stop_server()
        if self.dns:
            self.dns.kill()
            self.dns = None

    # what it hands out
    def fetch(self, path):
        context = ssl.create_default_context(cafile=self.ca_file)
        c = http.client.HTTPSConnection("127.0.0.1", self.management_port, timeout=10, context=context)
        try:
            c.request("GET", path)
            response = c.getresponse()
            text = response.read().decode()
            assert response.status == 200, f"pebble {path}: {response.status} {text}"
            return text
        finally:
            c.close()

    def root(self):
        return self.fetch("/roots/0")

    def intermediate(self):
        return self.fetch("/intermediates/0")

    def root_file(self):
        file = os.path.join(self.dir, "root.pem")
        with open(file, "w") as f:
            f.write(self.root())
        return file

    # DNS
    def dns_post(self, path, **body):
        c = http.client.HTTPConnection("127.0.0.1", self.dns_management_port, timeout=10)
        try:
            c.request("POST", path, json.dumps(body))
            assert c.getresponse().status == 200, path
        finally:
            c.close()

    def set_address(self, name, *addresses):
        self.dns_post("/add-a", host=name + ".", addresses=list(addresses))

    def clear_address(self, name):
        self.dns_post("/clear-a", host=name + ".")

    def set_servfail(self, name):
        self.dns_post("/set-servfail", host=name + ".")

    def clear_servfail(self, name):
        self.dns_post("/clear-servfail", host=name + ".")

    # what its log says
    def log(self):
        with open(self.log_file, errors="replace") as f:
            return f.read()

    def order_cnt(self):
        return len(re.findall(r'Added order "', self.log()))

    def evidence(self, line_cnt):
        """For a test that failed: the end of its log, and whether Pebble itself hangs. Ends it."""
        of_front = []
        if self.has_front:
            with open(os.path.join(self.dir, "front.log"), errors="replace") as f:
                of_front = [f"front: {line}" for line in f.read().splitlines()[-line_cnt:]]
        return "\n".join(self.log().partition("SIGQUIT: quit")[0].splitlines()[-line_cnt:] + of_front + self.check_hang())

    def check_hang(self):
        """Ends it; returns what says that Pebble itself hung, or []."""
        if self.server and self.server.process.poll() is None:
            self.server.process.send_signal(signal.SIGQUIT)  # Go writes down what each goroutine does
            try:
                self.server.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        return hanging(self.log().partition("SIGQUIT: quit")[2])

    def account_cnt(self):
        return len(re.findall(r"There are now \d+ accounts in memory", self.log()))

    def invalid_authz_cnt(self):
        return len(re.findall(r"authz \S+ set INVALID", self.log()))

    def valid_authz_cnt(self):
        return len(re.findall(r"authz \S+ set VALID", self.log()))

    def issued_cnt(self):
        return len(re.findall(r"Issued certificate serial", self.log()))

    def check_one_order_each(self, cnt):
        assert self.order_cnt() == cnt, f"{self.order_cnt()} orders in Pebble's log, wanted {cnt}"
        assert self.invalid_authz_cnt() == 0, f"{self.invalid_authz_cnt()} authorizations turned invalid"


def hanging(stacks):
    """Lines that say what waits for a lock of Pebble's store, out of a dump of all goroutines; [] when it does not hang."""
    waits = []
    for stack in stacks.split("\n\n"):
        state = re.match(r"\s*goroutine \d+ (?:gp=\S+ m=\S+ )?\[(semacquire|sync\.)", stack)
        calls = re.findall(r"pebble/\w+\.\(\*(?:MemoryStore|WebFrontEndImpl|CAImpl)\)\.(\w+)\(", stack)
        if state and calls and "(*MemoryStore)" in stack:
            waits.append(f"{calls[-1]}: {calls[0]}")
    if len(waits) < 3:  # fewer are no circle
        return []
    return [f"Pebble hangs: {len(waits)} goroutines wait for a lock of its store:"] + \
        [f"  {waits.count(wait)} in {wait}" for wait in sorted(set(waits))]


class Logged(Command):
    """A process that logs to stdout and stderr, kept in a file (appended over restarts)."""

    def __init__(self, argv, file, env=None):
        from .process import die_with_parent
        self.argv = argv
        self.out = open(file, "ab")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, env=env,
                                        preexec_fn=die_with_parent)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.out.close()
