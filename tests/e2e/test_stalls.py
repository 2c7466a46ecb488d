"""What stands still outside (a nameserver, the reader of stderr, the terminal) holds up nothing; and signals while the start is under way."""
import fcntl
import os
import re
import signal
import socket
import subprocess

from sp import main, until
from sp.conf import AUTO, respond
from sp.runner import Skip

F_SETPIPE_SZ = 1031
HERE = os.path.dirname(os.path.abspath(__file__))


# ---- nameservers that are silent

def silent_nameserver(t):
    """The socket of a nameserver that never answers, and the wrapper of a process that knows no other. getaddrinfo waits a minute."""
    t.need_namespace()
    t.need("unshare", "mount")
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    t.cleanup(server.close)
    server.settimeout(20)
    server.bind(("127.0.0.53", 53))
    resolv = t.path("resolv.conf")
    with open(resolv, "w") as f:
        f.write("nameserver 127.0.0.53\noptions timeout:30 attempts:2\n")
    wrapper = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', resolv]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        raise Skip("no mount namespace of its own")
    return server, wrapper


def wait_question(server, name):
    """Until somebody asks for the name: the look-up is under way."""
    while name.encode() not in server.recv(512):
        pass


def test_a_nameserver_that_is_silent_holds_up_no_reload_and_no_stop(t):
    server, wrapper = silent_nameserver(t)
    route = respond("a", [t.port()], domains=["a.test"], tls=AUTO)
    p = t.proxy([route], wrapper=wrapper, acme={"directory": "https://one.silent.test/dir", "port": t.port()})
    wait_question(server, "silent")
    p.config["acme"]["directory"] = "https://two.silent.test/dir"
    p.write()
    assert p.api("POST", "/v1/reload", timeout_s=15).status == 200
    wait_question(server, "two")
    p.put_routes([respond("b", [t.port()])])  # gives up the order, and the look-up with it
    assert p.api("GET", "/v1/status", timeout_s=15).status == 200
    assert p.put_routes([route]).status == 200
    wait_question(server, "two")
    p.stop(15)


# ---- a stderr that nobody reads

class Stuck:
    """The reading end of a proxy's stderr, which is read when told to."""

    def __init__(self, t, kind):
        if kind == "tty":
            self.fd, slave = os.openpty()
            self.path = os.ttyname(slave)
            t.cleanup(lambda: os.close(slave))
        else:
            self.path = t.path("fifo")
            os.mkfifo(self.path)
            self.fd = os.open(self.path, os.O_RDWR)
            fcntl.fcntl(self.fd, F_SETPIPE_SZ, 4096)
        t.cleanup(lambda: os.close(self.fd))
        os.set_blocking(self.fd, False)
        self.text = b""

    def read_until(self, pattern):
        def look():
            try:
                self.text += os.read(self.fd, 65536)
            except BlockingIOError:
                pass
            return re.search(pattern, self.text)
        return until(look, 10, f"{pattern} on stderr", 0.01)


def check_stuck(t, kind):
    stuck = Stuck(t, kind)
    wrapper = ["sh", "-c", 'exec 2>"$0"; exec "$@"', stuck.path]
    p = t.proxy([respond("a", [t.port()])], start=False, wrapper=wrapper, log="debug")
    p.spawn()
    until(p.status, 20, "the admin API")

    while p.metric("smartproxy_log_lines_dropped_total") <= 3:
        assert p.api("POST", "/v1/reload", timeout_s=10).status == 200
    match = stuck.read_until(rb"warn  log: (\d+) lines of the log were lost\r?\n")
    assert int(match[1]) > 3, match
    lines = stuck.text.rpartition(b"\n")[0].splitlines() # a terminal may cut what comes behind
    broken = [line for line in lines if not re.match(rb"\d{4}-.*Z (info|warn|debug) +\w+: ", line)]
    assert len(broken) == 0, broken
    return p, stuck


def test_a_stderr_that_nobody_reads_holds_up_nothing(t):
    p, _ = check_stuck(t, "fifo")
    p.stop(15)


def test_a_terminal_that_stands_still_holds_up_nothing(t):
    p, _ = check_stuck(t, "tty")
    for _ in range(3):
        until(lambda: p.reload().status == 200, 10, "reload")
    p.stop(15)


def test_a_stderr_that_is_closed_is_no_file_of_ours(t):
    p = t.proxy([respond("a", [t.port()])], start=False, wrapper=["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-'])
    p.spawn()
    until(p.status, 20, "the admin API")
    assert [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    p.stop(15)


# ---- signals while the start is under way

def read_bytes(command):
    with open(f"/proc/{command.process.pid}/io") as f:
        return int(re.search(r"rchar: (\d+)", f.read())[1])


def test_signals_while_the_configuration_is_read(t):
    port = t.port()
    p = t.proxy([respond(f"r{ix}", [port], domains=[f"h{ix}.test"]) for ix in range(20000)], start=False)
    size = os.path.getsize(p.file)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        p.spawn()
        until(lambda: read_bytes(p.command) >= size, 20, "it has the file, and goes on with what is in it", 0.001)
        p.signal(number)
        if number == signal.SIGHUP:
            p.wait_log("main: ready", 30)
            p.wait_log("reload|update", 30)
            p.stop()
        else:
            assert p.wait_exit(30) == 0
            assert p.command.count("stopped") == 1, p.log_tail(5)


# ---- etc/quickstart

FAKES = {
    "dpkg-query": "echo install ok installed",
    "meson": "", "ninja": "", "openssl": "",
    "curl": "exit 7",
    "pebble-challtestsrv": 'echo $$ >>"$PIDS"; exec sleep 60',
    "pebble": 'echo $$ >>"$PIDS"; exec sleep 60',
}


def quickstart(t, text, *args):
    """The script, with fakes of all that it runs. The CA never answers."""
    os.makedirs(t.path("etc"), exist_ok=True)
    os.makedirs(t.path("bin"), exist_ok=True)
    with open(t.path("etc/quickstart"), "w") as f:
        f.write(text)
    for name, body in FAKES.items():
        with open(t.path("bin", name), "w") as f:
            f.write(f"#!/bin/sh\n{body}\n")
        os.chmod(t.path("bin", name), 0o755)
    pids = t.path("pids")
    with open(pids, "w"):
        pass
    env = dict(os.environ, PATH=t.path("bin") + ":" + os.environ["PATH"], PIDS=pids)
    process = subprocess.Popen(["sh", t.path("etc/quickstart"), *args], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def left():
        with open(pids) as f:
            return [int(pid) for pid in f.read().split() if is_sleep(int(pid))]
    t.cleanup(lambda: [os.kill(pid, signal.SIGKILL) for pid in left()])
    t.cleanup(process.kill)
    return process, left


def is_sleep(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip() == "sleep"
    except OSError:
        return False


def script():
    with open(os.path.join(HERE, "../../etc/quickstart")) as f:
        return f.read()


def test_a_quickstart_that_is_cut_short_has_verified_nothing(t):
    for args, number, code in ((["--once"], signal.SIGTERM, 143), (["--once"], signal.SIGINT, 130), ([], signal.SIGINT, 0)):
        process, left = quickstart(t, script(), *args)
        until(lambda: len(left()) == 2, 10, "the CA runs")
        process.send_signal(number)
        assert process.wait(15) == code, (args, number)
        assert left() == []


def test_a_quickstart_that_is_cut_short_leaves_no_process(t):
    """A signal that comes when a child runs and its pid is not noted yet."""
    text = re.sub(r"(?m)^(.*pebble\.log.* &)$", r"\1\nkill -TERM $$", script())
    assert text != script()
    process, left = quickstart(t, text, "--once")
    assert process.wait(15) == 143
    assert left() == []


if __name__ == "__main__":
    main()
