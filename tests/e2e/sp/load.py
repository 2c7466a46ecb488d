"""Many clients at once, origins that count, and targets that do not answer."""
import socket
import struct
import threading

from .client import Client, Closed
from .origin import answer


def burst(cnt, work, timeout_s=60):
    """work(ix) on cnt threads that begin together; their results in order. An exception of one is raised."""
    results, errors = [None] * cnt, []
    gate = threading.Barrier(cnt)

    def run(ix):
        try:
            gate.wait(timeout_s)
            results[ix] = work(ix)
        except Exception as e:
            errors.append(e)
    threads = [threading.Thread(target=run, args=(ix,), daemon=True) for ix in range(cnt)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive(), "a client got no end"
    if errors:
        raise errors[0]
    return results


def get(port, target="/", **options):
    """One request on a connection of its own: whichever worker gets it."""
    tls = {k: options.pop(k) for k in ("tls", "server_name", "host", "source", "timeout_s") if k in options}
    with Client(port, **tls) as c:
        return c.get(target, **options)


def reset(client):
    """Gone for good; a plain close() is a half-closed client to the other side."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def bodies(port, cnt, target="/"):
    """The texts of cnt requests, each on a connection of its own and answered with 200."""
    found = []
    for _ in range(cnt):
        response = get(port, target)
        assert response.status == 200, response
        found.append(response.body.decode())
    return found


def named(test, cnt, **options):
    """cnt origins that answer with their number."""
    from .origin import fixed
    return [test.origin(fixed(b"%d" % ix), **options) for ix in range(cnt)]


class Gate:
    """A script of an origin: requests are held until open() (or answered after hold_s), and counted."""

    def __init__(self, body=b"held", hold_s=None):
        self.body, self.hold_s = body, hold_s
        self.lock = threading.Condition()
        self.now = self.most = self.total = 0
        self.is_open = False

    def __call__(self, connection, _request):
        with self.lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.is_open, self.hold_s)
            self.now -= 1
        connection.send(answer(200, self.body))

    def open(self):
        with self.lock:
            self.is_open = True
            self.lock.notify_all()

    def wait_total(self, cnt, timeout_s=20):
        with self.lock:
            assert self.lock.wait_for(lambda: self.total >= cnt, timeout_s), f"{self.total} requests held, wanted {cnt}"


class Silent:
    """A port whose queue of connections is full: who connects hears nothing, as behind a firewall that drops."""

    def __init__(self, test):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", test.port()))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fill = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            try:
                s.connect(("127.0.0.1", self.port))
            except BlockingIOError:
                pass
            self.fill.append(s)
        test.cleanup(self.stop)

    def stop(self):
        for s in [self.listener] + self.fill:
            s.close()


def is_cut(port, target="/", **options):
    """Whether the answer ends before its end."""
    with Client(port, **options) as c:
        c.request("GET", target)
        try:
            c.response()
            return False
        except Closed:
            return True
