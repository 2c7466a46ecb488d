"""The harness itself: what the other files rely on, tried without the proxy."""
import http.client
import http.server
import json
import os
import ssl
import subprocess
import sys
import threading

from sp import main, until
from sp import conf, origin
from sp.pebble import hanging, is_open
from sp.wait import pause


def test_pebble_starts_and_hands_out_its_root(t):
    ca = t.pebble()
    assert "BEGIN CERTIFICATE" in ca.root() and "BEGIN CERTIFICATE" in ca.intermediate()
    assert ca.order_cnt() == 0 and ca.invalid_authz_cnt() == 0
    ca.set_address("a.example.test", "127.0.0.1")
    ca.stop_server()
    until(lambda: not is_open(ca.port), 5, "pebble gone")
    ca.start()


def test_fault_proxy_passes_and_fails_on_demand(t):
    ca = t.pebble()
    fault = t.fault_proxy(ca)
    fault.rule("/dir", 1, status=500, body=b"no")
    fault.rule("/dir", 1, cut="answer")
    context = ssl.create_default_context(cafile=ca.ca_file)

    def fetch():
        c = http.client.HTTPSConnection("127.0.0.1", fault.port, timeout=5, context=context)
        try:
            c.request("GET", "/dir")
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    assert fetch() == (500, b"no")
    try:
        fetch()
        raise AssertionError("the cut connection answered")
    except (http.client.HTTPException, OSError):
        pass
    status, body = fetch()
    assert status == 200 and b"newOrder" in body and str(fault.port).encode() in body, body


class StandIn(http.server.ThreadingHTTPServer):
    """Stands for Pebble behind its front: answers after 20 ms, counts how many requests it has at once, notes their paths."""
    request_queue_size = 64

    def __init__(self, ca):
        super().__init__(("127.0.0.1", ca.own_port), StandInHandler)
        self.lock, self.now, self.most, self.paths = threading.Lock(), 0, 0, []
        self.is_released = threading.Event()  # for /slow
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca.config["certificate"], ca.config["privateKey"])
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def enter(self, path):
        with self.lock:
            self.paths.append(path)
            self.now += 1
            self.most = max(self.most, self.now)

    def leave(self):
        with self.lock:
            self.now -= 1


class StandInHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.enter(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        pause(0.02)
        if self.path == "/slow":
            self.server.is_released.wait(10)
        self.server.leave()
        text = f"{self.command} {self.headers['Host']} ".encode() + body
        self.send_response(200)
        self.send_header("Replay-Nonce", "n1")
        self.send_header("Link", '<https://ca.test/dir>;rel="index"')
        if self.path.startswith("/chalZ/"):
            self.send_header("Link", '<https://ca.test/authZ/a1>;rel="up"')
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            text = b"3\r\nabc\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(text), text)
        else:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else text)

    do_GET = do_HEAD = do_POST

    def log_message(self, *_):
        pass


def stand_in(t):
    ca = t.pebble(start=False)
    server = StandIn(ca)
    t.cleanup(server.server_close)
    t.cleanup(server.shutdown)
    with open(ca.log_file, "w"):
        pass
    ca.start_front()
    return ca, server


def ask(ca, port, *requests):
    """Each (method, path, body) on one connection; their answers' (status, list of headers, body)."""
    c = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=ssl.create_default_context(cafile=ca.ca_file))
    answers = []
    for method, path, body in requests:
        c.request(method, path, body)
        r = c.getresponse()
        answers.append((r.status, r.getheaders(), r.read()))
    c.close()
    return answers


def test_pebble_gets_one_request_at_a_time(t):
    ca, server = stand_in(t)
    fault = t.fault_proxy(ca)
    seen = []
    threads = [threading.Thread(target=lambda p=port: seen.extend(ask(ca, p, ("GET", "/", None), ("HEAD", "/", None))))
               for port in (ca.port, fault.port) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [status for status, _, _ in seen] == [200] * 16 and server.most == 1, (seen, server.most)


def test_the_front_passes_requests_and_answers_unchanged(t):
    ca, _ = stand_in(t)
    host = f"127.0.0.1:{ca.port} ".encode()
    head, get, post, chunked, last = ask(ca, ca.port, ("HEAD", "/", None), ("GET", "/", None), ("POST", "/chalZ/c1", b"\0body"),
                                         ("POST", "/chunked", b"x" * 200000), ("GET", "/", None))
    assert head[0] == 200 and head[2] == b"" and ("Replay-Nonce", "n1") in head[1], head
    assert get[2] == last[2] == b"GET " + host, (get, last)
    assert post[2] == b"POST " + host + b"\0body", post
    assert [v for k, v in post[1] if k == "Link"] == ['<https://ca.test/dir>;rel="index"', '<https://ca.test/authZ/a1>;rel="up"']
    assert chunked[2] == b"abcPOST " + host + b"x" * 200000 and ("Transfer-Encoding", "chunked") in chunked[1], chunked[1]


def test_a_request_whose_client_is_gone_is_dropped(t):
    ca, server = stand_in(t)
    thread = threading.Thread(target=ask, args=(ca, ca.port, ("GET", "/slow", None)))
    thread.start()
    until(lambda: server.paths == ["/slow"], 10, "a request in Pebble")
    context = ssl.create_default_context(cafile=ca.ca_file)
    clients = [http.client.HTTPSConnection("127.0.0.1", ca.port, timeout=10, context=context) for _ in range(5)]
    for c in clients:
        c.request("GET", "/gone")
    for c in clients:
        c.close()
    clients[0].connect()  # the front's answer comes after it has seen the others go
    server.is_released.set()
    thread.join(10)
    ask(ca, ca.port, ("GET", "/last", None))
    clients[0].close()
    assert server.paths == ["/slow", "/last"], server.paths


def check_held(t, begin, early, line):
    """After the request `begin`, `early` waits until Pebble's log says `line`; others pass."""
    ca, server = stand_in(t)
    ask(ca, ca.port, begin)
    thread = threading.Thread(target=ask, args=(ca, ca.port, early))
    thread.start()
    for _ in range(5):
        ask(ca, ca.port, ("POST", early[1] + "-other", early[2]))
    assert early[1] not in server.paths, server.paths
    with open(ca.log_file, "a") as f:
        f.write(f"Pebble 2026/01/02 03:04:05 x\nPebble 2026/01/02 03:04:05 {line}\n")
    thread.join(10)
    assert server.paths[-1] == early[1], server.paths
    ask(ca, ca.port, early)


def test_a_deactivation_waits_for_the_validation(t):
    check_held(t, ("POST", "/chalZ/c1", b"{}"), ("POST", "/authZ/a1", b'{"payload": "e30"}'), "authz a1 set VALID by completed challenge c1")


def test_a_question_for_an_order_waits_for_its_certificate(t):
    check_held(t, ("POST", "/finalize-order/o1", b"{}"), ("POST", "/my-order/o1", b'{"payload": ""}'),
               "Issued certificate serial 1f for order o1")


def test_a_failure_is_told_on_stderr_too(t):
    text = "from sp import main\ndef test_bad(t):\n    raise AssertionError('the cause')\nmain()\n"
    env = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, timeout=30, env=env, check=False)
    assert done.returncode == 1 and "not ok 1 - test_bad" in done.stdout, done
    assert "# AssertionError: the cause" in done.stdout
    assert done.stderr.startswith("--- test_bad failed:") and done.stderr.splitlines()[-1] == "AssertionError: the cause", done.stderr


def test_a_pebble_that_hangs_is_told_from_one_that_does_not(_t):
    def stack(state, *calls):
        frames = "".join(f"github.com/letsencrypt/pebble/{c}(0xc00010c080?, {{0xc0002a05a3?, 0x10?}})\n\tx.go:81 +0x66\n" for c in calls)
        return f"goroutine 23 [{state}]:\nsync.runtime_SemacquireMutex(0x0?)\n{frames}\n"
    reader = stack("semacquire, 2 minutes", "db.(*MemoryStore).GetAccountByID", "wfe.(*WebFrontEndImpl).Order")
    finder = stack("semacquire", "db.(*MemoryStore).FindValidAuthorization", "wfe.(*WebFrontEndImpl).NewOrder")
    idle = stack("IO wait", "wfe.(*WebFrontEndImpl).Order")
    assert hanging(idle * 9) == [] and hanging(reader + idle) == []
    assert hanging(reader + idle + finder + reader) == ["Pebble hangs: 3 goroutines wait for a lock of its store:",
                                                        "  1 in NewOrder: FindValidAuthorization", "  2 in Order: GetAccountByID"]


def test_what_failed_has_a_second_run_unless_something_crashed(t):
    """tests/failures.py, for tests/run."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../failures.py")
    for output, code, is_again in (("not within 10 s", 1, True), ("base_test.c:9:F:base:name:0: Assertion 'a == b' failed: a == 1", 1, True),
                                   ("smartproxy: assertion failed at src/base/buf.c:7: len <= cap", 1, False),
                                   ("unit_test: x.c:3: main: Assertion `0' failed.", 1, False),
                                   ("x.c:1:E:base:name:0: (after this point) Received signal 11 (Segmentation fault)", 1, False),
                                   ("--- it ended by signal 11", 1, False), ("ERROR: AddressSanitizer: heap-use-after-free", 1, False),
                                   ("", -11, False)):
        with open(t.path("log.json"), "w") as f:
            json.dump({"name": "smartproxy:unit / base", "result": "FAIL", "returncode": code, "stdout": output, "duration": 1.0}, f)
        names = subprocess.run([sys.executable, program, "names", t.path("log.json")], capture_output=True, text=True, check=True).stdout
        assert (names == "smartproxy:base\n") == is_again, (output, names)


def test_client_reads_what_the_origin_says(t):
    o = t.origin(origin.fixed(b"one"), origin.chunked(b"two", b"three", trailers=[("X-Sum", "1")]), origin.echo)
    c = t.connect(o.port)
    assert c.get("/1").body == b"one"
    second = c.get("/2")
    assert second.body == b"twothree" and second.trailers == [("X-Sum", "1")]
    c.request("POST", "/3", body=[b"a", b"bc"])
    third = c.response()
    assert third.body == b"abc" and third.header("x-target") == "/3"
    assert o.targets() == ["/1", "/2", "/3"] and len(o.connections) == 1


def test_configuration_text(_t):
    text = conf.to_libconfig({"global": {"workers": 2, "x": True}, "routes": (conf.respond("a", [80, 81], 'q"\n'),)})
    assert 'ports = [ 80, 81 ]' in text and 'body = "q\\"\\n"' in text and "x = true;" in text


if __name__ == "__main__":
    main()
