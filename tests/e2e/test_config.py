"""Configuration: -t, -T, all errors at once with file, line and key; nothing changes on a bad reload."""
import os
import re

from sp import main, until
from sp.conf import forward, redirect, respond, to_libconfig
from sp.pebble import make_ca, make_leaf
from sp.process import run_proxy

GOOD = """global: { workers = 1; state_dir = "%(dir)s/state"; control = { path = "%(dir)s/c.sock"; }; };
routes: (
  { name = "a"; match = { ports = [ 8080 ]; domains = [ "a.test", "*.b.test" ]; path = "/x/*"; };
    action = { type = "respond"; status = 200; body = "pong\\n"; }; },
  { name = "b"; match = { ports = [ 8080 ]; }; action = { type = "redirect"; location = "https://{host}{path}"; }; },
  { name = "c"; match = { ports = ( 8081, "9000-9010" ); };
    action = { type = "forward"; targets = ( { host = "127.0.0.1"; port = 1; }, { host = "::1"; port = 2; weight = 3; } ); }; }
);
"""


def write(t, text, name="x.conf"):
    path = t.path(name)
    with open(path, "w") as f:
        f.write(text)
    return path


def test_t_accepts_a_good_file(t):
    code, out, err = run_proxy("-t", "-c", write(t, GOOD % {"dir": t.dir}))
    assert code == 0, out + err


def test_T_round_trips(t):
    code, first, err = run_proxy("-T", "-c", write(t, GOOD % {"dir": t.dir}))
    assert code == 0, err
    for word in ("header", "idle_upstream", "keep_port", "state_dir", "9000-9010"):
        assert word in first, f"{word} is not printed"
    code, second, err = run_proxy("-T", "-c", write(t, first, "y.conf"))
    assert code == 0, err
    assert first.replace("y.conf", "x.conf") == second.replace("y.conf", "x.conf")
    assert run_proxy("-t", "-c", t.path("y.conf"))[0] == 0


EDGE = """global: { state_dir = "%(dir)s/state"; control = { path = "%(dir)s/c.sock"; }; };
dns = { servers = [ "127.0.0.1:5353" ]; max_ttl = "10m"; };
listeners = ( { ports = [ 443 ]; proxy_protocol = { trusted = [ "10.0.0.0/8" ]; }; } );
limits = { connections_per_ip = 10; connection_rate_per_ip = 5; };
timeouts = { hello = "2s"; tunnel_idle = "10m"; };
upstreams: (
  { name = "app"; targets = ( { host = "10.0.0.1"; port = 80; proxy_protocol = "v2"; }, { host = "10.0.0.2"; port = 80; backup = true; } );
    balance = "hash"; hash_key = "header:X-User"; check = { type = "http"; status = "204"; }; retry = { tries = 2; }; },
  { name = "tunnel"; targets = ( { host = "10.0.0.3"; port = "preserve"; } ); balance = "least-connections"; }
);
routes: (
  { name = "app"; max_connections = 7; match = { ports = [ 80 ]; }; action = { type = "forward"; upstream = "app"; }; },
  { name = "through"; match = { ports = [ 443 ]; domains = [ "a.test" ]; alpn = [ "h2" ]; };
    action = { type = "forward"; upstream = "tunnel"; tls = { mode = "passthrough"; }; }; },
  { name = "raw"; match = { ports = [ "9000-9010" ]; }; action = { type = "forward"; protocol = "tcp"; upstream = "tunnel"; }; }
);
"""


def test_upstreams_tunnels_and_listeners_round_trip(t):
    file = write(t, EDGE % {"dir": t.dir})
    code, out, err = run_proxy("-t", "-c", file)
    assert code == 0, out + err
    code, first, err = run_proxy("-T", "-c", file)
    assert code == 0, err
    for word in ("header:x-user", "204", "preserve", "passthrough", "tunnel_idle", "10.0.0.0/8", "least-connections", "127.0.0.1:5353"):
        assert word in first, f"{word} is not printed"
    code, second, err = run_proxy("-T", "-c", write(t, first, "y.conf"))
    assert code == 0, err
    assert first.replace("y.conf", "x.conf") == second.replace("y.conf", "x.conf")


def test_an_upstream_that_is_not_there_is_named_with_the_nearest(t):
    text = (EDGE % {"dir": t.dir}).replace('upstream = "app"', 'upstream = "ap"').replace('"least-connections"', '"sticky"')
    code, out, err = run_proxy("-t", "-c", write(t, text))
    assert code == 1, out + err
    assert 'routes[0].action.upstream: no upstream has the name "ap"; did you mean "app"?' in err, err
    for name in ("through", "raw"):
        assert re.search(r'upstream "tunnel" \(line \d+\) balances by a sticky cookie, which route "%s" does not have' % name, err), err


def test_routes_by_the_api_go_to_the_upstreams_of_the_file(t):
    o, port = t.origin(), t.port()
    p = t.proxy([respond("a", [port], "old")], start=False)
    p.config["upstreams"] = ({"name": "app", "targets": ({"host": "127.0.0.1", "port": o.port},)},)
    p.write()
    p.start()
    route = {"name": "a", "match": {"ports": [port]}, "action": {"type": "forward", "upstream": "apq"}}
    answer = p.put_routes([route])
    assert answer.status == 400 and 'did you mean \\"app\\"' in answer.text, answer.text
    assert t.connect(port).get().body == b"old"
    route["action"]["upstream"] = "app"
    answer = p.put_routes([route])
    assert answer.status == 200, answer.text
    assert t.connect(port).get().status == 200


def test_a_file_without_routes_is_an_error_and_no_outage(t):
    """Emptied by a full disk, or cut short: not the wish to close every port."""
    code, out, err = run_proxy("-t", "-c", write(t, ""))
    assert code == 1 and "routes: is missing" in err, out + err
    code, out, err = run_proxy("-t", "-c", write(t, "routes = ( );\n"))
    assert code == 0 and "0 routes" in out, out + err
    port = t.port()
    p = t.proxy([respond("a", [port], "old")])
    p.text = ""
    p.write()
    answer = p.reload()
    assert answer.status == 400 and "routes" in answer.text, answer.text
    assert t.connect(port).get().body == b"old"


BAD = """global: {
  workerz = 2;
  state_dir = 5;
};
timeouts: { header = "10 parsecs"; idle = "-1s"; };
acme: { port = 70000; };
routes: (
  { name = "a"; match = { ports = [ 0 ]; }; action = { type = "respnd"; }; },
  { name = "a"; match = { prots = [ 80 ]; }; action = { type = "forward"; }; },
  { match = { ports = [ 80 ]; domains = [ "a..b" ]; }; action = { type = "redirect"; status = 200; }; }
);
"""


def test_all_errors_are_listed_with_file_line_and_key(t):
    file = write(t, BAD)
    code, out, err = run_proxy("-t", "-c", file)
    text = out + err
    assert code == 1, f"exit code {code}"
    lines = [line for line in text.splitlines() if re.search(re.escape(file) + r":\d+: ", line)]
    for line, path, hint in ((2, "global.workerz", "workers"), (3, "global.state_dir", ""), (5, "timeouts.header", ""),
                             (5, "timeouts.idle", ""), (6, "acme.port", "65535"), (8, "routes[0].match.ports", ""),
                             (8, "routes[0].action.type", "respond"), (9, "routes[1].match.prots", "ports"),
                             (10, "routes[2].match.domains", "")):
        found = [x for x in lines if f"{file}:{line}: " in x and path in x and hint in x]
        assert found, f"no error for line {line}, {path} (hint {hint!r}) in:\n{text}"
    assert len(lines) >= 12, text


def test_syntax_errors_name_the_line(t):
    file = write(t, "global: {\n  workers = 1;\n  state_dir = ;\n};\n")
    code, out, err = run_proxy("-t", "-c", file)
    assert code == 1 and f"{file}:3" in out + err, out + err


def test_missing_and_unreadable_files(t):
    for file in (t.path("none.conf"), t.dir):
        code, out, err = run_proxy("-t", "-c", file)
        assert code == 1 and file in out + err, out + err
        code, out, err = run_proxy("-c", file)
        assert code == 1 and file in out + err, out + err


def test_odd_files_are_refused_without_harm(t):
    for ix, data in enumerate((b"\x00\x01\x02", b"\xff" * 1000, b"{" * 100000, b"(" * 100000, b'a = "' + b"x" * 1000000,
                               b"routes = 5;", b"routes: ( 5, 6 );", b"@include \"/nonexistent\"\n", b"a = [1, \"b\"];")):
        path = t.path(f"odd{ix}.conf")
        with open(path, "wb") as f:
            f.write(data)
        code, out, err = run_proxy("-t", "-c", path)
        assert code == 1 and (out + err).strip(), f"{data[:30]!r}: {code} {out}{err}"


def test_files_of_tls_towards_targets_are_read(t):
    (cert, key), missing = make_leaf(t.dir, "inner", ["inner.test"]), t.path("none.pem")
    certificate = f'{{ chain_file = "{cert}"; key_file = "{key}"; }}'
    for upstream, path, expected in ((f'ca_file = "{cert}";', None, None), (f'ca_file = "{missing}";', "ca_file", missing),
                                     (f'ca_file = "{key}";', "ca_file", "no certificate in it"), (f"certificate = {certificate};", None, None),
                                     (f'certificate = {{ chain_file = "{cert}"; key_file = "{missing}"; }};', "certificate.key_file", missing)):
        file = write(t, f'''routes: ( {{ name = "inner"; match = {{ ports = [ 8443 ]; }}; action = {{ type = "forward";
          targets = ( {{ host = "192.0.2.1"; port = 443; }} );
          tls = {{ mode = "terminate-and-reencrypt"; certificate = {certificate}; upstream = {{ {upstream} }}; }}; }}; }} );''')
        code, out, err = run_proxy("-t", "-c", file)
        assert code == (0 if expected is None else 1), upstream + out + err
        if expected:
            assert f"{file}:1: routes[0].action.tls.upstream.{path}: " in err and expected in err and "(route inner)" in err, err


def test_both_files_of_a_certificate_are_told_with_their_keys(t):
    (cert, _), (_, key) = make_leaf(t.dir, "a", ["a.test"]), make_leaf(t.dir, "b", ["b.test"])
    none = [t.path("none.pem"), t.path("none.key")]
    text = GOOD % {"dir": t.dir}

    def check(chain_file, key_file):
        tls = f'tls = {{ certificate = {{ chain_file = "{chain_file}"; key_file = "{key_file}"; }}; }};'
        file = write(t, text.replace('body = "pong\\n"; };', 'body = "pong\\n"; ' + tls + " };").replace("9000-9010", "9000").replace('8080 ]; };', '8082 ]; };'))
        code, out, err = run_proxy("-t", "-c", file)
        assert code == 1, out + err
        code, _, log = run_proxy("-c", file)
        assert code == 1
        return file, err, log
    file, err, log = check(*none)
    for path, missing in zip(("chain_file", "key_file"), none):
        assert f"{file}:3: routes[0].action.tls.certificate.{path}: cannot open {missing}: No such file or directory (route a)\n" in err, err
        assert f"cannot open {missing}" in log, log
    assert 'route "a": action.tls.certificate: cannot open' in log, log
    file, err, log = check(cert, key)
    assert f"{file}:3: routes[0].action.tls.certificate: {key}: the private key does not belong" in err, err


def test_the_authority_of_the_ca_has_to_be_there(t):
    (_, key), cert = make_leaf(t.dir, "a", ["a.test"]), make_ca(t.dir)[0]
    port, missing = t.port(), t.path("none.pem")
    for ca_file, expected in ((missing, f"cannot open {missing}: No such file"), (key, "no certificate in it")):
        text = GOOD % {"dir": t.dir} + f'acme = {{ ca_file = "{ca_file}"; }};'
        code, out, err = run_proxy("-t", "-c", write(t, text))
        assert code == 1 and "acme.ca_file: " in err and expected in err, out + err
        code, out, err = run_proxy("-c", write(t, text))
        assert code == 1 and "start failed: acme.ca_file: " in err and expected in err, out + err
    p = t.proxy([respond("a", [port], "old")], acme={"ca_file": cert})
    p.config["acme"]["ca_file"] = missing
    p.write([respond("a", [port], "new")])
    answer = p.reload()
    assert answer.status == 400 and f"acme.ca_file: cannot open {missing}" in answer.text, answer.text
    assert t.connect(port).get().body == b"old"


def test_users_and_groups_have_to_be_there(t):
    text = GOOD % {"dir": t.dir}
    for keys, expected in (('group = "nogroup";', ":1: global.group: needs global.user"),
                           ('user = "no-such-user";', "global.user: there is no user named no-such-user"),
                           ('user = "nobody"; group = "no-such-group";', "global.group: there is no group named no-such-group"),
                           ('user = "nobody";', None), ('user = ""; group = "";', None)):
        code, out, err = run_proxy("-t", "-c", write(t, text.replace("workers = 1;", "workers = 1; " + keys)))
        assert code == (1 if expected else 0) and (expected or "") in err, out + err
    code, out, err = run_proxy("-c", write(t, text.replace("workers = 1;", 'group = "nogroup";')))
    assert code == 1 and "global.group: needs global.user" in err, out + err


def test_an_update_that_takes_too_long_stops_in_the_middle(t):
    """Of very many new ports no more are opened than there is time for, and all of those are given back."""
    t.need_namespace()
    port = t.port()
    p = t.proxy([respond("a", [port], "old")], start=False, workers=1)
    p.config["global"]["control"]["update_timeout"] = "100ms"
    p.write()
    p.start()
    binds, cnt = p.metric("smartproxy_listener_binds_total"), 20000
    answer = p.put_routes([respond("a", [port], "new"), respond("b", [f"30000-{30000 + cnt - 1}"], "new")])
    assert answer.status in (503, 500), answer.text # 500: so many descriptors are not allowed here
    assert answer.status == 500 or "update_timeout" in answer.text, answer.text
    assert p.metric("smartproxy_listener_binds_total") - binds < cnt
    assert [x["port"] for x in p.listeners()] == [port] and t.connect(port).get().body == b"old"
    p.wait_fds(p.begin_fds + 2)


def test_bad_arguments(_t):
    for args in (("-z",), ("-c",), ()):
        code, out, err = run_proxy(*args)
        assert code != 0 and (out + err).strip(), args
    code, out, err = run_proxy("-h")
    assert code == 0 and "-c" in out + err
    code, out, err = run_proxy("-V")
    assert code == 0 and re.search(r"\d+\.\d+", out + err)


def test_start_with_errors_exits_1_and_opens_nothing(t):
    p = t.proxy(start=False, text=BAD)
    p.spawn()
    assert p.wait_exit(10) == 1
    assert "workerz" in p.log_text()


def test_bad_reload_keeps_the_old_generation(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "old")])
    generation = p.status()["generation"]
    good = p.config["routes"]
    p.config["routes"] = (respond("a", [port], "new"), respond("a", [port], "twice"))
    p.config["global"]["workerz"] = 5
    p.write()
    answer = p.reload()
    assert 400 <= answer.status < 500 and "workerz" in answer.text, answer.text
    mark = p.log_mark()
    p.sighup()
    p.wait_log("workerz", 5, mark)
    assert p.status()["generation"] == generation
    assert t.connect(port).get().body == b"old"
    del p.config["global"]["workerz"]
    p.write(good)
    assert p.reload().status == 200


def test_reload_applies_what_changed(t):
    first, second = t.port(), t.port()
    o = t.origin()
    p = t.proxy([respond("a", [first], "old"), forward("keep", [second], [o.port])])
    kept = t.connect(second)
    assert kept.get().status == 200
    third = t.port()
    p.write([respond("a", [third], "new"), forward("keep", [second], [o.port])])
    answer = p.reload()
    assert answer.status == 200, answer.text
    assert t.connect(third).get().body == b"new"
    assert kept.get().status == 200, "a connection of a route that did not change was dropped"
    try:
        t.connect(first)
        raise AssertionError("the removed port still answers")
    except ConnectionRefusedError:
        pass
    p.write([respond("a", [first], "back"), redirect("keep", [second], "https://{host}{path}")])
    mark = p.log_mark()
    p.sighup()
    until(lambda: t.connect(first).get().body == b"back", 5, "SIGHUP applied")
    assert kept.get().status == 301, "a keep-alive connection does not see the new routes"
    assert mark >= 0


def test_settings_that_need_a_restart_are_named(t):
    port = t.port()
    p = t.proxy([respond("a", [port])], workers=1)
    p.config["global"]["workers"] = 3
    p.write()
    mark = p.log_mark()
    assert p.reload().status == 200
    p.wait_log("workers", 5, mark)


def test_a_hundred_thousand_routes(t):
    port = t.port()
    routes = [respond(f"r{ix}", [port], f"{ix}", domains=[f"h{ix}.example.test"]) for ix in range(20000)]
    p = t.proxy(routes, workers=1)
    c = t.connect(port)
    for ix in (0, 777, 19999):
        assert c.get(host=f"h{ix}.example.test").body == b"%d" % ix
    p.write(routes[:10])
    assert p.reload().status == 200
    assert c.get(host="h777.example.test").status == 404


def test_key_files_and_state_are_private(t):
    port = t.port()
    p = t.proxy([respond("a", [port])])
    mode = os.stat(p.state_dir).st_mode & 0o777
    assert mode & 0o077 == 0 or not os.listdir(p.state_dir), oct(mode)
    assert os.stat(p.socket_path).st_mode & 0o777 == 0o660


def test_written_text_is_libconfig(t):
    code, out, err = run_proxy("-t", "-c", write(t, to_libconfig({
        "global": {"workers": 1, "state_dir": t.path("s"), "control": {"path": t.path("c")}},
        "routes": (respond("quote\"s", [80], 'tab\t"quotes" \\ \n'),)})))
    assert code in (0, 1), err
    assert "syntax" not in (out + err).lower(), out + err


if __name__ == "__main__":
    main()
