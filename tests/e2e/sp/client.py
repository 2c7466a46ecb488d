"""A raw HTTP/1.1 client: it sends bytes and reads answers with a small strict parser of its own."""
import socket
import ssl

from .wait import pause


class Response:
    def __init__(self, version, status, reason, headers, interim):
        self.version, self.status, self.reason, self.headers, self.interim = version, status, reason, headers, interim
        self.body, self.trailers, self.body_bytes = b"", [], 0

    def header(self, name, default=None):
        values = self.all(name)
        return values[0] if values else default

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]

    def __repr__(self):
        return f"<{self.status} {self.reason} {str(self.headers)[:600]} {self.body[:200]!r}>"


class Closed(Exception):
    """The other side closed where an answer, or more of one, was due."""


class Client:
    def __init__(self, port, host="127.0.0.1", tls=None, server_name=None, alpn=None, timeout_s=15.0, rcvbuf=None, session=None,
                 source=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self.sock = tls.wrap_socket(self.sock, server_hostname=server_name, session=session)
            except BaseException:
                self.sock.close()
                raise
        self.buffer = b""
        self.is_eof = False

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # sending
    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode("latin-1"))
        return self

    def send_slowly(self, data, step=1, interval_s=0.0):
        for ix in range(0, len(data), step):
            self.sock.sendall(data[ix:ix + step])
            if interval_s:
                pause(interval_s)
        return self

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def request(self, method="GET", target="/", host="example.test", headers=(), body=None, version="1.1"):
        """Sends one request; a body of bytes is sized, a list of bytes is chunked."""
        lines = [f"{method} {target} HTTP/{version}"]
        if host is not None:
            lines.append(f"Host: {host}")
        lines += [f"{n}: {v}" for n, v in headers]
        data = b""
        if isinstance(body, list):
            lines.append("Transfer-Encoding: chunked")
            data = b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in body) + b"0\r\n\r\n"
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
            data = body
        return self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)

    def get(self, target="/", host="example.test", **options):
        self.request("GET", target, host, **options)
        return self.response()

    # reading
    def fill(self):
        if self.is_eof:
            raise Closed(f"closed with {self.buffer[:200]!r} unread")
        try:
            data = self.sock.recv(65536)
        except ssl.SSLEOFError:
            data = b""
        except ConnectionResetError:
            raise Closed("reset") from None
        if not data:
            self.is_eof = True
            raise Closed(f"closed with {self.buffer[:200]!r} unread")
        self.buffer += data

    def line(self):
        while b"\r\n" not in self.buffer:
            assert len(self.buffer) < 1 << 20, "line without an end"
            self.fill()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        assert b"\n" not in line and b"\r" not in line, f"bare line end in {line!r}"
        return line.decode("latin-1")

    def fields(self):
        found = []
        while True:
            line = self.line()
            if not line:
                return found
            name, colon, value = line.partition(":")
            assert colon and name and name == name.strip(), f"field line {line!r}"
            found.append((name, value.strip()))

    def head(self):
        interim = []
        while True:
            line = self.line()
            version, _, rest = line.partition(" ")
            status, _, reason = rest.partition(" ")
            assert version in ("HTTP/1.1", "HTTP/1.0") and len(status) == 3, f"status line {line!r}"
            response = Response(version, int(status), reason, self.fields(), interim)
            if response.status >= 200 or response.status == 101:
                return response
            interim.append(response)

    def take(self, cnt, response, keep, pace):
        while cnt:
            if not self.buffer:
                self.fill()
            part, self.buffer = self.buffer[:cnt], self.buffer[cnt:]
            cnt -= len(part)
            response.body_bytes += len(part)
            if keep:
                response.body += part
            if pace:
                pace(response.body_bytes)

    def response(self, method="GET", keep=True, pace=None):
        """One answer, interim ones in .interim. keep=False drops body bytes; pace(bytes so far) may block (a slow reader)."""
        response = self.head()
        codings = response.all("transfer-encoding")
        lengths = response.all("content-length")
        assert not (codings and lengths), f"two framings: {response.headers}"
        if method == "HEAD" or response.status in (204, 304, 101):
            return response
        if codings:
            assert codings == ["chunked"], codings
            while True:
                size = int(self.line().split(";")[0], 16)
                if size == 0:
                    break
                self.take(size, response, keep, pace)
                assert self.line() == ""
            response.trailers = self.fields()
        elif lengths:
            assert len(lengths) == 1, lengths
            self.take(int(lengths[0]), response, keep, pace)
        else:
            try:
                while True:
                    self.take(1, response, keep, pace)
            except Closed:
                pass
        return response

    def wait_closed(self):
        """Reads until the other side closes; returns what came."""
        data = self.buffer
        self.buffer = b""
        while not self.is_eof:
            try:
                got = self.sock.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError):
                got = b""
            if not got:
                self.is_eof = True
            data += got
        return data


def tls_context(ca_file=None, alpn=None, minimum=None, maximum=None, verify=True):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if ca_file:
        context.load_verify_locations(ca_file)
    if alpn:
        context.set_alpn_protocols(alpn)
    if minimum:
        context.minimum_version = minimum
    if maximum:
        context.maximum_version = maximum
    return context


def served_cert(port, server_name, host="127.0.0.1"):
    """The leaf certificate, decoded into {subject, names, issuer, serial}, without verifying it."""
    context = tls_context(verify=False)
    with Client(port, host, tls=context, server_name=server_name) as c:
        return decode_der(c.sock.getpeercert(binary_form=True))


def decode_der(der):
    import os
    import tempfile
    with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as f:
        f.write(ssl.DER_cert_to_PEM_cert(der))
    try:
        return flatten(ssl._ssl._test_decode_cert(f.name))
    finally:
        os.unlink(f.name)


def flatten(cert):
    issuer = {k: v for part in cert.get("issuer", ()) for k, v in part}
    return {"names": sorted(v for k, v in cert.get("subjectAltName", ()) if k == "DNS"),
            "issuer": issuer.get("commonName", ""), "serial": cert["serialNumber"], "not_after": cert["notAfter"]}
