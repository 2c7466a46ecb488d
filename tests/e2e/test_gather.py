"""Tunnels whose bytes come fast in small portions: many at a time are waited for, and nothing is held back, lost or forgotten."""
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from sp import main
from sp.conf import forward, tcp
from sp.runner import Skip, comment
from sp.tcp import TcpServer
from sp.tunnel import RawEnd
from sp.wait import pause, until

KIB = 1 << 10
MIB = 1 << 20
BLOCK = os.urandom(4 * MIB)
PORTIONS = (16 * KIB, 8 * KIB, 24 * KIB, 32 * KIB, 4 * KIB)
TRY_S = 3  # for each direction: all tests together stay far below the limit of their file


def pass_bytes(source, sink, total, portion=16 * KIB, behind=lambda: None, pace=lambda: None):
    """In such portions, as fast as the kernel takes them; what behind does comes right after the last one."""
    got, at = bytearray(), 0
    source.sock.settimeout(0)
    while len(got) < total:
        try:
            while at < total:
                at += source.sock.send(memoryview(BLOCK)[at:min(at + portion, total)])
                if at == total:
                    source.sock.settimeout(60)
                    behind()
        except BlockingIOError:
            pass
        part = sink.recv(min(total - len(got), MIB))
        assert part, f"{len(got)} of {total} bytes"
        got += part
        pace()
    assert got == BLOCK[:total]


class Tunnels:
    """One proxy of one worker, and raw tunnels through it."""

    def __init__(self, t, **options):
        self.test = t
        self.is_over = threading.Event()
        t.cleanup(self.is_over.set)
        self.origin = TcpServer(t, lambda peer: self.is_over.wait(120))
        self.port = t.port()
        self.proxy = t.proxy([tcp("bulk", [self.port], [self.origin.port])], workers=1, **options)
        self.cnt = 0

    def gathers(self):
        return self.proxy.metric("smartproxy_gathers_total")

    def open(self, is_up):
        """Its ends, the one that is going to send first."""
        client = RawEnd(self.port)
        self.test.cleanup(client.close)
        self.cnt += 1
        peer = self.origin.wait_peers(self.cnt)
        client.sock.settimeout(60)
        peer.sock.settimeout(60)
        return (client, peer) if is_up else (peer, client)

    def each(self, act, wanted=2):
        """act(source, sink, portion) by new tunnels in either direction, until so many were gathered from. On a machine that does
        other things too, bytes may come too slowly for that: in the end without it, since nothing else may differ."""
        for is_up in (False, True):
            end, cnt, ix = time.monotonic() + TRY_S, 0, 0
            while cnt < wanted and (ix == 0 or time.monotonic() < end):
                before = self.gathers()
                source, sink = self.open(is_up)
                act(source, sink, PORTIONS[ix % len(PORTIONS)])
                cnt += self.gathers() > before
                source.close()
                sink.close()
                ix += 1
            if cnt < wanted:
                comment(f"gathered from {cnt} of {ix} sources")


def test_fast_small_portions_are_gathered(t):
    tunnels = Tunnels(t)
    end = time.monotonic() + 30
    while tunnels.gathers() == 0:
        if time.monotonic() > end:
            raise Skip("no source was fast")
        tunnels.each(lambda source, sink, portion: pass_bytes(source, sink, 4 * MIB, portion), wanted=1)


def test_ping_pong_goes_on_behind_a_bulk(t):
    def act(source, sink, portion):
        for size in (1, 100, 5000, 16 * KIB, 63 * KIB):
            pass_bytes(source, sink, MIB, portion)
            for _ in range(20):
                pass_bytes(source, sink, size)
                pass_bytes(sink, source, size)
    Tunnels(t).each(act)


def test_the_last_bytes_below_the_mark_arrive(t):
    """Whatever comes behind much, and then nothing for as long as one likes."""
    def act(source, sink, portion):
        for size in (1, 17, 16 * KIB, 64 * KIB, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1):
            pass_bytes(source, sink, 512 * KIB + size, portion)
    Tunnels(t).each(act)


def test_each_side_ends_behind_a_bulk(t):
    tunnels = Tunnels(t)
    cnt = 0

    def act(source, sink, portion):
        nonlocal cnt
        pass_bytes(source, sink, MIB + 1, portion, behind=source.half_close)
        assert sink.recv() == b""
        pass_bytes(sink, source, MIB + 17, portion, behind=sink.half_close)
        assert source.recv() == b""
        cnt += 1
    tunnels.each(act)
    until(lambda: tunnels.proxy.end_cnt("done") == cnt, 20, "all ended in good order")


def test_a_reset_behind_a_bulk_is_passed_on(t):
    def act(source, sink, portion):
        pass_bytes(source, sink, MIB, portion)
        source.sock.settimeout(0)
        try:
            for at in range(0, 256 * KIB, portion):
                source.sock.send(BLOCK[at:at + portion])
        except BlockingIOError:
            pass
        source.reset()
        try:
            while sink.recv():
                pass
            raise AssertionError("an end in good order")
        except ConnectionError:
            pass
    Tunnels(t).each(act)


def test_the_sink_resets_in_a_bulk(t):
    tunnels = Tunnels(t)

    def act(source, sink, portion):
        pass_bytes(source, sink, MIB, portion)
        sink.reset()
        try:
            while True:
                source.send(BLOCK[:portion])
        except ConnectionError:
            pass
    tunnels.each(act)
    until(lambda: tunnels.proxy.metric("smartproxy_tunnels_open") == 0, 20, "no tunnel left")


def test_urgent_bytes_behind_a_bulk(t):
    def act(source, sink, portion):
        sink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        for _ in range(3):
            pass_bytes(source, sink, MIB + 20000, portion, behind=lambda: source.sock.send(b"!", socket.MSG_OOB))
            source.send(b"behind")
            assert sink.recv_exact(7) == b"!behind"
            sink.send(b"ping")
            assert source.recv_exact(4) == b"ping"
    Tunnels(t).each(act)


def test_both_directions_at_once(t):
    def send(end, portion):
        for at in range(0, 2 * MIB, portion):
            end.send(BLOCK[at:min(at + portion, 2 * MIB)])

    def act(source, sink, portion):
        with ThreadPoolExecutor() as pool:
            sent = [pool.submit(send, end, portion) for end in (source, sink)]
            got = [pool.submit(end.recv_exact, 2 * MIB) for end in (source, sink)]
        assert all(each.result() == BLOCK[:2 * MIB] for each in got)
        assert all(each.result() is None for each in sent)
    Tunnels(t).each(act, wanted=1)


def test_a_slow_sink_gets_every_byte(t):
    def act(source, sink, _):
        for portion in PORTIONS:
            pass_bytes(source, sink, MIB, portion)
        sink.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        pass_bytes(source, sink, 4 * MIB, portion, behind=source.half_close, pace=lambda: pause(0.001))
        assert sink.recv() == b""
    Tunnels(t).each(act, wanted=1)


def test_timers_of_tunnels_end_one_behind_a_bulk(t):
    tunnels = Tunnels(t, timeouts={"tunnel_idle": "1s"})
    cnt = 0

    def act(source, sink, portion):
        nonlocal cnt
        pass_bytes(source, sink, MIB, portion)
        assert sink.recv() == b""
        cnt += 1
        until(lambda: tunnels.proxy.end_cnt("tunnel_idle") == cnt, 10, "an end for idleness")
    tunnels.each(act, wanted=1)


def test_shutdown_behind_a_bulk(t):
    """Also while one waits for more, as good as it goes: descriptors and memory are given back."""
    tunnels = Tunnels(t, global_={"shutdown_timeout": "1s"})
    tunnels.each(lambda source, sink, portion: pass_bytes(source, sink, MIB, portion))
    ends = [tunnels.open(is_up) for is_up in (False, True)]
    for source, sink in ends:
        pass_bytes(source, sink, MIB)
        source.send(BLOCK[:20000])
    tunnels.proxy.stop()
    for source, sink in ends:
        source.close()
        sink.close()


def test_an_upgraded_connection(t):
    """A WebSocket's tunnel over plain HTTP is one like the others."""
    is_open, is_over, peers = threading.Event(), threading.Event(), []

    def script(c, _r):
        c.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        peers.append(c)
        is_open.set()
        is_over.wait(120)
    t.cleanup(is_over.set)
    o = t.origin(script)
    port = t.port()
    p = t.proxy([forward("web", [port], [o.port])], workers=1)
    c = RawEnd(port)
    t.cleanup(c.close)
    c.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        head += c.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ") and is_open.wait(20)
    end = time.monotonic() + TRY_S
    for ix in range(1000):
        pass_bytes(peers[0], c, MIB, PORTIONS[ix % len(PORTIONS)])
        if p.metric("smartproxy_gathers_total") > 0 or time.monotonic() > end:
            break
    for ix in range(50):
        pass_bytes(peers[0], c, ix + 1)
        c.send(b"pong")
        assert peers[0].sock.recv(4) == b"pong"
    c.close()
    is_over.set()


def test_a_system_without_short_waits_gathers_nothing(t):
    t.need("strace")
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=epoll_pwait2", "-e", "inject=epoll_pwait2:error=ENOSYS", "-e",
              "signal=none", "-o", t.path("strace")]
    tunnels = Tunnels(t, wrapper=strace, env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
    end = time.monotonic() + 2
    while time.monotonic() < end:
        source, sink = tunnels.open(True)
        for portion in PORTIONS:
            pass_bytes(source, sink, MIB, portion)
        source.close()
        sink.close()
    assert tunnels.gathers() == 0
    with open(t.path("strace"), encoding="ascii") as f:
        assert sum("epoll_pwait2(" in line for line in f) > 0, "never asked"


if __name__ == "__main__":
    main()
