#!/usr/bin/env python3
"""resume.py PORT CERT BODY SECONDS THREADS: a TLS 1.3 connection a request, each resumed by the newest ticket of the one before
it; an answer with other bytes and a handshake that is not resumed are errors. Prints as loads.py reads it."""
import socket
import ssl
import sys
import threading
import time

port, cert, body_file, seconds, thread_cnt = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
with open(body_file, "rb") as f:
    wanted = f.read()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(cert)
context.minimum_version = ssl.TLSVersion.TLSv1_3
request = b"GET /%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % body_file.rsplit("/", 1)[-1].encode()
times_us, errors = [], []


def ask(session):
    plain = socket.create_connection(("127.0.0.1", port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the request waits for the ACK of the client's Finished
    with context.wrap_socket(plain, server_hostname="localhost", session=session) as s:
        s.sendall(request)
        got = b""
        while data := s.recv(65536):
            got += data
        is_good = got.startswith(b"HTTP/1.1 200 ") and got.split(b"\r\n\r\n", 1)[1] == wanted and s.session_reused == (session is not None)
        return s.session, is_good


def client(begin, end):
    try:
        session, _ = ask(None)
        begin.wait()
        while time.monotonic() < end[0]:
            before = time.monotonic()
            session, is_good = ask(session)
            times_us.append(int((time.monotonic() - before) * 1e6))
            if not is_good:
                errors.append("wrong answer, or not resumed")
    except (OSError, ValueError, threading.BrokenBarrierError) as e:
        errors.append(str(e))
        begin.abort()


def main():
    begin, end = threading.Barrier(thread_cnt + 1), [0.0]
    threads = [threading.Thread(target=client, args=(begin, end)) for _ in range(thread_cnt)]
    end[0] = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    try:
        begin.wait(10)
    except threading.BrokenBarrierError:
        pass
    started = time.monotonic()
    for thread in threads:
        thread.join()
    times_us.sort()
    cnt = max(len(times_us), 1)
    at = times_us or [0]
    print(f"RESULT {len(times_us)} {int((time.monotonic() - started) * 1e6)} {at[cnt // 2]} {at[cnt * 99 // 100]} {len(errors)}")
    if errors:
        print(errors[0], file=sys.stderr)


main()
