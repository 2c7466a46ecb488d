"""The command that measures: that it runs, and what it writes. No time is looked at."""
import json
import os
import subprocess
import sys

from sp import main
from sp.process import binary, is_sanitized
from sp.runner import Skip, slow

RUN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench", "run")
PROGRAMS = ("smartproxy", "nginx", "haproxy", "floor")


def bench(t, *argv):
    t.need("nginx", "haproxy", "wrk", "openssl", "cc", "taskset")
    if is_sanitized(binary()):
        raise Skip("a sanitizer's times are its own")
    if not os.path.exists("/usr/lib/nginx/modules/ngx_stream_module.so"):
        raise Skip("libnginx-mod-stream is not installed")
    env = dict(os.environ, TMPDIR=t.dir)
    done = subprocess.run([sys.executable, RUN, "--binary", binary(), "--rounds", "1", "--seconds", "1", *argv], capture_output=True, text=True,
                          timeout=100, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rows_and_groups_are_listed(t):
    done = subprocess.run([sys.executable, RUN, "-l"], capture_output=True, text=True, timeout=30, check=True)
    assert "h1-1k " in done.stdout and "update-rate " in done.stdout
    bad = subprocess.run([sys.executable, RUN, "no-such-row"], capture_output=True, text=True, timeout=30, check=False)
    assert bad.returncode == 1 and "no-such-row" in bad.stderr


@slow
def test_a_row_has_figures_ratios_and_a_table(t):
    file, table = t.path("out.json"), t.path("out.md")
    said = bench(t, "--json", file, "--markdown", table, "h1-1k")
    assert "h1-1k: " in said
    with open(file, encoding="utf-8") as f:
        row = json.load(f)["rows"]["h1-1k"]
    assert tuple(row["programs"]) == PROGRAMS and not row["is_void"]
    for figures in row["programs"].values():
        assert figures["errors"] == 0 and len(figures["rounds"]) == 1
        assert all(figures[key] > 0 for key in ("cpu_us", "rps", "p50_us", "p99_us", "memory_kib")), figures
    assert row["best_peer"] in ("nginx", "haproxy") and row["ratio"] > 0 and row["to_floor"] > 0 and row["goal"] == 0.8
    with open(table, encoding="utf-8") as f:
        assert "| h1-1k | " in f.read()
    assert [name for name in os.listdir(t.dir) if name.startswith("sp-bench-")] == []


if __name__ == "__main__":
    main()
