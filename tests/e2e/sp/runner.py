"""Runs the test_* functions of a file and prints TAP.

Usage: test_x.py [-l] [-k] [--repeat N] [WORD...]   WORD: run the tests whose name holds one of them; -l lists; -k keeps
temporary folders. SP_SLOW=0 skips the tests marked slow, SP_SLOW=only runs only those.
"""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

from . import ns

LOG_LINES = 120  # of a failed test's proxies; of its CAs a quarter


class Skip(Exception):
    """The machine lacks what the test needs; the message says what."""


class TestTimeout(BaseException):
    """Raised by the alarm."""


def slow(function):
    function.is_slow = True
    return function


class Test:
    """What one test holds: a folder, processes and servers that end with it, in reverse order."""

    def __init__(self, name, keep):
        self.name, self.keep = name, keep
        self.dir = tempfile.mkdtemp(prefix="sp-")
        self.undo = []
        self.proxies, self.pebbles = [], []

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def cleanup(self, function):
        self.undo.append(function)

    def need(self, *tools):
        for tool in tools:
            if not shutil.which(tool):
                raise Skip(f"{tool} is not installed")

    def need_namespace(self):
        if not ns.entered:
            raise Skip("no network namespace of its own (needs root or user namespaces)")

    def port(self):
        return ns.free_port()

    # The parts, imported late: a file that needs no CA must not depend on its module.
    def proxy(self, routes=(), start=True, **options):
        from .process import Proxy
        p = Proxy(self, routes, **options)
        if start:
            p.start()
        return p

    def pebble(self, **options):
        from .pebble import Pebble
        return Pebble(self, **options)

    def origin(self, *script, **options):
        from .origin import Origin
        return Origin(self, *script, **options)

    def connect(self, port, **options):
        from .client import Client
        c = Client(port, **options)
        self.cleanup(c.close)
        return c

    def fault_proxy(self, pebble, **options):
        from .faultproxy import FaultProxy
        return FaultProxy(self, pebble, **options)

    def finish(self):
        errors = []
        for function in reversed(self.undo):
            try:
                function()
            except Exception:
                errors.append(traceback.format_exc())
        self.undo.clear()
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        return errors


def cut(text):
    return [line if len(line) < 600 else line[:600] + " ..." for line in text.splitlines()]


def comment(text):
    for line in cut(text):
        print("# " + line)


def report(name, failure):
    """On stdout as TAP's comments, which Meson drops when a subtest failed, and on stderr, of which it shows the last 100
    lines: so the cause stands last."""
    comment(failure)
    print(f"--- {name} failed:", *cut(failure), sep="\n", file=sys.stderr, flush=True)


def alarm(_signal, _frame):
    raise TestTimeout()


def logs(test):
    """What the processes of a failed test said."""
    text = ""
    for proxy in test.proxies:
        text += f"--- log of {proxy.describe()}:\n{proxy.log_tail(LOG_LINES)}\n{proxy.crash()}"
    for pebble in test.pebbles:
        try:
            text += f"--- log of Pebble on port {pebble.port}:\n{pebble.evidence(LOG_LINES // 4)}\n"
        except OSError as e:
            text += f"--- no log of Pebble on port {pebble.port}: {e}\n"
    return text


def run_one(name, function, keep, timeout_s):
    """Returns None, or the text of the failure; Skip travels."""
    test = Test(name, keep)
    failure = None
    skip = None
    try:
        signal.alarm(timeout_s)
        function(test)
        for proxy in test.proxies:
            proxy.finish()
    except Skip as e:
        skip = e
    except TestTimeout:
        failure = f"timed out after {timeout_s} s\n" + traceback.format_exc()
    except Exception:
        failure = traceback.format_exc()
    finally:
        signal.alarm(30)
        if failure:
            failure = logs(test) + "--- " + failure
        errors = test.finish()
        signal.alarm(0)
    if errors and not failure and not skip:
        failure = "\n".join(errors)
    if keep:
        comment(f"kept {test.dir}")
    if skip:
        raise skip
    return failure


def choose(module, words):
    mode = os.environ.get("SP_SLOW", "1")
    chosen = []
    for name, function in vars(module).items():
        if not name.startswith("test_") or not callable(function):
            continue
        is_slow = getattr(function, "is_slow", False)
        if words and not any(w in name for w in words):
            continue
        if not words and ((mode == "0" and is_slow) or (mode == "only" and not is_slow)):
            continue
        chosen.append((name, function))
    return chosen


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("-l", action="store_true")
    args.add_argument("-k", action="store_true")
    args.add_argument("--repeat", type=int, default=1)
    args.add_argument("--timeout", type=int, default=int(os.environ.get("SP_TEST_TIMEOUT", "120")))
    args.add_argument("words", nargs="*")
    options = args.parse_args()
    module = sys.modules["__main__"]
    chosen = choose(module, options.words) * options.repeat
    if options.l:
        for name, function in chosen:
            print(name, "(slow)" if getattr(function, "is_slow", False) else "")
        return
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ns.enter()
    print(f"1..{len(chosen)}" if chosen else "1..0 # SKIP no test chosen")
    failed_cnt = 0
    for number, (name, function) in enumerate(chosen, 1):
        begin = time.monotonic()
        timeout_s = getattr(function, "timeout_s", options.timeout)
        try:
            failure = run_one(name, function, options.k, timeout_s)
        except Skip as e:
            print(f"ok {number} - {name} # SKIP {e}")
            continue
        if failure:
            failed_cnt += 1
            print(f"not ok {number} - {name}")
            report(name, failure)
        else:
            print(f"ok {number} - {name}")
        comment(f"{time.monotonic() - begin:.1f} s")
    sys.exit(1 if failed_cnt else 0)
