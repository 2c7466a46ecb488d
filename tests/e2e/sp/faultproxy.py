"""A TLS proxy before Pebble that goes wrong on demand, and records what passes.

A rule is (path regex, what, count); what is a dict with one of: status + headers + body; cut ("head": before the request is
passed on, "answer": after it was); stall (never answered, the connection stays open); truncate (bytes of the body that are
sent); delay_s. The first rule that matches and has count left is used; without one the request is passed on.
"""
import base64
import http.client
import json
import re
import socket
import ssl
import threading

from .pebble import make_leaf
from .wait import pause


class Passed:
    def __init__(self, method, path, payload, protected, nonce):
        self.method, self.path, self.payload, self.protected, self.nonce = method, path, payload, protected, nonce
        self.status, self.names = None, None


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class FaultProxy:
    def __init__(self, test, pebble):
        self.pebble, self.http_port, self.ca_file = pebble, pebble.http_port, pebble.ca_file
        cert, key = make_leaf(pebble.dir, "fault", ["localhost", "127.0.0.1"],
                              (pebble.ca_file, pebble.ca_file.replace(".pem", ".key")))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.upstream_context = ssl.create_default_context(cafile=pebble.ca_file)
        self.port = test.port()
        self.directory = f"https://127.0.0.1:{self.port}/dir"
        self.rules, self.passed = [], []
        self.lock = threading.Lock()
        self.listener = None
        test.cleanup(self.stop)
        self.start()

    def start(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(128)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def stop(self):
        """Connections are refused from now on (until start)."""
        if self.listener:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.listener.close()
            self.listener = None

    def rule(self, path, count=1, **what):
        with self.lock:
            self.rules.append([re.compile(path), what, count])

    def clear(self):
        with self.lock:
            self.rules.clear()

    def left(self):
        with self.lock:
            return sum(count for _, _, count in self.rules)

    def find(self, path):
        with self.lock:
            for rule in self.rules:
                if rule[2] > 0 and rule[0].search(path):
                    rule[2] -= 1
                    return rule[1]
        return {}

    def accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        upstream = http.client.HTTPSConnection("127.0.0.1", self.pebble.port, timeout=30, context=self.upstream_context)
        try:
            sock.settimeout(60)
            tls = self.context.wrap_socket(sock, server_side=True)
            stream = tls.makefile("rb")
            while self.one(tls, stream, upstream):
                pass
        except (OSError, ValueError, http.client.HTTPException):
            pass
        finally:
            upstream.close()
            sock.close()
            try:
                tls.close()
            except (OSError, NameError, UnboundLocalError):
                pass

    def one(self, tls, stream, upstream):
        line = stream.readline()
        if not line:
            return False
        method, path, _ = line.decode("latin-1").split(" ")
        headers = {}
        while True:
            field = stream.readline().decode("latin-1").rstrip("\r\n")
            if not field:
                break
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            tls.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = stream.read(int(headers.get("content-length", "0")))
        record = self.record(method, path, body)
        what = self.find(path)
        if "delay_s" in what:
            pause(what["delay_s"])
        if what.get("cut") == "head":
            return False
        if "stall" in what:
            stream.read(1)  # until the client has had enough
            return False
        if "status" in what:
            record.status = what["status"]
            self.answer(tls, what["status"], what.get("headers", {}), what.get("body", b""), method)
            return True
        status, answer_headers, answer_body = self.pass_on(upstream, method, path, headers, body)
        record.status = status
        self.note_order(record, answer_body)
        if what.get("cut") == "answer":
            return False
        if "truncate" in what:
            answer_body = answer_body[:what["truncate"]]
        if "replace" in what:
            answer_body = what["replace"]
        self.answer(tls, status, answer_headers, answer_body, method)
        return True

    def record(self, method, path, body):
        payload = protected = None
        if body:
            try:
                jws = json.loads(body)
                protected = json.loads(unbase64(jws["protected"]))
                payload = unbase64(jws["payload"])
            except (ValueError, KeyError):
                pass
        record = Passed(method, path, payload, protected, (protected or {}).get("nonce"))
        with self.lock:
            self.passed.append(record)
        return record

    def note_order(self, record, body):
        if record.status == 201 and record.payload and b'"identifiers"' in record.payload:
            record.names = sorted(i["value"] for i in json.loads(record.payload)["identifiers"])

    def pass_on(self, upstream, method, path, headers, body):
        # Pebble checks the URL inside the signed body against Host, so Host stays this proxy's.
        sent = {k: v for k, v in headers.items() if k not in ("expect", "connection")}
        for attempt in (0, 1):
            try:
                upstream.request(method, path, body=body or None, headers=sent)
                response = upstream.getresponse()
                break
            except (http.client.HTTPException, OSError):
                upstream.close()
                if attempt:
                    raise
        data = response.read()
        kept = {k: v for k, v in response.getheaders()
                if k.lower() not in ("content-length", "transfer-encoding", "connection")}
        return response.status, kept, data

    def answer(self, tls, status, headers, body, method):
        lines = [f"HTTP/1.1 {status} X"] + [f"{k}: {v}" for k, v in headers.items()]
        if status != 204:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        tls.sendall(data if method == "HEAD" else data + body)

    # accounting
    def orders(self):
        """Names of each order that Pebble accepted."""
        with self.lock:
            return [tuple(p.names) for p in self.passed if p.names]

    def check_nonces_fresh(self):
        """No signed body was sent twice."""
        with self.lock:
            nonces = [p.nonce for p in self.passed if p.nonce]
        assert len(nonces) == len(set(nonces)), "a nonce was used twice"

    def requests(self, path):
        regex = re.compile(path)
        with self.lock:
            return [p for p in self.passed if regex.search(p.path)]
