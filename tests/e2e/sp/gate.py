"""A door before the proxy's port for challenges: what the CA looks for waits there until it is opened.

So a challenge stays triggered and not validated for as long as a test wants, whatever the CA's random pauses are.
"""
import select
import socket
import threading

HELD_MAX_S = 12  # Pebble gives a validation 15 s


class Gate:
    def __init__(self, test, target_port):
        self.target_port = target_port
        self.is_open = threading.Event()
        self.held_cnt = 0
        self.lock = threading.Lock()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", test.port()))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(256)
        test.cleanup(self.stop)
        threading.Thread(target=self.accept, daemon=True).start()

    def open(self):
        self.is_open.set()

    def close(self):
        self.is_open.clear()

    def stop(self):
        self.is_open.set()
        self.listener.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with sock:
            if not self.is_open.is_set():
                with self.lock:
                    self.held_cnt += 1
                self.is_open.wait(HELD_MAX_S)
            try:
                with socket.create_connection(("127.0.0.1", self.target_port), 5) as other:
                    relay(sock, other)
            except OSError:
                pass


def relay(a, b):
    """Until one of them ends."""
    while True:
        for sock in select.select([a, b], [], [], 30)[0] or [None]:
            data = sock.recv(65536) if sock else b""
            if not data:
                return
            (b if sock is a else a).sendall(data)
