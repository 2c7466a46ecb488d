"""System calls and memory failing at random: the work in hand fails cleanly, with a reason; the process goes on."""
import json
import os
import random

from sp import main, slow, until
from sp.client import Client, Closed
from sp.conf import AUTO, forward, respond
from sp.wait import Deadline


def seeded():
    seed = int(os.environ.get("SP_SEED", "0")) or random.randrange(1 << 30)
    print(f"# SP_SEED={seed}")
    return seed


def start_under_faults(t, faults, routes, **options):
    """A start may fail under faults; then it exits 1 and says why, and is tried again with another draw."""
    seed = seeded()
    p = t.proxy(routes, start=False, **options)
    p.env["SMARTPROXY_FAULTS"] = faults
    for ix in range(100):
        p.env["SMARTPROXY_FAULT_SEED"] = str(seed + ix)
        try:
            return p.start()
        except Deadline:
            code = p.wait_exit(5)
            assert code == 1, f"exit code {code}\n" + p.log_tail(30)
            assert p.command.lines, "it ended without a word"
    raise AssertionError("no start in 100 tries")


def updates_under_faults(t, faults, rounds):
    o = t.origin()
    kept = t.port()
    extra = [t.port() for _ in range(6)]
    keep = forward("keep", [kept], [o.port])
    p = start_under_faults(t, faults, [keep], workers=4)
    ok_cnt = failed_cnt = 0
    for ix in range(rounds):
        routes = [keep] + [respond(f"x{n}", [n], str(ix)) for n in extra[:ix % 7]]
        try:
            answer = p.put_routes(routes)
        except (OSError, ValueError) as e: # the API's own connection may fail too
            assert p.is_alive(), repr(e)
            continue
        except Exception as e:
            assert p.is_alive() and type(e).__module__ == "http.client", repr(e)
            continue
        if answer.status == 200:
            ok_cnt += 1
            for n in extra[:ix % 7]:
                assert fetch(n) == str(ix).encode()
        else:
            failed_cnt += 1
            assert 400 <= answer.status < 600 and json.loads(answer.text), answer.text
        assert p.is_alive()
    assert fetch(kept) == b"origin\n"
    assert ok_cnt and failed_cnt, f"{ok_cnt} updates applied, {failed_cnt} refused: no fault was met"
    return p


def fetch(port, tries=50):
    for _ in range(tries):
        try:
            with Client(port, timeout_s=5) as c:
                r = c.get()
                if r.status == 200:
                    return r.body
        except (OSError, Closed):
            pass
    raise AssertionError(f"port {port}: nothing in {tries} tries")


def is_served(port):
    try:
        return fetch(port, 1) == b"served"
    except AssertionError:
        return False


def test_bind_fails_at_random(t):
    updates_under_faults(t, "bind=0.1", 120)


def test_malloc_fails_at_random(t):
    updates_under_faults(t, "malloc=0.01", 150)


def test_accept_fails_at_random(t):
    port = t.port()
    p = start_under_faults(t, "accept=0.3", [respond("a", [port], "served")])
    for _ in range(100):
        assert fetch(port) == b"served"
    assert p.is_alive()


def test_connect_fails_at_random(t):
    o = t.origin()
    port = t.port()
    p = start_under_faults(t, "connect=0.3", [forward("a", [port], [o.port])], limits={"idle_upstream": 0})
    statuses = []
    for _ in range(100):
        with Client(port) as c:
            statuses.append(c.get().status)
    assert set(statuses) <= {200, 502, 503} and 200 in statuses, statuses
    assert p.is_alive()


def issuance(t, faults, cnt=4, timeout_s=90):
    ca = t.pebble()
    port = t.port()
    p = start_under_faults(t, faults, [respond(f"n{ix}", [port], "x", domains=[f"n{ix}.test"], tls=AUTO) for ix in range(cnt)], ca=ca)
    return ca, p, timeout_s, cnt


def test_fsync_fails_at_random_during_issuance(t):
    ca, p, timeout_s, cnt = issuance(t, "fsync=0.2")
    until(lambda: len([c for c in p.certificates() if c["state"] in ("valid", "not-saved", "failed")]) == cnt, timeout_s, "all settled", 0.1)
    assert ca.invalid_authz_cnt() == 0
    p.stop()
    del p.env["SMARTPROXY_FAULTS"]
    p.start() # the store is sound without faults, and what is missing is got
    assert p.api("POST", "/v1/certificates/renew").status == 200 # back-offs are forgotten
    p.wait_certs(cnt, 60)


@slow
def test_malloc_fails_at_random_during_issuance(t):
    ca, p, timeout_s, cnt = issuance(t, "malloc=0.002")
    until(lambda: [c for c in p.certificates() if c["state"] in ("valid", "failed", "not-saved")], timeout_s, "one settled", 0.1)
    assert p.is_alive() and ca.invalid_authz_cnt() == 0 and cnt


@slow
def test_everything_fails_at_random(t):
    updates_under_faults(t, "malloc=0.003,bind=0.03,accept=0.05,connect=0.05,fsync=0.1", 300)


def test_out_of_descriptors(t):
    port = t.port()
    p = t.proxy([respond("a", [port], "served")], workers=1, wrapper=["prlimit", "--nofile=64:64"])
    clients = []
    for _ in range(120):
        try:
            clients.append(Client(port, timeout_s=2))
        except OSError:
            break
    for c in clients:
        c.close()
    until(lambda: is_served(port), 15, "it serves again")
    assert p.is_alive()


if __name__ == "__main__":
    main()
