"""A DNS server on loopback for the proxy's own look-ups: names to addresses, changed while it runs.

zone: {name: ([addresses], ttl)} or {name: "nxdomain" | "silent" | "servfail" | "garbage"}; names not in it: NXDOMAIN.
"""
import socket
import struct
import threading


def name_of(data, at):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode("latin-1"))
        at += data[at] + 1
    return ".".join(labels).lower(), at + 1


class DnsServer:
    def __init__(self, test, zone=None):
        self.zone = dict(zone or {})
        self.queries = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", test.port()))
        self.port = self.sock.getsockname()[1]
        self.is_stopped = False
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        test.cleanup(self.stop)

    def config(self, **more):
        """The proxy's group "dns"."""
        return {"servers": [f"127.0.0.1:{self.port}"], "min_ttl": "100ms", **more}

    def stop(self):
        self.is_stopped = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join(5)
        self.sock.close()

    def count(self, name):
        return sum(1 for n, _ in list(self.queries) if n == name)

    def serve(self):
        while True:
            data, peer = self.sock.recvfrom(4096)
            if self.is_stopped:
                return
            if len(data) < 17:
                continue
            name, end = name_of(data, 12)
            kind = struct.unpack("!H", data[end:end + 2])[0]
            self.queries.append((name, kind))
            answer = self.answer(data, name, kind, end + 4)
            if answer is not None:
                self.sock.sendto(answer, peer)

    def answer(self, data, name, kind, end):
        entry = self.zone.get(name, "nxdomain")
        if entry == "silent":
            return None
        if entry == "garbage":
            return data[:2] + b"\x81\x80" + bytes(range(256)) * 2
        code = {"nxdomain": 3, "servfail": 2}.get(entry, 0) if isinstance(entry, str) else 0
        records = b""
        cnt = 0
        if code == 0:
            addresses, ttl = entry
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                if kind == (28 if family == socket.AF_INET6 else 1):
                    raw = socket.inet_pton(family, address)
                    records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(raw)) + raw
                    cnt += 1
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, cnt, 0, 0)
        return head + data[12:end] + records
