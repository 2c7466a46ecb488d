"""The door of Pebble's ACME API: a program of its own that lets one request at a time in, in the order of their arrival.

Usage: front.py PORT PEBBLE_PORT CERTIFICATE KEY CA_FILE PEBBLE_LOG

Pebble (2.4.0, which Debian 12 has) hangs for good when requests meet badly. Its handler of /authZ/ holds the authorization's
lock and asks for the store's; the one of /order-plz (FindValidAuthorization) holds the store's, for reading, and asks for
that of every authorization; a third that waits to write to the store keeps the first one out. All requests take the same
connection here, and Go's server reads the next one after the handler of the last has returned: no two handlers overlap.

What Pebble does by itself after an answer, validations and issuances, never asks for a lock while it holds one of those, so
it cannot close that circle with a single handler. It can close two others, which is why some requests wait for its end, as
told by Pebble's log:
- The handler of /authZ/ forgets to unlock, for reading, a pending challenge of an authorization that it deactivates. A
  validation under way then waits for that challenge for ever, with the authorization locked, and the next order waits for
  that. So a deactivation waits until the validation is over.
- The handler of /my-order/ takes the order's lock twice, for reading, and hangs when the issuance asks for it, for writing,
  in between. So a question for an order waits until its certificate is there.

Requests and answers pass unchanged. The URLs in them hold the Host of the request: they lead here again. A request whose
client went away while it waited here is dropped, as if the network had lost it.
"""
import asyncio
import base64
import collections
import json
import re
import ssl
import sys
import time

HEAD_MAX = 1 << 20
LOOK_S = 0.005
SETTLE_S = 0.01  # the line about a certificate comes some instructions before the order's lock is taken
HOLD_MAX_S = 20.0  # the end of a job was not told: then a hang is no worse than what the client is told
LOST = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)


def field(head, name):
    match = re.search(rb"(?im)^" + name + rb":[ \t]*(.*?)[ \t]*\r$", head)
    return match.group(1) if match else b""


class Request:
    def __init__(self, head, body):
        self.head, self.body = head, body
        self.method, self.path = head.decode("latin-1").split(" ", 2)[:2]

    def payload(self):
        """Of the signed body; b"" when it only asks."""
        try:
            text = json.loads(self.body)["payload"]
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (ValueError, KeyError, TypeError):
            return b""

    def job(self):
        """The job whose end this has to wait for, if that is under way."""
        if self.path.startswith("/my-order/") or (self.path.startswith("/authZ/") and self.payload()):
            return self.path.rpartition("/")[2]
        return None


class Jobs:
    """What Pebble does by itself, by the id of the authorization that is validated or of the order that is issued."""

    def __init__(self, log):
        self.log, self.rest = open(log, "rb"), b""
        self.log.seek(0, 2)
        self.running, self.ended = collections.Counter(), {}

    def note(self, request, answer):
        """What this answer began."""
        if answer.split(b" ", 2)[1] != b"200":
            return
        up = re.search(rb'/authZ/([^>/]+)>;rel="up"', answer)
        if request.path.startswith("/chalZ/") and up:  # of a trigger, not of a question
            self.running[up.group(1).decode()] += 1
        elif request.path.startswith("/finalize-order/"):
            self.running[request.path.rpartition("/")[2]] += 1

    def look(self):
        *lines, self.rest = (self.rest + self.log.read()).split(b"\n")
        for line in lines:
            match = re.search(rb"authz (\S+) set (?:IN)?VALID by|Issued certificate serial \S+ for order (\S+)", line)
            if match:
                job = (match.group(1) or match.group(2)).decode()
                self.running[job] -= 1
                self.ended[job] = time.monotonic()

    def is_running(self, job):
        self.look()
        return self.running[job] > 0 or time.monotonic() < self.ended.get(job, 0) + SETTLE_S


class Front:
    def __init__(self, port, pebble_port, files, ca_file, log):
        self.port, self.pebble_port = port, pebble_port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*files)
        self.pebble_context = ssl.create_default_context(cafile=ca_file)
        self.jobs = Jobs(log)
        self.turn = asyncio.Lock()  # who waited longest is next
        self.pebble = None  # the connection

    async def run(self):
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _what: None)  # of clients that went away
        server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, ssl=self.context, limit=HEAD_MAX, backlog=128)
        await server.serve_forever()

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if field(head, b"Expect"):
                    head = re.sub(rb"(?im)^Expect:.*\r\n", b"", head)
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request = Request(head, await reader.readexactly(int(field(head, b"Content-Length") or b"0")))
                writer.write(await self.admit(request, writer))
                await writer.drain()
        except LOST:
            pass
        finally:
            writer.close()

    async def admit(self, request, client):
        """Passes it on when its turn has come; returns the answer."""
        end, job = time.monotonic() + HOLD_MAX_S, request.job()
        while True:
            async with self.turn:
                if client.is_closing():
                    raise EOFError
                if job is None or not self.jobs.is_running(job) or time.monotonic() > end:
                    answer = await self.exchange(request)
                    self.jobs.note(request, answer)
                    return answer
            await asyncio.sleep(LOOK_S)

    async def exchange(self, request):
        """Never twice: Pebble may have done what was asked before the connection broke."""
        try:
            if self.pebble is None:
                self.pebble = await asyncio.open_connection("127.0.0.1", self.pebble_port, ssl=self.pebble_context, limit=HEAD_MAX)
            reader, writer = self.pebble
            writer.write(request.head + request.body)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await self.read_body(reader, request, head)
            if field(head, b"Connection").lower() == b"close":
                self.drop()
            return head + body
        except LOST:
            self.drop()
            raise

    def drop(self):
        if self.pebble:
            self.pebble[1].close()
        self.pebble = None

    async def read_body(self, reader, request, head):
        if request.method == "HEAD" or head.split(b" ", 2)[1] in (b"204", b"304"):
            return b""
        if field(head, b"Transfer-Encoding").lower() != b"chunked":
            return await reader.readexactly(int(field(head, b"Content-Length") or b"0"))
        body, size = b"", b"1"
        while int(size, 16):
            size = await reader.readuntil(b"\r\n")
            body += size + await reader.readexactly(int(size, 16) + 2)
        return body


def main():
    port, pebble_port, certificate, key, ca_file, log = sys.argv[1:]
    asyncio.run(Front(int(port), int(pebble_port), (certificate, key), ca_file, log).run())


if __name__ == "__main__":
    main()
