"""Raw TCP routes: server-first protocols, port ranges, a target's port that is the client's, real clients."""
import os
import socket
import subprocess
import threading
import time

from sp import main
from sp.client import Client
from sp.conf import respond, tcp
from sp.process import die_with_parent
from sp.runner import Skip
from sp.tcp import TcpServer, echo
from sp.tunnel import Ends
from sp.wait import until


def banner(peer):
    peer.send(b"220 ready\r\n")
    echo(peer)


def test_the_server_may_speak_first(t):
    origin = TcpServer(t, banner)
    port = t.port()
    p = t.proxy([tcp("smtp", [port], [origin.port])])
    with Client(port) as c:
        assert c.sock.recv(64) == b"220 ready\r\n"
        c.send(b"EHLO x\r\n")
        assert c.sock.recv(64) == b"EHLO x\r\n"
        (view,) = [v for v in p.connections() if v["kind"] == "tunnel"]
        assert view["route"] == "smtp" and view["upstream"] == f"127.0.0.1:{origin.port}", view
        assert view["bytes_in"] == 8 and view["bytes_out"] == 19, view
    until(lambda: not p.connections(), 5, "no connection left")


def test_a_server_that_speaks_first_learns_of_the_connection_at_once(t):
    """No ACK waits for a client that waits for the server; the kernel would send it 200 ms later."""
    origin = TcpServer(t, banner)
    port = t.port()
    t.proxy([tcp("smtp", [port], [origin.port])])

    def wait_s():
        start = time.monotonic()
        with Client(port) as c:
            assert c.sock.recv(64) == b"220 ready\r\n"
        return time.monotonic() - start
    assert min(wait_s() for _ in range(10)) < 0.1


def test_an_answer_whose_end_comes_with_it_is_whole(t):
    """The last bytes may wait for the FIN that takes them along: whoever reads late gets them all, and no reset."""
    def handler(peer):
        peer.send(b"x" * int(peer.recv_exact(8)))
        peer.close()
    ends = Ends(t, handler)
    for size in (1, 1459, 16384, 16385, 100001, 3000001):
        for rcvbuf in (None, 4096):
            c = ends.open("tcp", rcvbuf=rcvbuf)
            c.send(b"%8d" % size)
            assert len(c.recv_all()) == size
            c.close()
    until(lambda: ends.proxy.end_cnt("done") == 12, 20, "all ended well")


def test_a_range_of_ports_with_the_target_port_preserved(t):
    first = t.port()
    ports = [first, t.port(), t.port()]
    if ports != list(range(first, first + 3)):
        raise Skip("needs ports in a row (a network namespace)")
    origins = [TcpServer(t, lambda peer, ix=ix: peer.send(b"%d" % ix), port=port, host="127.0.0.2") for ix, port in enumerate(ports)]
    p = t.proxy([tcp("range", [f"{first}-{first + 2}"], [{"host": "127.0.0.2", "port": "preserve"}], address="127.0.0.1")])
    for ix, port in enumerate(ports):
        with Client(port) as c:
            assert c.wait_closed() == b"%d" % ix
    assert len(origins[0].peers) == 1
    # Routes come and go, the ports too.
    assert p.put_routes([tcp("range", [f"{first}-{first + 1}"], [{"host": "127.0.0.2", "port": "preserve"}],
                             address="127.0.0.1")]).status == 200
    try:
        Client(ports[2]).close()
        raise AssertionError("the port is still open")
    except ConnectionRefusedError:
        pass
    with Client(ports[1]) as c:
        assert c.wait_closed() == b"1"


def test_many_megabytes_both_ways_are_the_same_bytes(t):
    total = 64 << 20
    block = os.urandom(1 << 20)

    def both(peer):
        while True:
            data = peer.recv(1 << 18)
            if not data:
                return
            peer.send(data)
    origin = TcpServer(t, both)
    port = t.port()
    p = t.proxy([tcp("bulk", [port], [origin.port])])
    with Client(port) as c:
        sender = threading.Thread(target=lambda: ([c.sock.sendall(block) for _ in range(total >> 20)], c.half_close()))
        sender.start()
        got = 0
        while True:
            data = c.sock.recv(1 << 18)
            if not data:
                break
            while data:
                at = got % len(block)
                part = data[:len(block) - at]
                assert block[at:at + len(part)] == part, f"byte {got}"
                got += len(part)
                data = data[len(part):]
        sender.join()
        assert got == total
    until(lambda: p.metric("smartproxy_tunnels_open") == 0, 5, "the tunnel ended")
    until(lambda: p.metric("smartproxy_tunnel_bytes_total", 'direction="in"') == total, 10, "counted: smartproxy_tunnel_bytes_total")
    until(lambda: p.metric("smartproxy_tunnel_bytes_total", 'direction="out"') == total, 10, "counted: smartproxy_tunnel_bytes_total")
    assert p.metric("smartproxy_splices_total") >= 2
    p.wait_fds()


def test_redis_and_its_real_client(t):
    t.need("redis-server", "redis-cli")
    back = t.port()
    server = subprocess.Popen(["redis-server", "--port", str(back), "--bind", "127.0.0.1", "--save", "", "--dir", t.dir],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
    t.cleanup(lambda: (server.terminate(), server.wait()))
    until(lambda: socket.create_connection(("127.0.0.1", back), 1).close() or True, 10, "redis")
    port, web = t.port(), t.port()
    t.proxy([tcp("redis", [port], [back]), respond("web", [web], "ok")])

    def cli(*args, text=None):
        done = subprocess.run(["redis-cli", "-h", "127.0.0.1", "-p", str(port), *args], input=text, capture_output=True, text=True,
                              timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
    assert cli("set", "k", "v" * 5000) == "OK"
    assert cli("get", "k") == "v" * 5000
    lines = "".join(f"SET key{ix} {ix}\r\n" for ix in range(2000))
    assert "replies: 2000" in cli("--pipe", text=lines)
    assert cli("dbsize") == "2001"


if __name__ == "__main__":
    main()
