"""SIGTERM, SIGKILL and reloads in the middle of orders: one order a certificate, no invalid authorization, a sound store."""
import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import stat
import time

from sp import main, slow, until
from sp.client import served_cert, tls_context
from sp.conf import AUTO, respond
from sp.process import run_proxy
from sp.wait import pause


# Between the CA's answer to newOrder and its line in the journal an order is lost: nobody knows its URL.
UNKNOWABLE = ("acme-order-sent", "acme-order-before")
# Killed between the trigger and the CA's first look: the gate is closed for as long as nobody could answer.
TRIGGERED = ("acme-trigger-sent", "acme-triggered-before", "acme-triggered-after")
STORED = re.compile(r"lock|orders/[^/]+\.(journal|retry)|accounts/[^/]+/(key\.pem|(account|limits)\.json)"
                    r"|certificates/[^/]+/(gen-\d+|current)/((fullchain|privkey)\.pem|meta\.json)")


def wish(name, port):
    return respond(name, [port], name, domains=[name + ".test"], tls=AUTO)


def triggered_cnt(ca):
    """Challenges that the CA was told to validate."""
    return len(re.findall(r"POST /chalZ/", ca.log()))


def check_store(p, may_have_rests=True):
    """As it lies on the disk, whatever the process was about: what can be found can be used."""
    if not os.path.exists(p.state_dir):
        return # killed before it was made
    for file in glob.glob(p.state_dir + "/**", recursive=True, include_hidden=True):
        name = os.path.relpath(file, p.state_dir)
        if name.endswith("/current"):
            pair = [os.path.join(file, f) for f in ("fullchain.pem", "privkey.pem")]
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair) # raises if they do not fit
        elif not os.path.isdir(file):
            assert may_have_rests or STORED.fullmatch(name), f"{name} is left behind"
            assert stat.S_IMODE(os.stat(file).st_mode) == 0o600, name
            if STORED.fullmatch(name) and file.endswith(".json"):
                with open(file) as f:
                    json.load(f)
            if file.endswith(".journal"):
                with open(file) as f:
                    for line in f.read().split("\n")[:-1]: # what comes behind the last one was not written whole
                        json.loads(line)
            if name.endswith("account.json"):
                assert os.path.exists(os.path.join(os.path.dirname(file), "key.pem")), name


def stop_in_the_middle(p, ca, timeout_s=40.0):
    """SIGTERM: exit code 0, the port free at once, no rest in the store."""
    p.stop(timeout_s)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) # of connections in TIME_WAIT
        s.bind(("0.0.0.0", ca.http_port))
        s.listen(1)
    assert not os.path.exists(p.socket_path)
    check_store(p, may_have_rests=False)


def kill(p):
    p.sigkill()
    check_store(p)


def check_served(t, p, ca, port, names):
    root = ca.root_file()
    for name in names:
        c = t.connect(port, tls=tls_context(root), server_name=name + ".test")
        assert c.get(host=name + ".test").body == name.encode()
        c.close()
    assert not re.search(r"set aside|damaged", p.log_text()), "the store was not sound"


def test_sigterm_while_a_challenge_is_triggered(t):
    ca = t.pebble(nosleep=False, sleeptime=3)
    port = t.port()
    names = ["a", "b", "c"]
    p = t.proxy([wish(n, port) for n in names], ca=ca)
    until(lambda: triggered_cnt(ca) >= 3, 15, "challenges triggered")
    begin = time.monotonic()
    stop_in_the_middle(p, ca, 10)
    assert time.monotonic() - begin < 8
    assert ca.invalid_authz_cnt() == 0
    p.start()
    p.wait_certs(3, 40)
    check_served(t, p, ca, port, names)
    ca.check_one_order_each(3)


def test_sigterm_at_several_moments(t):
    ca = t.pebble()
    port = t.port()
    names = []
    for ix in range(6):
        names += [f"m{ix}a", f"m{ix}b"]
        p = t.proxy([wish(n, port) for n in names], ca=ca, state=t.path("state"), start=False)
        p.start()
        wanted = 2 * ix + 1
        if ix % 3 == 0:
            until(lambda n=wanted: ca.order_cnt() >= n, 10, "an order")
        elif ix % 3 == 1:
            until(lambda n=wanted: triggered_cnt(ca) >= n, 10, "a challenge")
        stop_in_the_middle(p, ca)
    p.start()
    p.wait_certs(len(names), 40)
    check_served(t, p, ca, port, names)
    ca.check_one_order_each(len(names))


def test_sigkill_while_a_challenge_is_triggered(t):
    ca = t.pebble(is_gated=True, nosleep=False, sleeptime=3)
    port = t.port()
    names = ["a", "b", "c"]
    p = t.proxy([wish(n, port) for n in names], ca=ca)
    until(lambda: triggered_cnt(ca) >= 3, 15, "challenges triggered")
    kill(p)
    p.start()
    ca.gate.open()
    p.wait_certs(3, 40)
    check_served(t, p, ca, port, names)
    ca.check_one_order_each(3)


@slow
def test_sigkill_at_every_failpoint(t):
    code, out, err = run_proxy("--failpoints")
    assert code == 0, err
    points = out.split()
    assert len(points) >= 12, f"only {len(points)} failpoints: {points}"
    ca = t.pebble(is_gated=True)
    port = t.port()
    passed, wrong = [], []
    for ix, point in enumerate(points):
        name = f"p{ix}"
        p = t.proxy([wish(name, port)], ca=ca, start=False, env={"SMARTPROXY_FAILPOINT": point})
        orders = ca.order_cnt()
        if point in TRIGGERED:
            ca.gate.close()
        else:
            ca.gate.open()
        p.spawn()
        p.expects_kill = True

        def is_settled():
            if not p.is_alive():
                return True
            try:
                return p.certificates()[0]["state"] == "valid"
            except (OSError, IndexError, AssertionError):
                return False
        until(is_settled, 20, f"{point}: killed, or issued without passing it")
        if p.is_alive():
            p.stop()
        else:
            assert p.command.join(5) == -signal.SIGKILL, f"{point}: ended with {p.command.process.returncode}"
            passed.append(point)
            check_store(p)
        del p.env["SMARTPROXY_FAILPOINT"]
        p.start()
        ca.gate.open()
        p.wait_certs(1, 40)
        check_served(t, p, ca, port, [name])
        orders = ca.order_cnt() - orders
        if orders > 1 + (point in UNKNOWABLE):
            wrong.append(f"{point}: {orders} orders")
        p.stop()
    assert not wrong, "\n".join(wrong)
    assert ca.invalid_authz_cnt() == 0
    assert len(passed) >= 12, f"only these were passed: {passed}"


@slow
def test_sigkill_at_random_instants(t):
    seed = int(os.environ.get("SP_SEED", "0")) or random.randrange(1 << 30)
    print(f"# SP_SEED={seed}")
    chance = random.Random(seed)
    ca = t.pebble()
    port = t.port()
    names = []
    p = t.proxy([], ca=ca, start=False, acme={"order_interval": "0"})
    for ix in range(30):
        names += [f"r{ix}a", f"r{ix}b"]
        p.write([wish(n, port) for n in names])
        p.spawn()
        pause(chance.uniform(0.0, 0.7))
        kill(p)
    p.start()

    def all_arrived():
        certs = p.certificates()
        failed = [c["names"][0] for c in certs if c["state"] == "failed"]
        assert len(failed) <= ca.invalid_authz_cnt(), certs
        for name in failed: # validated in a moment without a process; its next try would be a minute later
            assert p.api("POST", f"/v1/certificates/renew?name={name}").status == 200
        return [c["state"] for c in certs] == ["valid"] * len(names)
    until(all_arrived, 90, f"{len(names)} certificates", 0.1)
    check_served(t, p, ca, port, names)
    # A kill costs the orders whose answers were under way, 16 at most and seldom one. Ordering all anew would be some 200.
    orders, invalid = ca.order_cnt(), ca.invalid_authz_cnt()
    assert orders <= len(names) + invalid + 30, f"{orders} orders for {len(names)} names, {invalid} invalid authorizations"
    assert ca.account_cnt() <= 2


def reload_storm(t, seconds):
    ca = t.pebble(nosleep=False, sleeptime=3)
    port, other = t.port(), t.port()
    names = ["a", "b", "c", "d"]
    p = t.proxy([wish(n, port) for n in names], ca=ca)
    end = time.monotonic() + seconds
    serial = 0
    while time.monotonic() < end:
        serial += 1
        p.write([wish(n, port) for n in names] + [respond(f"x{serial}", [other], str(serial))])
        if serial % 2:
            p.sighup()
        else:
            assert p.reload().status == 200
        pause(0.1)
    p.wait_certs(4, 40)
    check_served(t, p, ca, port, names)
    ca.check_one_order_each(4)
    p.wait_route("absent")
    route = p.challenge_route()
    assert (route["activated"], route["removed"]) == (1, 1), route


def test_reload_storm(t):
    reload_storm(t, 3)


@slow
def test_reload_every_100_ms_for_10_s(t):
    reload_storm(t, 10)


def test_a_kill_after_issuance_costs_nothing(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([wish("a", port)], ca=ca)
    p.wait_certs(1)
    serial = served_cert(port, "a.test")["serial"]
    for _ in range(3):
        kill(p)
        p.start()
        assert served_cert(port, "a.test")["serial"] == serial
    ca.check_one_order_each(1)


def test_a_store_copied_without_its_links_costs_nothing(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([wish("a", port)], ca=ca)
    p.wait_certs(1)
    serial = served_cert(port, "a.test")["serial"]
    p.stop()
    folder = p.state_dir + "/certificates/a.test"
    shutil.copytree(folder, folder + ".copy") # follows links
    shutil.rmtree(folder)
    os.rename(folder + ".copy", folder)
    assert not os.path.islink(folder + "/current")
    p.start()
    assert served_cert(port, "a.test")["serial"] == serial and os.path.islink(folder + "/current")
    p.wait_log("in the place of the link current")
    assert p.api("POST", "/v1/certificates/renew").status == 200
    until(lambda: served_cert(port, "a.test")["serial"] != serial, 15, "renewed")
    p.wait_certs(1)
    ca.check_one_order_each(2)


def test_no_order_for_what_cannot_be_kept(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([wish("a", port)], ca=ca, start=False)
    os.makedirs(p.state_dir + "/certificates", 0o700)
    with open(p.state_dir + "/certificates/a.test", "w"): # where a directory belongs
        pass
    p.start()
    error = until(lambda: p.certificates()[0]["last_error"], 10, "the fault is shown")
    assert f"so none is ordered: mend {p.state_dir}/certificates/a.test" in error, error
    assert ca.order_cnt() == 0
    os.unlink(p.state_dir + "/certificates/a.test")
    assert p.api("POST", "/v1/certificates/renew").status == 200
    p.wait_certs(1)
    ca.check_one_order_each(1)


def test_descriptors_and_generations_return_after_a_cycle(t):
    ca = t.pebble()
    port = t.port()
    p = t.proxy([respond("plain", [t.port()])], ca=ca, acme={"keep_port": False})
    for ix in range(3):
        assert p.put_routes([wish(f"n{ix}", port)]).status == 200
        p.wait_certs(1)
        p.wait_route("absent")
        assert p.put_routes(p.config["routes"]).status == 200
    p.wait_fds(p.begin_fds + 8) # connections to the CA that are kept alive, at most
    waiting = p.metric("smartproxy_generations_retired")
    assert waiting == 0, f"{waiting} generations wait to be freed"


if __name__ == "__main__":
    main()
