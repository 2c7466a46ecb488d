"""The harness itself: what the other files rely on, tried without the proxy."""
import http.client
import ssl

from sp import main, until
from sp import conf, origin
from sp.pebble import is_open


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
