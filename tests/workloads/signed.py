"""Requests on a connection whose segments are signed (RFC 2385): signed.py PORT COUNT

Both ends, on loopback. Says how many were answered.
"""

import socket
import struct
import sys

# linux/tcp.h
TCP_MD5SIG, KEY_ROOM = 14, 80
KEY = b"of both ends"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

port, count = int(sys.argv[1]), int(sys.argv[2])


def sign(end):
    address = struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton("127.0.0.1"))
    key = struct.pack(f"=128sBBHi{KEY_ROOM}s", address, 0, 0, len(KEY), 0, KEY)
    end.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, key)


def read(end, length):
    data = b""
    while len(data) < length:
        more = end.recv(length - len(data))
        assert more, "the other end is gone"
        data += more
    return data


with socket.socket() as listener, socket.socket() as client:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    for end in (listener, client):
        sign(end)
    listener.listen()
    client.connect(("127.0.0.1", port))
    server, _ = listener.accept()
    for number in range(count):
        request = f"GET /b/{number} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
        client.sendall(request)
        assert read(server, len(request)) == request
        server.sendall(ANSWER)
        assert read(client, len(ANSWER)) == ANSWER
    server.close()
    print(f"{count} answered")
