"""What a keep-alive request costs in its steady state: README's promise, counted."""
import os
import re
import struct
import subprocess

from sp import main
from sp.conf import forward, respond
from sp.origin import echo, fixed
from sp.process import binary, is_sanitized
from sp.runner import Skip

HERE = os.path.dirname(os.path.abspath(__file__))
REQUESTS = 200


def started(t, *scripts, **options):
    """A proxy of one worker: a client's connection that has been used, with one to the origin that has too."""
    o = t.origin(*(scripts or (fixed(b"hello"),)))
    port = t.port()
    p = t.proxy([respond("own", [port], "own", path="/own"), forward("all", [port], [o.port])], workers=1, **options)
    c = t.connect(port)
    for _ in range(20):
        c.get("/warm")
        c.get("/own")
    return p, o, c


def counter(t):
    """The shim, built here, and what it has counted so far."""
    if is_sanitized(binary()):
        raise Skip("a sanitizer has an allocator of its own")
    shim, file = t.path("count_malloc.so"), t.path("count")
    compiler = os.environ.get("CC", "cc").split()
    t.need(compiler[0])
    subprocess.run(compiler + ["-shared", "-fPIC", "-O1", "-o", shim, os.path.join(HERE, "count_malloc.c")], check=True)
    with open(file, "wb") as f:
        f.write(bytes(8))

    def read():
        with open(file, "rb") as f:
            return struct.unpack("=Q", f.read(8))[0]
    return {"LD_PRELOAD": shim, "COUNT_FILE": file}, read


def test_a_request_allocates_nothing(t):
    env, read = counter(t)
    _, o, c = started(t, echo, env=env)
    assert read() > 0, "the shim counts nothing"

    def ask(cnt):
        for ix in range(cnt):
            assert c.get(f"/{ix}").status == 200
            assert c.request("POST", "/sized", body=b"x" * 5000).response().status == 200
            assert c.request("POST", "/chunked", body=[b"x" * 3000, b"y"]).response().status == 200
            assert c.get("/own").body == b"own"
    ask(20)  # the pools get what is needed at once
    begin = read()
    ask(REQUESTS)
    assert read() == begin, f"{read() - begin} allocations in {4 * REQUESTS} requests"
    assert len(o.connections) == 1


def check_calls(t, body):
    t.need("strace")
    p, o, c = started(t, fixed(body))

    def name(task):
        with open(f"/proc/{p.pid}/task/{task}/comm") as f:
            return f.read().strip()
    worker, = [x for x in os.listdir(f"/proc/{p.pid}/task") if name(x).startswith("worker-")]
    file = t.path("strace")
    tracer = subprocess.Popen(["strace", "-p", worker, "-o", file], stderr=subprocess.PIPE, text=True)
    t.cleanup(tracer.kill)
    assert "attached" in tracer.stderr.readline()
    for ix in range(REQUESTS):
        assert c.get(f"/{ix}").body == body
    tracer.terminate()
    tracer.wait(10)
    tracer.stderr.close()
    with open(file) as f:
        calls = re.findall(r"^(\w+)\(", f.read(), re.M)
    count = {call: calls.count(call) for call in set(calls) if call != "epoll_wait"}
    # A tick of the wall clock or a ping of the control thread may come in between.
    assert count.get("recvfrom") == count.get("sendto") == 2 * REQUESTS, count
    assert "epoll_ctl" not in count and sum(count.values()) <= 4 * REQUESTS + 20, count
    assert calls.count("epoll_wait") <= 2 * REQUESTS + 20, count
    assert len(o.connections) == 1


def test_a_request_costs_two_receives_and_two_sends(t):
    check_calls(t, b"hello")


def test_so_does_one_with_a_longer_answer(t):
    check_calls(t, os.urandom(32 << 10))


if __name__ == "__main__":
    main()
