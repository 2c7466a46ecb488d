"""The harness itself: what the other files rely on, tried without the proxy."""
import http.client
import http.server
import os
import ssl
import subprocess
import sys
import threading

from sp import main, until
from sp import conf, origin
from sp.pebble import hanging, is_open, make_leaf
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


class CountingServer(http.server.ThreadingHTTPServer):
    """Stands for Pebble: answers after 20 ms and counts how many requests it has at once."""

    def __init__(self, port, files):
        super().__init__(("127.0.0.1", port), CountingHandler)
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def count(self, step):
        with self.lock:
            self.now += step
            self.most = max(self.most, self.now)


class CountingHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.count(1)
        pause(0.02)
        self.server.count(-1)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_fault_proxy_gives_pebble_one_request_at_a_time(t):
    ca = t.pebble(start=False)
    server = CountingServer(ca.port, make_leaf(ca.dir, "counting", ["127.0.0.1"], (ca.ca_file, ca.ca_file.replace(".pem", ".key"))))
    t.cleanup(server.server_close)
    t.cleanup(server.shutdown)
    fault = t.fault_proxy(ca)
    context = ssl.create_default_context(cafile=ca.ca_file)
    seen = []

    def fetch():
        c = http.client.HTTPSConnection("127.0.0.1", fault.port, timeout=10, context=context)
        c.request("GET", "/")
        seen.append(c.getresponse().status)
        c.close()

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == [204] * 8 and server.most == 1, (seen, server.most)


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
