#!/usr/bin/env python3
"""Times of issuance against Pebble on loopback, one row a case, printed and never asserted: counts of orders are.

Rows: names, nonces that the CA rejects (per cent), seconds from the start of the process to the last certificate served,
orders, invalid authorizations. Usage: SMARTPROXY=... SMARTPROXYCTL=... acme.py [ROUNDS]"""
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

from sp.client import served_cert  # noqa: E402
from sp.conf import AUTO, respond  # noqa: E402
from sp.runner import Test  # noqa: E402
from sp.wait import until  # noqa: E402

ROWS = [(1, 5), (1, 0), (200, 5), (3, 50), (3, 90)]
LIMIT_S = 120


def is_issued(port, name):
    return "Pebble" in served_cert(port, name)["issuer"]


def run_row(names, reject_percent):
    t = Test(f"bench-acme-{names}-{reject_percent}", False)
    try:
        ca = t.pebble(noncereject=reject_percent)
        port = t.port()
        routes = [respond(f"n{ix}", [port], "ok\n", domains=[f"n{ix}.bench.test"], tls=AUTO) for ix in range(names)]
        begin = time.monotonic()
        p = t.proxy(routes, ca=ca, workers=4)
        if names == 1:
            until(lambda: is_issued(port, "n0.bench.test"), LIMIT_S, "served", 0.005)
        else:
            p.wait_certs(names, LIMIT_S)
        seconds = time.monotonic() - begin
        ca.check_one_order_each(names)
        print(f"{names:5} {reject_percent:10} {seconds:8.2f} {ca.order_cnt():7} {ca.invalid_authz_cnt():8}", flush=True)
    finally:
        t.finish()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print("names  nonces-bad  seconds  orders  invalid")
    for _ in range(rounds):
        for names, reject_percent in ROWS:
            run_row(names, reject_percent)


main()
