"""The microbenches: what an operation costs, without a network. The program is the one built beside SmartProxy."""
import functools
import json
import os
import subprocess

PARTS = {"wire": "heads, chunks, a ClientHello", "route": "a lookup among 1 to 1,000,000 routes", "publish": "100 to 100,000 routes, from the file to every reader",
         "timer": "the timer wheel", "arena": "the memory of a request"}


def measure(part, bench):
    program = os.path.join(os.path.dirname(bench.options.binary), "../../tests/bench/micro/micro")
    if not os.path.exists(program):
        return []  # a binary that was installed, or copied
    done = subprocess.run([program, "--json", part], capture_output=True, text=True, check=True, timeout=300,
                          preexec_fn=lambda: os.sched_setaffinity(0, range(os.cpu_count())))
    figures = {}
    for line in map(json.loads, done.stdout.splitlines()):
        figures.setdefault(line["name"].partition(".")[2], []).append(line)
    return [{"case": name, "says": ", ".join(f"{f['value']:.4g} {f['unit']} (best {f['best']:.4g})" for f in of),
             "values": {f["unit"]: f["value"] for f in of}, "errors": 0} for name, of in figures.items()]


ROWS = {"micro-" + part: ("micro", what, functools.partial(measure, part)) for part, what in PARTS.items()}
