"""What the kernel says of a process tree; what is installed; what the machine is."""
import os
import platform
import re
import shutil
import subprocess
import sys

TOOLS = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "openssl": "openssl", "cc": "gcc", "h2load": "nghttp2-client",
         "strace": "strace", "gnuplot": "gnuplot-nox"}
FILES = {"/usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream", "/usr/include/openssl/evp.h": "libssl-dev"}
ALWAYS = ("nginx", "haproxy", "wrk", "openssl", "cc")
POLICY = "/usr/sbin/policy-rc.d"


def install(tools):
    """The packages of ALWAYS and tools that are missing; what they bring is not started as a service."""
    missing = [TOOLS[tool] for tool in (*ALWAYS, *tools) if not shutil.which(tool)]
    missing += [package for file, package in FILES.items() if not os.path.exists(file)]
    if not missing:
        return
    if os.getuid() != 0:
        sys.exit("not installed: " + " ".join(missing))
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    has_policy = os.path.exists(POLICY)
    try:
        if not has_policy:
            with open(POLICY, "w", encoding="ascii") as f:
                f.write("#!/bin/sh\nexit 101\n")
            os.chmod(POLICY, 0o755)
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=env, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, env=env,
                       stdout=subprocess.DEVNULL)
    finally:
        if not has_policy:
            os.unlink(POLICY)


def tree(pid):
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as f:
                    found += [int(child) for child in f.read().split()]
        except OSError:
            pass
    return found


def tasks(pid):
    return [f"/proc/{p}/task/{task}" for p in tree(pid) for task in os.listdir(f"/proc/{p}/task")]


def cpu_us(pid):
    """CPU time of all threads that live: what utime + stime are, before they are rounded to 10 ms."""
    total_ns = 0
    for task in tasks(pid):
        with open(f"{task}/schedstat", encoding="ascii") as f:
            total_ns += int(f.read().split()[0])
    return total_ns / 1000


def memory_kib(pid):
    """Proportional set size of the tree: pages that n processes share count as 1/n."""
    total = 0
    for p in tree(pid):
        with open(f"/proc/{p}/smaps_rollup", encoding="ascii") as f:
            total += int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M).group(1))
    return total


def switches(pid):
    """Context switches of all threads: (voluntary, involuntary)."""
    sums = [0, 0]
    for task in tasks(pid):
        with open(f"{task}/status", encoding="utf-8") as f:
            found = re.findall(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)
        sums = [a + int(b) for a, b in zip(sums, found)]
    return tuple(sums)


def version(*argv):
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\d.]*", said.stdout + said.stderr)
    return found.group() if found else "?"


def describe(binary):
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = re.search(r"^model name\s*:\s*(.+)", f.read(), re.M)
    return {"cpu": model.group(1) if model else platform.machine(), "cpus": os.cpu_count(), "kernel": platform.release(),
            "smartproxy": version(binary, "-V"), "nginx": version("nginx", "-v"), "haproxy": version("haproxy", "-v"),
            "openssl": version("openssl", "version")}
