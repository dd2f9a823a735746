"""A server that sends what it is told to send, on the thread that serves.

/HEX    connects to the backend, sends these bytes in one send, waits for an answer, and gives its own

Requests that come in one read are served one after the other, when all of them were read.
"""

import argparse
import socket
import threading

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(connection):
    unread = b""
    while True:
        while b"\r\n\r\n" not in unread:
            part = connection.recv(65536)
            if not part:
                connection.close()
                return
            unread += part
        head, _, unread = unread.partition(b"\r\n\r\n")
        call(bytes.fromhex(head.split(b" ")[1][1:].decode()))
        connection.sendall(ANSWER)


def call(request):
    backend = socket.create_connection(("127.0.0.1", options.backend), timeout=60)
    backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    backend.sendall(request)
    answer = b""
    while not answer.endswith(b"ok"):
        part = backend.recv(65536)
        if not part:
            break
        answer += part
    backend.close()


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--backend", type=int, required=True)
options = parser.parse_args()
listener = socket.create_server(("127.0.0.1", options.port), backlog=64)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
