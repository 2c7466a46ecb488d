"""The origins of the soak test, in a process of their own: healthy ones, and ones that die and come back all the time."""
import asyncio
import base64
import hashlib
import os
import random
import signal
import socket
import ssl
import struct

PATTERN = random.Random(7).randbytes(1 << 20)
PHASES = ("serve", "gone", "serve", "hang", "serve", "reset")
PHASE_S = (0.4, 1.6)


def pattern(cnt):
    """The body of /b/cnt."""
    return (PATTERN * (cnt // len(PATTERN) + 1))[:cnt]


def accept_key(key):
    """RFC 6455, 4.2.2."""
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


def frame(opcode, payload, mask=None):
    """One unfragmented WebSocket frame; masked when there is a mask."""
    size = len(payload)
    head = bytes([0x80 | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    return head + (mask + masked(payload, mask) if mask else payload)


def masked(payload, mask):
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class Origin:
    """One listener whose mood can change; serve(reader, writer) talks on one connection."""

    def __init__(self, port, serve, tls=None):
        self.port, self.serve, self.tls = port, serve, tls
        self.phase = "serve"
        self.changed = asyncio.Event()  # the end of the present phase
        self.server = None
        self.writers = set()

    async def listen(self):
        self.server = await asyncio.start_server(self.run, "127.0.0.1", self.port, ssl=self.tls, backlog=1024, limit=1 << 18)

    def drop_all(self):
        for writer in list(self.writers):
            abort(writer)

    async def enter(self, phase):
        """gone: the port refuses, and all connections are reset, as when a process was killed."""
        if phase == "gone" and self.server:
            self.server.close()
            self.server = None
            self.drop_all()
        elif phase != "gone" and not self.server:
            await self.listen()
        self.phase = phase
        self.changed.set()
        self.changed = asyncio.Event()

    async def run(self, reader, writer):
        self.writers.add(writer)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self.serve(self, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError, ValueError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def flap(self, seed):
        rng = random.Random(seed)
        at = seed
        while True:
            await asyncio.sleep(rng.uniform(*PHASE_S))
            at += 1
            await self.enter(PHASES[at % len(PHASES)])


def abort(writer):
    """A reset."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def moods(origin, writer):
    """False: this connection gets no answer."""
    if origin.phase == "hang":
        await origin.changed.wait()
        abort(writer)
        return False
    if origin.phase == "reset":
        abort(writer)
        return False
    return True


async def http(origin, reader, writer):
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        fields = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        if not await moods(origin, writer):
            return
        if fields.get("upgrade", "").lower() == "websocket":
            writer.write((f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          f"Sec-WebSocket-Accept: {accept_key(fields['sec-websocket-key'])}\r\n\r\n").encode())
            await websocket(reader, writer)
            return
        if path.startswith("/b/"):
            body = pattern(int(path[3:]))
        elif method == "GET":
            body = b"ok"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()


async def websocket(reader, writer):
    """Messages come back unmasked, pings as pongs; a close ends it."""
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7f
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        mask = await reader.readexactly(4)
        payload = masked(await reader.readexactly(size), mask)
        opcode = first & 0xf
        writer.write(frame(10 if opcode == 9 else opcode, payload))
        await writer.drain()
        if opcode == 8:
            return


async def echo(origin, reader, writer):
    if origin.phase == "reset":
        abort(writer)
        return
    while True:
        data = await reader.read(1 << 16)
        if not data:
            break
        if not await moods(origin, writer):
            return
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def proxied_echo(origin, reader, writer):
    """Behind a PROXY header of version 2, which must be there."""
    head = await reader.readexactly(16)
    assert head[:13] == b"\r\n\r\n\0\r\nQUIT\n\x21", head
    await reader.readexactly(struct.unpack("!H", head[14:])[0])
    await echo(origin, reader, writer)


async def work(plan, ready):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*plan["cert"])
    kinds = {"http": (http, None), "https": (http, context), "echo": (echo, None), "tls_echo": (echo, context),
             "proxied_echo": (proxied_echo, None)}
    tasks = []
    for ix, (port, kind, flaps) in enumerate(plan["origins"]):
        origin = Origin(port, *kinds[kind])
        await origin.listen()
        if flaps:
            tasks.append(asyncio.create_task(origin.flap(plan["seed"] + ix)))
    ready.send("ready")
    done = asyncio.Event()
    asyncio.get_running_loop().add_reader(ready.fileno(), done.set)  # the test closes its end, or says so
    await done.wait()
    for task in tasks:
        if task.done():
            task.result()  # one that failed would make the test prove less than it says
    ready.send("done")
    os._exit(0)  # connections of the proxy's pools are still served


def run_origins(plan, ready):
    """The child process. plan: {cert, seed, origins: [(port, kind, flaps)]}."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asyncio.run(work(plan, ready))
