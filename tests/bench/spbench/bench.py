"""One run: its folder, its origin, the processes it starts and how all of it ends."""
import atexit
import dataclasses
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from sp.process import die_with_parent

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIZES = {"1k": 1024, "16k": 16384, "1m": 1 << 20}
START_S = 120
PROXY_CPU, LOAD_CPU = "0", str(min(1, os.cpu_count() - 1))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_open(family, address):
    with socket.socket(family) as s:
        s.settimeout(1)
        return s.connect_ex(address) == 0


def is_ready(port, control):
    return is_open(socket.AF_INET, ("127.0.0.1", port)) and (control is None or is_open(socket.AF_UNIX, control))


class Failed(Exception):
    """A row cannot be measured; the message says why."""


@dataclasses.dataclass
class Running:
    process: subprocess.Popen
    port: int
    control: str = None  # ours: path of the admin API's socket

    @property
    def pid(self):
        return self.process.pid


class Bench:
    def __init__(self, options):
        self.options = options
        self.dir = tempfile.mkdtemp(prefix="sp-bench-")
        atexit.register(self.close)
        os.chmod(self.dir, 0o755)
        self.processes = []
        self.name_cnt = 0
        self.stderr = open(self.path("stderr"), "a", encoding="utf-8")
        self.cert, self.key = self.path("cert.pem"), self.path("key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                        self.key, "-out", self.cert, "-days", "30", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        with open(self.cert, encoding="ascii") as cert, open(self.key, encoding="ascii") as key:
            self.both = self.write("both.pem", cert.read() + key.read())
        self.bodies = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
        os.makedirs(self.path("www"))
        for name, body in self.bodies.items():
            with open(self.path("www/" + name), "wb") as f:
                f.write(body)
        self.origin_port, self.tls_origin_port = free_port(), free_port()

    def path(self, name):
        return os.path.join(self.dir, name)

    def new_name(self, what):
        self.name_cnt += 1
        return f"{what}-{self.name_cnt}"

    def write(self, name, text):
        with open(self.path(name), "w", encoding="ascii") as f:
            f.write(text)
        return self.path(name)

    def compile(self, name, *libraries):
        """A small C program beside this folder; returns its path."""
        program = self.path(name + ".program")
        if not os.path.exists(program):
            subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", program, os.path.join(HERE, name + ".c"), *libraries], check=True)
        return program

    def spawn(self, argv, cpus):
        process = subprocess.Popen(["taskset", "-c", cpus, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=self.stderr, preexec_fn=die_with_parent)
        self.processes.append(process)
        return process

    def start(self, argv, port, cpus=PROXY_CPU, control=None):
        """Starts it, and waits until it listens."""
        process = self.spawn(argv, cpus)
        end = time.monotonic() + START_S
        while not is_ready(port, control):
            if process.poll() is not None:
                self.give_up(f"{argv[0]} ended with {process.returncode}")
            if time.monotonic() > end:
                self.give_up(f"{argv[0]}: nothing listens on port {port} after {START_S} s")
            time.sleep(0.005)
        return Running(process, port, control)

    def give_up(self, why):
        """What the programs said last says why."""
        with open(self.path("stderr"), encoding="utf-8", errors="replace") as f:
            said = "".join(f.readlines()[-20:])
        raise Failed(f"{why}\n{said}".rstrip())

    def stop(self, *programs):
        processes = [program.process for program in programs]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.processes.remove(process)

    def end(self, keep=()):
        """Of all processes but those."""
        ending = [process for process in self.processes if process not in keep]
        for process in ending:
            process.kill()
        for process in ending:
            process.wait()
            self.processes.remove(process)

    def close(self):
        self.end()
        self.stderr.close()
        shutil.rmtree(self.dir, ignore_errors=True)
