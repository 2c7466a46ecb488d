"""Tunnels: half-close, resets, their own times and no other's, dead targets, bytes, shutdown, back-pressure."""
import select
import signal
import socket
import ssl
import threading

from sp import main
from sp.client import Client
from sp.conf import respond, to_upstream, upstream
from sp.tcp import TcpServer, echo
from sp.tunnel import KINDS, SHORT, Ends, black_hole
from sp.wait import pause, records, until

MIB = 1 << 20


def all_ended(p, timeout_s=20):
    until(lambda: p.metric("smartproxy_connections_open") == 0 and p.metric("smartproxy_tunnels_open") == 0, timeout_s,
          "all connections ended")


def greet(peer):
    peer.send(peer.recv_exact(2))


def greeted(ends, kind, **options):
    """A tunnel through which two bytes went both ways."""
    c = ends.open(kind, **options)
    c.send(b"hi")
    assert c.recv_exact(2) == b"hi", kind
    return c


def logged(t):
    """(path, the proxy's options) of an access log."""
    path = t.path("access.log")
    return path, {"global_": {"log": {"level": "info", "access": path}}}


# ---- half-close

def test_the_client_ends_first_and_is_answered_later(t):
    gate = threading.Event()
    asked = []

    def handler(peer):
        greet(peer)
        asked.append(peer.recv_all())
        gate.wait(60)
        for ix in range(64):
            peer.send(bytes([ix]) * 65536)
    ends = Ends(t, handler, timeouts=SHORT)
    clients = [greeted(ends, kind) for kind in KINDS]
    for c in clients:
        c.send(b"q" * 100000)
        c.half_close()
    until(lambda: len(asked) == len(KINDS), 20, "the target saw every end")
    assert asked == [b"q" * 100000] * len(KINDS)
    ends.outlive_http()
    assert ends.proxy.metric("smartproxy_tunnels_open") == len(KINDS)
    gate.set()
    wanted = b"".join(bytes([ix]) * 65536 for ix in range(64))
    for kind, c in zip(KINDS, clients):
        assert c.recv_all() == wanted, kind
        c.close()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("done") == len(KINDS)
    ends.proxy.wait_fds()


def test_a_client_that_ends_before_its_target_is_reached_is_answered(t):
    ends = Ends(t, lambda peer: peer.send(b"answer to " + peer.recv_all()))
    for ix in range(50):
        with ends.open("tcp").sock as s:
            s.sendall(b"%d" % ix)
            s.shutdown(socket.SHUT_WR)
            assert s.recv(64) == b"answer to %d" % ix
            assert s.recv(64) == b""
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("done") == 50


def test_a_client_that_ends_in_the_queue_is_answered_when_its_turn_comes(t):
    server = TcpServer(t, lambda peer: peer.send(b"answer to " + peer.recv_all()))
    port, web = t.port(), t.port()
    group = upstream("app", [server.port], max_connections=1, queue=10, queue_timeout="60s")
    p = t.proxy([to_upstream("tcp", [port], "app", protocol="tcp"), respond("web", [web])], upstreams=(group,),
                timeouts={"idle": "2s"})
    first = t.connect(port).send(b"first")
    server.wait_peers(1)
    second = t.connect(port).send(b"second")
    second.half_close()
    until(lambda: p.target(server.port)["queued"] == 1, 10, "the second waits")
    with Client(web) as c:  # a while
        c.get()
        assert c.wait_closed() == b""
    assert p.target(server.port)["queued"] == 1
    first.half_close()
    assert first.wait_closed() == b"answer to first"
    assert second.wait_closed() == b"answer to second"
    all_ended(p)
    assert p.end_cnt("done") == 2


def test_the_server_ends_first_and_gets_the_rest(t):
    got = []

    def handler(peer):
        assert peer.recv_exact(2) == b"go"
        peer.send(b"all of it" * 1000)
        peer.half_close()
        got.append(peer.recv_all())
    ends = Ends(t, handler, timeouts=SHORT)
    clients = [ends.open(kind) for kind in KINDS]
    for kind, c in zip(KINDS, clients):
        c.send(b"go")
        assert c.recv_all() == b"all of it" * 1000, kind
    ends.outlive_http()
    for c in clients:
        c.send(b"late" * 100000)
        c.half_close()
    until(lambda: len(got) == len(KINDS), 20, "the target got every rest")
    assert got == [b"late" * 100000] * len(KINDS)
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("done") == len(KINDS)
    for c in clients:
        c.close()
    ends.proxy.wait_fds()


def test_b17c_a_half_closed_tunnel_lives_while_it_trickles(t):
    subscribed = []

    def handler(peer):
        greet(peer)
        assert peer.recv_all() == b"subscribe"
        subscribed.append(peer)
        peer.over = threading.Event()
        peer.over.wait(60)
    ends = Ends(t, handler, timeouts={**SHORT, "tunnel_idle": "60s"})
    clients = [greeted(ends, kind) for kind in KINDS]
    for ix, c in enumerate(clients):
        c.send(b"subscribe")
        c.half_close()
        until(lambda n=ix + 1: len(subscribed) == n, 20, "the target saw its end")
    for _ in range(3):
        ends.outlive_http(2)
        for kind, c, peer in zip(KINDS, clients, subscribed):
            peer.send(b"event")
            assert c.recv_exact(5) == b"event", kind
    for c, peer in zip(clients, subscribed):
        peer.over.set()
        assert c.recv_all() == b""
        c.close()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("done") == len(KINDS)


# ---- times of their own

def test_tunnel_idle_ends_a_silent_one_and_no_other(t):
    path, options = logged(t)
    ends = Ends(t, echo, timeouts={"tunnel_idle": "2s"}, **options)
    silent = [greeted(ends, kind) for kind in KINDS + ("tcp",)]
    busy = [greeted(ends, kind) for kind in KINDS]
    is_over = threading.Event()

    def keep_busy(c):
        while not is_over.is_set():
            c.send(b"ping")
            assert c.recv_exact(4) == b"ping"
            is_over.wait(0.1)
    threads = [threading.Thread(target=keep_busy, args=(c,), daemon=True) for c in busy]
    for thread in threads:
        thread.start()
    for c in silent:
        assert c.recv_all() == b""
        c.close()
    until(lambda: ends.proxy.end_cnt("tunnel_idle") == 4, 10, "four ends for idleness")
    is_over.set()
    for thread in threads:
        thread.join(20)
    for c in busy:
        c.send(b"still")
        assert c.recv_exact(5) == b"still"
        c.close()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("tunnel_idle") == 4 and ends.proxy.end_cnt("tunnel_over") == 0
    found = records(path, 7, "tunnel")
    assert sorted(r["end"] for r in found) == ["done"] * 3 + ["tunnel_idle"] * 4, found
    until(lambda: ends.origin.ended == 7, 10, "the target's sides ended")
    ends.proxy.wait_fds()


def test_tunnel_max_ends_a_busy_one(t):
    path, options = logged(t)
    ends = Ends(t, echo, timeouts={"tunnel_max": "2s"}, **options)
    for kind in KINDS:
        c = ends.open(kind)
        rounds = 0
        try:
            while True:
                c.send(b"ping")
                if not c.recv():
                    break
                rounds += 1
        except (ConnectionError, ssl.SSLError):
            pass
        assert rounds > 1, kind
        c.close()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("tunnel_over") == len(KINDS)
    assert [r["end"] for r in records(path, 3, "tunnel")] == ["tunnel_over"] * 3
    ends.proxy.wait_fds()


# ---- resets

def was_reset(call):
    try:
        call()
        return False
    except ConnectionError:
        return True


def test_a_reset_of_the_client_is_a_reset_for_the_target(t):
    seen = []

    def handler(peer):
        greet(peer)
        seen.append(was_reset(peer.recv_all))
    ends = Ends(t, handler)
    for ix, kind in enumerate(KINDS):
        c = greeted(ends, kind)
        c.reset()
        until(lambda n=ix + 1: len(seen) == n, 20, f"{kind}: the target saw it")
        assert seen[-1], f"{kind}: the target saw an end in good order"
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("client_gone") == len(KINDS)
    ends.proxy.wait_fds()


def test_a_reset_of_the_target_is_a_reset_for_the_client(t):
    def handler(peer):
        greet(peer)
        peer.recv_exact(2)
        peer.reset()
    ends = Ends(t, handler)
    for kind in KINDS:
        c = greeted(ends, kind)
        c.send(b"go")
        assert was_reset(c.recv_all), f"{kind}: the client saw an end in good order"
        c.close()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("upstream_gone") == len(KINDS)
    ends.proxy.wait_fds()


def test_the_answer_of_a_target_that_takes_no_more_is_not_lost(t):
    """In one turn of the loop there are bytes for the target, more than one write takes, and behind them its answer and end."""
    gate, ended = threading.Event(), threading.Event()

    def handler(peer):
        greet(peer)
        gate.wait(60)
        peer.send(b"no more of it")
        peer.close()
        ended.set()
    ends = Ends(t, handler)
    c = greeted(ends, "tcp")
    ends.proxy.signal(signal.SIGSTOP)
    c.send(b"x" * 65536)
    gate.set()
    assert ended.wait(20)
    ends.proxy.signal(signal.SIGCONT)
    assert c.recv_exact(13) == b"no more of it"
    c.close()
    all_ended(ends.proxy)
    ends.proxy.wait_fds()


def test_a_reset_behind_bytes_that_wait_is_no_clean_end(t):
    """Bytes for the target that was reset, while the client has no room for what came before: nothing takes the reset along."""
    ended = threading.Event()

    def handler(peer):
        greet(peer)
        peer.sock.settimeout(0.5)
        try:
            while True:
                peer.send(b"x" * 65536)
        except TimeoutError:
            peer.reset()
            ended.set()
    ends = Ends(t, handler)
    c = greeted(ends, "tcp")
    assert ended.wait(60)
    for _ in range(5):
        c.send(b"more")
        pause(0.05)
    try:
        while c.sock.recv(1 << 20):
            pass
        assert False, "a clean end"
    except ConnectionResetError:
        pass
    c.close()
    all_ended(ends.proxy)
    ends.proxy.wait_fds()


def test_a_client_that_ends_its_side_and_is_then_reset(t):
    """Nobody is left to answer to: such a tunnel is not kept for tunnel_idle."""
    ended, seen = threading.Semaphore(0), []

    def handler(peer):
        greet(peer)
        assert peer.recv_all() == b""
        ended.release()
        # A reset behind the end: EPOLLERR, or the next bytes are refused.
        poll = select.poll()
        poll.register(peer.sock, select.POLLERR | select.POLLHUP)
        seen.append(bool(poll.poll(60000)))
    ends = Ends(t, handler)
    for ix, kind in enumerate(KINDS):
        c = greeted(ends, kind)
        c.half_close()
        assert ended.acquire(timeout=20), kind
        c.reset()
        until(lambda n=ix + 1: len(seen) == n, 20, f"{kind}: the target saw it")
    assert seen == [True] * len(KINDS)
    all_ended(ends.proxy)
    ends.proxy.wait_fds()


def fill_up(sock, cap):
    """Writes until the other side holds it up for two seconds, or cap; returns the bytes."""
    block = b"x" * 65536
    sock.setblocking(False)
    total = 0
    while total < cap:
        if not select.select([], [sock], [], 2)[1]:
            break
        try:
            total += sock.send(block)
        except BlockingIOError:
            pass
    sock.setblocking(True)
    return total


def test_a_client_is_reset_while_the_target_does_not_read(t):
    gate = threading.Event()
    seen = []

    def handler(peer):
        gate.wait(60)
        seen.append(was_reset(peer.recv_all))
    ends = Ends(t, handler)
    c = ends.open("tcp")
    assert fill_up(c.sock, 512 * MIB) < 512 * MIB
    c.reset()
    all_ended(ends.proxy)
    assert ends.proxy.end_cnt("client_gone") == 1
    gate.set()
    until(lambda: seen, 20, "the target woke")
    assert seen == [True]
    ends.proxy.wait_fds()


# ---- targets that are not there

def test_b17_clients_that_leave_while_the_target_answers_no_syn(t):
    ends = Ends(t, target=black_hole(t), timeouts={"connect": "60s"})
    p = ends.proxy
    mark = p.fd_cnt()
    clients = [ends.open(kind) for kind in KINDS for _ in range(20)]
    for c in clients[::2]:
        c.send(b"anybody there?")
    until(lambda: p.metric("smartproxy_tunnels_open") == 60, 20, "all wait for the target")
    until(lambda: p.target(ends.target)["in_flight"] == 60, 20, "each has its place")
    for ix, c in enumerate(clients):
        # The end of a passed-through ClientHello is one; another end alone might be a half-close, which keeps its place.
        if ix % 3 == 0 or ix < 40:
            c.reset()
        else:
            c.close()
    all_ended(p)
    until(lambda: p.end_cnt("client_gone") == 60, 10, "counted: client_gone")
    p.wait_fds(mark)
    assert p.target(ends.target)["in_flight"] == 0 and p.target(ends.target)["queued"] == 0


def test_clients_that_only_end_wait_for_the_target_as_long_as_any_other(t):
    ends = Ends(t, target=black_hole(t), timeouts={"connect": "2s"})
    p = ends.proxy
    mark = p.fd_cnt()
    waiting, leaving = [ends.open("tcp"), ends.open("tls")], ends.open("tcp")
    for c in waiting:
        c.send(b"anybody there?")
        c.half_close()
    leaving.close()
    for c in waiting:
        assert c.recv_all() == b""
        c.close()
    all_ended(p)
    assert (p.end_cnt("connect_timeout"), p.end_cnt("client_gone")) == (3, 0), p.metrics()
    p.wait_fds(mark)
    assert p.target(ends.target)["in_flight"] == 0


INTERNAL_ERROR_ALERT = b"\x15\x03\x01\x00\x02\x02\x50"


def dead(t, target, **timeouts):
    """Each kind tells it in its way."""
    ends = Ends(t, target=target, timeouts=timeouts)
    for _ in range(3):
        with ends.open("tcp").sock as s:
            assert s.recv(16) == b""
        with ends.open("passthrough").sock as s:
            assert s.recv(16) == INTERNAL_ERROR_ALERT
            assert s.recv(16) == b""
        c = ends.open("tls")
        assert c.recv_all() == b""  # behind close_notify
        c.close()
    all_ended(ends.proxy)
    reasons = ("connect_failed", "connect_timeout", "no_target")
    assert sum(ends.proxy.end_cnt(r) for r in reasons) == 9
    assert ends.proxy.target(target)["in_flight"] == 0
    ends.proxy.wait_fds()
    return ends


def test_b10_a_target_that_refuses(t):
    ends = dead(t, t.port())
    assert ends.proxy.end_cnt("connect_failed") >= 1
    assert ends.proxy.target(ends.target)["last_failure"]["reason"] == "connect_refused", ends.proxy.target(ends.target)


def test_b12_a_target_that_does_not_answer(t):
    ends = dead(t, black_hole(t), connect="300ms")
    assert ends.proxy.end_cnt("connect_timeout") >= 1


def test_b11_b12_200_clients_of_a_dead_target_do_not_pile_up(t):
    for target, timeouts in ((t.port(), {}), (black_hole(t), {"connect": "1s"})):
        ends = Ends(t, target=target, timeouts=timeouts)
        p = ends.proxy
        clients = [ends.open(("tcp", "passthrough")[ix % 2]) for ix in range(200)]
        all_ended(p)
        p.wait_fds()
        for ix, c in enumerate(clients):
            assert c.recv_all() == (b"", INTERNAL_ERROR_ALERT)[ix % 2]
            c.close()
        until(lambda: p.metric("smartproxy_connections_accepted_total") == 200, 10, "counted: smartproxy_connections_accepted_total")
        assert p.target(target)["in_flight"] == 0
        p.stop()


def test_a_target_that_comes_later_serves_whoever_waits(t):
    listener = socket.socket()
    listener.bind(("127.0.0.1", t.port()))
    port = listener.getsockname()[1]
    t.cleanup(listener.close)
    ends = Ends(t, target=port)
    with ends.open("tcp").sock as s:
        assert s.recv(16) == b""
    listener.close()
    TcpServer(t, echo, port=port)

    def served():
        with ends.open("tcp").sock as s:
            s.sendall(b"hi")
            return s.recv(2) == b"hi"
    until(served, 30, "the target is tried again", 0.1)


# ---- bytes, once each way

def test_b18_b19_bytes_are_counted_once_each_way(t):
    path, options = logged(t)

    def handler(peer):
        peer.recv_exact(70001)
        peer.send(b"a" * 300007)
    ends = Ends(t, handler, **options)
    p = ends.proxy
    for ix, kind in enumerate(KINDS):
        before = {d: p.metric("smartproxy_tunnel_bytes_total", f'direction="{d}"') for d in ("in", "out")}
        c = ends.open(kind)
        c.send(b"q" * 70001)
        assert len(c.recv_all()) == 300007
        c.close()
        all_ended(p)
        size_in = 70001 + (len(ends.hello) if kind == "passthrough" else 0)
        moved = {d: p.metric("smartproxy_tunnel_bytes_total", f'direction="{d}"') - before[d] for d in ("in", "out")}
        assert moved == {"in": size_in, "out": 300007}, (kind, moved)
        record = records(path, ix + 1, "tunnel")[-1]
        assert (record["route"], record["bytes_in"], record["bytes_out"], record["end"]) == \
            (kind, str(size_in), "300007", "done"), record
    total_in = 3 * 70001 + len(ends.hello)
    until(lambda: p.metric("smartproxy_upstream_bytes_total", 'direction="out"') == total_in, 10, "counted: smartproxy_upstream_bytes_total")
    until(lambda: p.metric("smartproxy_upstream_bytes_total", 'direction="in"') == 3 * 300007, 10, "counted: smartproxy_upstream_bytes_total")
    until(lambda: p.metric("smartproxy_client_bytes_total", 'direction="in"') == total_in, 10, "counted: smartproxy_client_bytes_total")
    until(lambda: p.metric("smartproxy_client_bytes_total", 'direction="out"') == 3 * 300007, 10, "counted: smartproxy_client_bytes_total")


# ---- many, and for long

def open_and_close(ends, cnt):
    for ix in range(0, cnt, 50):
        clients = [ends.open(KINDS[(ix + n) % len(KINDS)]) for n in range(50)]
        for c in clients:
            c.send(b"hello, tunnel")
        for c in clients:
            assert c.recv_exact(13) == b"hello, tunnel"
        for n, c in enumerate(clients):
            if n % 5 == 0:
                c.reset()
            else:
                c.close()


def test_1000_tunnels_leave_nothing(t):
    ends = Ends(t, echo)
    p = ends.proxy
    open_and_close(ends, 200)
    all_ended(p)
    p.wait_fds()
    before = p.rss_kib()
    open_and_close(ends, 1000)
    all_ended(p)
    p.wait_fds()
    p.check_growth(before, 12)
    until(lambda: p.metric("smartproxy_tunnels_total") == 1200, 10, "counted: smartproxy_tunnels_total")
    until(lambda: p.metric("smartproxy_buffers_used") == 0, 10, "counted: smartproxy_buffers_used")
    assert p.target(ends.target)["in_flight"] == 0


def test_open_tunnels_keep_no_generation(t):
    ends = Ends(t, echo)
    p = ends.proxy
    clients = [greeted(ends, KINDS[ix % len(KINDS)]) for ix in range(30)]
    extra = t.port()
    for ix in range(3):
        assert p.put_routes(ends.routes + [respond("extra", [extra], f"{ix}")]).status == 200
        until(lambda: p.status()["retired_generations"] == 0, 20, "no generation is kept")
    # Not even one without their routes, ports and target.
    assert p.put_routes([respond("extra", [extra], "last")]).status == 200
    until(lambda: p.status()["retired_generations"] == 0, 20, "no generation is kept")
    until(lambda: p.metric("smartproxy_tunnels_open") == len(clients), 10, "counted: smartproxy_tunnels_open")
    (view,) = {(v["kind"], v["upstream"]) for v in p.connections() if v["kind"] == "tunnel"}
    assert view == ("tunnel", f"127.0.0.1:{ends.target}")
    for c in clients:
        c.send(b"still")
        assert c.recv_exact(5) == b"still"
        c.close()
    all_ended(p)
    assert not [u for u in p.upstreams() if u["target"].endswith(f":{ends.target}")], p.upstreams()


# ---- shutdown

def is_refused(port):
    try:
        Client(port, timeout_s=5).close()
        return False
    except OSError:
        return True


def test_shutdown_ends_what_is_still_open_after_its_time(t):
    path, options = logged(t)
    options["global_"]["shutdown_timeout"] = "3s"
    ends = Ends(t, echo, **options)
    clients = [greeted(ends, kind) for kind in KINDS]
    ends.proxy.signal(signal.SIGTERM)
    until(lambda: is_refused(ends.http), 20, "no new connections")
    for c in clients:
        c.send(b"still")
        assert c.recv_exact(5) == b"still"
    assert ends.proxy.wait_exit() == 0
    for c in clients:
        try:
            assert c.recv() == b""
        except (ConnectionError, ssl.SSLError):
            pass
    found = records(path, 3, "tunnel")
    assert [r["end"] for r in found] == ["shutdown"] * 3, found
    until(lambda: ends.origin.ended == 3, 10, "the target's sides ended")


def test_shutdown_ends_with_the_last_tunnel(t):
    ends = Ends(t, echo, global_={"shutdown_timeout": "300s"})
    c = greeted(ends, "tcp")
    ends.proxy.signal(signal.SIGTERM)
    until(lambda: is_refused(ends.http), 20, "no new connections")
    c.half_close()
    assert c.recv_all() == b""
    c.close()
    assert ends.proxy.wait_exit() == 0


# ---- back-pressure

def test_a_target_that_does_not_read_holds_the_client(t):
    gate = threading.Event()
    got = []

    def handler(peer):
        gate.wait(60)
        cnt = len(peer.buffer)
        peer.buffer = b""
        while True:
            part = peer.sock.recv(1 << 18)
            if not part:
                break
            cnt += len(part)
        got.append(cnt)
    ends = Ends(t, handler)
    clients = {kind: ends.open(kind) for kind in ("tcp", "passthrough")}
    for c in clients.values():
        c.send(b"x")
    before = ends.proxy.rss_kib()
    sent = {kind: 1 + fill_up(c.sock, 512 * MIB) for kind, c in clients.items()}
    assert max(sent.values()) < 512 * MIB, f"{sent} bytes went to a target that does not read"
    ends.proxy.check_growth(before, 16)
    gate.set()
    for c in clients.values():
        c.send(b"y" * MIB)
        c.half_close()
    until(lambda: len(got) == 2, 60, "the target read it all")
    assert sorted(got) == sorted(cnt + MIB for cnt in sent.values())


def test_a_client_that_does_not_read_holds_the_target(t):
    sent = {}
    gate = threading.Event()

    def handler(peer):
        kind = peer.recv_exact(3)
        sent[kind] = fill_up(peer.sock, 512 * MIB)
        gate.wait(60)
        peer.send(b"y" * MIB)
    ends = Ends(t, handler)
    before = ends.proxy.rss_kib()
    clients = {kind: ends.open(kind) for kind in KINDS}
    for kind, c in clients.items():
        c.send(kind[:3].encode())
    until(lambda: len(sent) == len(KINDS), 60, "all are held up")
    assert max(sent.values()) < 512 * MIB, f"{sent} bytes went to a client that does not read"
    ends.proxy.check_growth(before, 16)
    gate.set()
    for kind, c in clients.items():
        cnt = 0
        while True:
            part = c.recv(1 << 18)
            if not part:
                break
            cnt += len(part)
        assert cnt == sent[kind[:3].encode()] + MIB, kind
        c.close()
    all_ended(ends.proxy)


if __name__ == "__main__":
    main()
