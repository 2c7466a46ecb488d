"""What the servers of the tests have in common: a listener, and a thread for each connection that is taken."""
import socket
import ssl
import threading


class Listening:
    """Of a server with make(sock, ix), which gives a connection with is_closed and close(), and serve(connection)."""

    def listen(self, test, port=None, host="127.0.0.1", tls=None, backlog=512, accepts=True):
        """tls: an ssl.SSLContext of the server side, or (chain file, key file). Without accepts only the port is taken."""
        self.tls = tls
        if isinstance(tls, tuple):
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
        self.lock = threading.Condition()
        self.connections = []
        self.is_stopped = False
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, port or test.port()))
        self.port = self.listener.getsockname()[1]
        test.cleanup(self.stop)
        if accepts:
            self.listener.listen(backlog)
            threading.Thread(target=self.accept, daemon=True).start()

    def stop(self):
        self.is_stopped = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for connection in list(self.connections):
            if not connection.is_closed:
                connection.close()

    def accept(self):
        while not self.is_stopped:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self.make(sock, len(self.connections))
            with self.lock:
                self.connections.append(connection)
                self.lock.notify_all()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
