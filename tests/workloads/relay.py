"""A server that sends what it is told to send, on the thread that serves.

/HEX    connects to the backend, sends these bytes in one send, waits for an answer, and gives its own; a "-" between two digits begins another send, a "+"
        another buffer of the same send

With --keep each connection has one to the backend for all its requests, and waits for an answer to each head that it sends.

Requests that come in one read are served one after the other, when all of them were read.
"""

import argparse
import socket
import threading

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(connection):
    unread = b""
    backend = connect() if options.keep else None
    while True:
        while b"\r\n\r\n" not in unread:
            part = connection.recv(65536)
            if not part:
                connection.close()
                if backend:
                    backend.close()
                return
            unread += part
        head, _, unread = unread.partition(b"\r\n\r\n")
        sends = head.split(b" ")[1][1:].decode().split("-")
        sends = [[bytes.fromhex(part) for part in send.split("+")] for send in sends]
        if backend:
            call(backend, sends, b"".join(sum(sends, [])).count(b"\r\n\r\n"))
        else:
            once = connect()
            call(once, sends, 1)
            once.close()
        connection.sendall(ANSWER)


def connect():
    backend = socket.create_connection(("127.0.0.1", options.backend), timeout=60)
    backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return backend


def call(backend, sends, answers):
    for parts in sends:
        if len(parts) == 1:
            backend.sendall(parts[0])
        else:
            sent = backend.sendmsg(parts)
            assert sent == sum(map(len, parts)), sent
    answer = b""
    while answer.count(ANSWER) < answers:
        part = backend.recv(65536)
        if not part:
            break
        answer += part


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--backend", type=int, required=True)
parser.add_argument("--keep", action="store_true")
options = parser.parse_args()
listener = socket.create_server(("127.0.0.1", options.port), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
