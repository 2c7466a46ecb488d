"""What is ambiguous is refused, not guessed: one row a request, with the answer and what may reach the origin."""
import re
import time

from sp import main, until
from sp.client import Client, Closed
from sp.conf import block, forward, respond
from sp.origin import fixed, raw


def get(*fields, line="GET {t} HTTP/1.1", host="Host: a.test"):
    lines = [line] + ([host] if host else []) + list(fields)
    return "\r\n".join(lines) + "\r\n\r\n"


def post(*fields, body="", line="POST {t} HTTP/1.1"):
    return get(*fields, line=line) + body


CHUNKED = "Transfer-Encoding: chunked"


def chunks(body, *fields):
    return post(CHUNKED, *fields, body=body)


# name, request, status wanted
ROWS = [
    # framing
    ("length and coding", post("Content-Length: 4", CHUNKED, body="0\r\n\r\n"), 400),
    ("coding and length", post(CHUNKED, "Content-Length: 4", body="0\r\n\r\n"), 400),
    ("coding in 1.0", post(CHUNKED, body="0\r\n\r\n", line="POST {t} HTTP/1.0"), 400),
    ("gzip, chunked", post("Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"), 501),
    ("chunked, gzip", post("Transfer-Encoding: chunked, gzip", body="0\r\n\r\n"), (400, 501)),
    ("xchunked", post("Transfer-Encoding: xchunked", body="0\r\n\r\n"), (400, 501)),
    ("identity", post("Transfer-Encoding: identity"), (400, 501)),
    ("VT before chunked", post("Transfer-Encoding: \x0bchunked", body="0\r\n\r\n"), (400, 501)),
    ("chunked twice in one", post("Transfer-Encoding: chunked, chunked", body="0\r\n\r\n"), (400, 501)),
    ("coding twice", post(CHUNKED, CHUNKED, body="0\r\n\r\n"), (400, 501)),
    ("coding twice, other", post(CHUNKED, "Transfer-Encoding: x", body="0\r\n\r\n"), (400, 501)),
    ("empty coding", post("Transfer-Encoding:", body=""), (400, 501)),
    ("quoted chunked", post('Transfer-Encoding: "chunked"', body="0\r\n\r\n"), (400, 501)),
    ("chunked with a parameter", post("Transfer-Encoding: chunked;a=b", body="0\r\n\r\n"), (400, 501)),
    ("space before the colon", post("Transfer-Encoding : chunked", body="0\r\n\r\n"), 400),
    ("space before the colon of a length", post("Content-Length : 0"), 400),
    ("length twice, equal", post("Content-Length: 2", "Content-Length: 2", body="ab"), 400),
    ("length twice, different", post("Content-Length: 2", "Content-Length: 3", body="abc"), 400),
    ("length list, equal", post("Content-Length: 2, 2", body="ab"), 400),
    ("length list, different", post("Content-Length: 2, 3", body="abc"), 400),
    ("length +2", post("Content-Length: +2", body="ab"), 400),
    ("length -2", post("Content-Length: -2", body="ab"), 400),
    ("length 0x2", post("Content-Length: 0x2", body="ab"), 400),
    ("length 2 a", post("Content-Length: 2 a", body="ab"), 400),
    ("length 2.0", post("Content-Length: 2.0", body="ab"), 400),
    ("length empty", post("Content-Length:", body=""), 400),
    ("length 2^64", post("Content-Length: 18446744073709551616"), 400),
    ("length 2^64+4", post("Content-Length: 18446744073709551620", body="abcd"), 400),
    ("length 10*2^64", post("Content-Length: 184467440737095516160"), 400),
    ("length 2^63", post("Content-Length: 9223372036854775808"), 400),
    ("length of 200 digits", post("Content-Length: " + "9" * 200), 400),
    ("length with _", post("Content-Length: 1_0", body="abcdefghij"), 400),
    # line ends and bytes
    ("bare LF in headers", "GET {t} HTTP/1.1\nHost: a.test\n\n", 400),
    ("one bare LF", "GET {t} HTTP/1.1\r\nHost: a.test\nX: y\r\n\r\n", 400),
    ("bare LF at the end", "GET {t} HTTP/1.1\r\nHost: a.test\r\n\n", 400),
    ("bare CR in a value", get("X: a\rb"), 400),
    ("CR CR LF", "GET {t} HTTP/1.1\r\nHost: a.test\r\r\n\r\n", 400),
    ("bare CR before a name", get("\rX: a"), 400),
    ("NUL in a value", get("X: a\x00b"), 400),
    ("NUL in a name", get("X\x00: a"), 400),
    ("BEL in a value", get("X: a\x07b"), 400),
    ("DEL in a value", get("X: a\x7fb"), 400),
    ("obs-fold", get("X: a\r\n b"), 400),
    ("obs-fold by tab", get("X: a\r\n\tb"), 400),
    ("obs-fold of the first field", "GET {t} HTTP/1.1\r\n Host: a.test\r\n\r\n", 400),
    ("line without a colon", get("XYZ"), 400),
    ("empty name", get(": a"), 400),
    ("X(a): 1", get("X(a): 1"), 400),
    ("name with a space", get("X Y: 1"), 400),
    ("name with 8 bits", get("X\xe9: 1"), 400),
    # Host
    ("1.1 without Host", get(host=None), 400),
    ("Host twice, equal", get("Host: a.test"), 400),
    ("Host twice, different", get("Host: b.test"), 400),
    ("Host empty", get(host="Host:"), 400),
    ("Host a/b", get(host="Host: a/b"), 400),
    ("Host u@a", get(host="Host: u@a"), 400),
    ("Host with a space", get(host="Host: a b"), 400),
    ("Host with a comma", get(host="Host: a.test,b.test"), 400),
    ("Host with #", get(host="Host: a#b"), 400),
    ("Host with ?", get(host="Host: a?b"), 400),
    ("Host port empty word", get(host="Host: a.test:x"), 400),
    ("Host port 0", get(host="Host: a.test:0"), 400),
    ("Host port 65536", get(host="Host: a.test:65536"), 400),
    ("Host half an IPv6", get(host="Host: [::1"), 400),
    ("absolute-form with another Host", get(line="GET http://b.test{t} HTTP/1.1"), 400),
    ("absolute-form with userinfo", get(line="GET http://u@a.test{t} HTTP/1.1"), 400),
    # request line
    ("two spaces", get(line="GET  {t} HTTP/1.1"), 400),
    ("two spaces before the version", get(line="GET {t}  HTTP/1.1"), 400),
    ("tab", get(line="GET\t{t} HTTP/1.1"), 400),
    ("trailing space", get(line="GET {t} HTTP/1.1 "), 400),
    ("leading space", get(line=" GET {t} HTTP/1.1"), 400),
    ("method with a bad byte", get(line="GE(T {t} HTTP/1.1"), 400),
    ("target with #", get(line="GET {t}#x HTTP/1.1"), 400),
    ("target with 8 bits", get(line="GET {t}\xe9 HTTP/1.1"), 400),
    ("target with NUL", get(line="GET {t}\x00 HTTP/1.1"), 400),
    ("target not a path", get(line="GET x{t} HTTP/1.1"), 400),
    ("HTTP/2.0", get(line="GET {t} HTTP/2.0"), 505),
    ("HTTP/3.0", get(line="GET {t} HTTP/3.0"), 505),
    ("HTTP/1.10", get(line="GET {t} HTTP/1.10"), (400, 505)),
    ("HTTP/1", get(line="GET {t} HTTP/1"), 400),
    ("http/1.1", get(line="GET {t} http/1.1"), 400),
    ("HTTP/0.9", "GET {t}\r\n\r\n", 400),
    ("HTTP/ 1.1", get(line="GET {t} HTTP/ 1.1"), 400),
    ("CONNECT", get(line="CONNECT a.test:443 HTTP/1.1"), (400, 403, 404, 405, 501)),
    ("TRACE with a body", post("Content-Length: 2", body="ab", line="TRACE {t} HTTP/1.1"), (400, 405, 501)),
    ("TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "a" * 40 + "\r\n\r\n", 400),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    # Expect
    ("Expect: foo", post("Expect: foo", "Content-Length: 2", body="ab"), 417),
    # sizes
    ("URI of 20 kB", get(line="GET {t}" + "a" * 20000 + " HTTP/1.1"), 414),
    ("URI of 70 kB", get(line="GET {t}" + "a" * 70000 + " HTTP/1.1"), (414, 431)),
    ("200 fields", get(*[f"X-{ix}: a" for ix in range(200)]), 431),
    ("2000 fields", get(*[f"X-{ix}: a" for ix in range(2000)]), 431),
    ("a field of 70 kB", get("X: " + "a" * 70000), 431),
    ("a name of 70 kB", get("X" * 70000 + ": a"), 431),
]

# name, request, body that the origin must see
ACCEPTED = [
    ("plain", get(), b""),
    ("length 02 is re-serialised", post("Content-Length: 02", body="ab"), b"ab"),
    ("white space around a value", get("X: \t a \t "), b""),
    ("an empty line before", "\r\n" + get(), b""),
    ("underscore name is dropped", get("X_Y: 1"), b""),
    ("coding in capitals", post("Transfer-Encoding: Chunked", body="2\r\nab\r\n0\r\n\r\n"), b"ab"),
    ("chunk extensions are dropped", chunks('2;a=b\r\nab\r\n2;c="d;e"\r\ncd\r\n0;x\r\n\r\n'), b"abcd"),
    ("leading zeros of a chunk size", chunks("0002\r\nab\r\n0\r\n\r\n"), b"ab"),
    ("capitals in a chunk size", chunks("A\r\nabcdefghij\r\n0\r\n\r\n"), b"abcdefghij"),
    ("body of a GET", post("Content-Length: 2", body="ab", line="GET {t} HTTP/1.1"), b"ab"),
    ("obs-text in a value", get("X: \xe9"), b""),
    ("Host of an IPv6", get(host="Host: [::1]:80"), b""),
    ("absolute-form with the same Host", get(line="GET http://a.test{t} HTTP/1.1"), b""),
    ("method of one's own", get(line="PURGE {t} HTTP/1.1"), b""),
    ("HTTP/1.0 without Host", get(host=None, line="GET {t} HTTP/1.0"), b""),
]

# name, bytes after a good head with chunked coding; the head may have gone on already, the end of the body never
BAD_CHUNKS = [
    ("size 0x2", "0x2\r\nab\r\n0\r\n\r\n"),
    ("size +2", "+2\r\nab\r\n0\r\n\r\n"),
    ("size empty", "\r\nab\r\n0\r\n\r\n"),
    ("size with a space", "2 \r\nab\r\n0\r\n\r\n"),
    ("size after a space", " 2\r\nab\r\n0\r\n\r\n"),
    ("size of 17 digits", "10000000000000002\r\nab\r\n0\r\n\r\n"),
    ("size of 16 F", "FFFFFFFFFFFFFFFF\r\nab\r\n0\r\n\r\n"),
    ("size with a G", "2G\r\nab\r\n0\r\n\r\n"),
    ("bare LF after a size", "2\nab\r\n0\r\n\r\n"),
    ("bare LF after an extension", "2;a=b\nab\r\n0\r\n\r\n"),
    ("bare CR in an extension", "2;a=\rb\r\nab\r\n0\r\n\r\n"),
    ("NUL in an extension", "2;a=\x00b\r\nab\r\n0\r\n\r\n"),
    ("bare LF after data", "2\r\nab\n0\r\n\r\n"),
    ("data spills over", "2\r\nabc\r\n0\r\n\r\n"),
    ("data too short", "3\r\nab\r\n0\r\n\r\n"),
    ("bare LF after the last chunk", "2\r\nab\r\n0\n\r\n"),
    ("bare LF in trailers", "2\r\nab\r\n0\r\nX: y\n\r\n"),
    ("trailer without a colon", "2\r\nab\r\n0\r\nXYZ\r\n\r\n"),
    ("obs-fold in a trailer", "2\r\nab\r\n0\r\nX: y\r\n z\r\n\r\n"),
    ("extension of 10 kB", "2;a=" + "b" * 10000 + "\r\nab\r\n0\r\n\r\n"),
    ("trailers of 60 kB", "2\r\nab\r\n0\r\n" + "".join(f"X-{ix}: {'a' * 90}\r\n" for ix in range(600)) + "\r\n"),
]


def proxied(t):
    o = t.origin(fixed(b"seen"))
    port = t.port()
    t.proxy([forward("all", [port], [o.port])], workers=1)
    return port, o


def encoded(request, target):
    return request.replace("{t}", target).encode("latin-1")


def send_all(c, data):
    try:
        c.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def test_refused(t):
    port, o = proxied(t)
    wrong = []
    for ix, (name, request, wanted) in enumerate(ROWS):
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        with Client(port, timeout_s=5) as c:
            # A second request in the same write: a smuggled one would be answered or forwarded.
            send_all(c, encoded(request, f"/row{ix}") + b"GET /smuggled%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % ix)
            try:
                r = c.response()
                rest = c.wait_closed()
                if r.status not in wanted:
                    wrong.append(f"{name}: {r.status}, wanted {wanted}")
                elif rest:
                    wrong.append(f"{name}: more than one answer: {rest[:100]!r}")
                elif r.header("connection", "").lower() != "close":
                    wrong.append(f"{name}: no Connection: close")
            except (Closed, TimeoutError, ValueError, AssertionError) as e:
                wrong.append(f"{name}: {type(e).__name__} {e}")
    with Client(port) as c:
        assert c.get("/sentinel").body == b"seen"
    reached = [target for target in o.targets() if target != "/sentinel"]
    assert not wrong and not reached, "\n".join(wrong + [f"reached the origin: {reached}"])


def test_accepted(t):
    port, o = proxied(t)
    wrong = []
    for ix, (name, request, body) in enumerate(ACCEPTED):
        with Client(port, timeout_s=5) as c:
            send_all(c, encoded(request, f"/row{ix}"))
            try:
                r = c.response()
            except (Closed, TimeoutError) as e:
                wrong.append(f"{name}: {e}")
                continue
        if r.status != 200:
            wrong.append(f"{name}: {r.status} {r.body!r}")
        elif o.last.body != body or o.last.target != f"/row{ix}":
            wrong.append(f"{name}: the origin saw {o.last.target} {o.last.body!r}")
    assert not wrong, "\n".join(wrong)
    seen = {r.target: r for r in o.requests}
    by_name = {name: seen[f"/row{ix}"] for ix, (name, _, _) in enumerate(ACCEPTED)}
    r = by_name["length 02 is re-serialised"]
    assert r.header("content-length") == "2", r.raw_head
    assert not by_name["underscore name is dropped"].all("x_y")
    assert by_name["white space around a value"].header("x") == "a"
    assert b";a=b" not in by_name["chunk extensions are dropped"].raw_head
    assert all(len(r.all("host")) == 1 and not (r.all("content-length") and r.all("transfer-encoding")) for r in o.requests)


def test_bad_chunks_never_look_complete(t):
    port, o = proxied(t)
    wrong = []
    for ix, (name, body) in enumerate(BAD_CHUNKS):
        with Client(port, timeout_s=5) as c:
            send_all(c, encoded(chunks(body), f"/row{ix}") + b"GET /smuggled%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % ix)
            try:
                r = c.response()
                if r.status not in (400, 431):
                    wrong.append(f"{name}: {r.status}")
                elif c.wait_closed():
                    wrong.append(f"{name}: more than one answer")
            except (Closed, TimeoutError) as e:
                wrong.append(f"{name}: {type(e).__name__} {e}")
    with Client(port) as c:
        assert c.get("/sentinel").body == b"seen"
    for r in o.requests:
        if r.target != "/sentinel" and r.is_complete:
            wrong.append(f"{r.target} is complete at the origin: {r.body[:50]!r}")
    assert not any("smuggled" in target for target in o.targets()), o.targets()
    assert not wrong, "\n".join(wrong)


def test_refusals_arrive_however_the_bytes_come(t):
    """The same rows, a byte at a time: the answer does not depend on the reads."""
    port, _ = proxied(t)
    wrong = []
    for name, request, wanted in ROWS:
        if len(request) > 400:
            continue
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        with Client(port, timeout_s=5) as c:
            try:
                try:
                    c.send_slowly(encoded(request, "/slow"))
                except (BrokenPipeError, ConnectionResetError):
                    pass
                r = c.response()
                if r.status not in wanted:
                    wrong.append(f"{name}: {r.status}, wanted {wanted}")
            except (Closed, TimeoutError) as e:
                wrong.append(f"{name}: {type(e).__name__} {e}")
    assert not wrong, "\n".join(wrong)


def test_refusals_are_counted_and_their_bytes_escaped_in_the_log(t):
    o = t.origin()
    port = t.port()
    p = t.proxy([forward("all", [port], [o.port])], workers=1)
    with Client(port) as c:
        c.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31mred\x00\r\n\r\n")
        assert c.response().status == 400
    assert p.metric("smartproxy_rejects_total", "nul") == 1
    line = p.wait_log(r" info  proxy: request refused conn=\d+ client=\S+ port=\d+ route= reason=nul status=400 .*$").group(0)
    assert line.endswith(r'held_back=0 bytes="GET / HTTP/1.1\x0d\x0aHost: a\x0d\x0aX: \x1b[31mred\x00\x0d\x0a\x0d\x0a"'), line
    assert "\x1b" not in p.log_text()


def refuse(port, data=b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"):
    with Client(port) as c:
        c.send(data)
        assert c.response().status >= 400


def test_quotes_are_escaped_and_credentials_cut_off_in_the_log(t):
    for tail, shown in ((b'Host: "\\', r'Host: \x22\x5c\x0d\x0a\x0d\x0a'), (b"Cookie : secret", "Cookie"),
                        (b"proxy-authorization: secret\r\nHost: a b", "proxy-authorization"), (b"X:" + b"y" * 9000 + b"\0", "X:" + "y" * 46)):
        port = t.port()
        p = t.proxy([respond("all", [port])], workers=1)
        refuse(port, b"GET / HTTP/1.1\r\n" + tail + b"\r\n\r\n")
        line = p.wait_log("request refused").string
        assert line.endswith(f'bytes="GET / HTTP/1.1\\x0d\\x0a{shown}"'), line
        p.stop()


def test_refusals_are_logged_one_a_second_and_the_rest_counted(t):
    port = t.port()
    p = t.proxy([respond("all", [port])], workers=1)
    begin, sent = time.monotonic(), 0
    for _ in range(50):
        refuse(port)
    sent += 50
    assert p.command.count("request refused") <= 1 + time.monotonic() - begin
    held = r"request refused .* held_back=([1-9]\d*) "

    def next_line():
        nonlocal sent
        refuse(port)
        sent += 1
        return p.command.count(held) > 0
    until(next_line, 10, "a second is over", interval_s=0.05)
    found = [int(cnt) for cnt in re.findall(r"request refused .* held_back=(\d+) ", p.log_text())]
    assert 50 < len(found) + sum(found) <= sent, (found, sent)
    assert p.metric("smartproxy_rejects_total", "bad_host") == sent


def test_refused_answers_are_logged_with_their_target(t):
    scripts = [raw(b"HTTP/1.1 2xx \x1b[2J\r\n\r\n", close=True), raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n", close=True)]
    for script, wanted in zip(scripts, (r'reason="bad_status_line" held_back=0 bytes="HTTP/1.1 2xx \x1b[2J\x0d\x0a\x0d\x0a"',
                                        'reason="bad_chunk_size" held_back=0 bytes=""')):
        o = t.origin(script)
        port = t.port()
        p = t.proxy([forward("app", [port], [o.port])], workers=1)
        with Client(port) as c:
            c.send(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\n\r\n")
            try:
                assert c.response().status == 502
            except Closed:
                pass
        line = p.wait_log("answer of a target refused").string
        assert " warn  proxy: " in line and f" route=app target=127.0.0.1:{o.port} {wanted}" in line, line
        assert "secret" not in p.log_text()
        p.stop()


def test_dots_behind_an_encoded_slash_do_not_pass_a_block(t):
    o = t.origin(fixed(b"origin"))
    port = t.port()
    p = t.proxy([forward("all", [port], [o.port]), block("admin", [port], path="/admin/*")], workers=1)
    with Client(port) as c:
        for path in ("/group%2Fproject/-/raw", "/bucket/a%2f%5cb\\c", "/a/..b%2fc.."):
            assert c.get(path).status == 200
            assert o.requests[-1].target == path, "it goes on as it came"
    seen = len(o.requests)
    for path in ("/a/..%2fadmin/x", "/a/%2e%2E%2Fadmin/x", "/a/..%5cadmin/x", "/a/..\\admin/x", "/a%2f../admin/x", "/a/.%2fadmin/x",
                 "/admin/a%2fb/../../pub"):
        refuse(port, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert len(o.requests) == seen
    assert p.metric("smartproxy_rejects_total", "bad_target") == 7


def test_every_status_line_is_ours(t):
    """No byte of the request comes back in an error."""
    port, _ = proxied(t)
    with Client(port) as c:
        c.send(b"GET /<script>alert(1)</script>\x00 HTTP/1.1\r\nHost: a\r\n\r\n")
        r = c.response()
        assert r.status == 400 and b"script" not in r.body


if __name__ == "__main__":
    main()
