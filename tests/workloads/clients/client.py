"""HTTP clients: what a plan says, request by request, with a line for each answer: status, bytes, CRC-32.

A line of the plan is METHOD PATH BODY FRAMING PADDING CONNECTION: BODY bytes of a fixed pattern, framed by `length` or `chunked`; PADDING bytes in a
header of their own; `close` makes the request the last one of its connection.

requests    the library of that name
asyncio     streams of asyncio
fionread    sockets whose reads are as large as FIONREAD says
edge        sixteen connections at once, edge-triggered epoll
websocket   frames behind an upgrade, which look like requests
"""

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
import zlib

host, port = sys.argv[1].rsplit(":", 1)
address = (host, int(port))
mode = sys.argv[3]


class Step:
    def __init__(self, line):
        self.method, self.path, body, self.framing, padding, connection = line.split()
        size, self.padding = int(body), int(padding)
        once = bytes((at * 31 + 7) % 251 for at in range(251))
        self.body = (once * (size // 251 + 1))[:size]
        self.has_body = self.framing != "none"
        self.close = connection == "close"

    def headers(self):
        headers = {}
        if self.padding:
            headers["X-Padding"] = "p" * self.padding
        if self.close:
            headers["Connection"] = "close"
        return headers

    def parts(self, tag=""):
        """Head and body, apart."""
        head = f"{self.method} {self.path}{tag} HTTP/1.1\r\nHost: {sys.argv[1]}\r\n"
        for name, value in self.headers().items():
            head += f"{name}: {value}\r\n"
        body = self.body
        if self.framing == "length":
            head += f"Content-Length: {len(body)}\r\n"
        elif self.framing == "chunked":
            head += "Transfer-Encoding: chunked\r\n"
            chunks = [body[at : at + 7000] for at in range(0, len(body), 7000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
        return head.encode() + b"\r\n", body


def tell(status, content):
    print(status, len(content), zlib.crc32(content))


def answer(data, method):
    """Status and body of the answer in these bytes and how many of them it is, or None while it is not complete."""
    head, separator, rest = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status, start = int(lines[0].split()[1]), len(head) + 4
    if method == "HEAD":
        return status, b"", start
    if fields.get("transfer-encoding") != "chunked":
        length = int(fields["content-length"])
        return (status, rest[:length], start + length) if len(rest) >= length else None
    content, at = b"", 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(rest[at:end], 16)
        if len(rest) < end + 2 + size + 2:
            return None
        content += rest[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
        if size == 0:
            return status, content, start + at


def with_requests():
    import requests

    session = requests.Session()
    for step in steps:
        data = None
        if step.framing == "length":
            data = step.body
        elif step.framing == "chunked":
            data = (step.body[at : at + 7000] for at in range(0, len(step.body), 7000))
        url = f"http://{sys.argv[1]}{step.path}"
        response = session.request(step.method, url, data=data, headers=step.headers(), timeout=60)
        tell(response.status_code, response.content)


async def with_asyncio():
    streams = None
    for step in steps:
        reader, writer = streams = streams or await asyncio.open_connection(*address)
        head, body = step.parts()
        writer.write(head)
        for at in range(0, len(body), 50000):
            writer.write(body[at : at + 50000])
            await writer.drain()
        data = b""
        while not (found := answer(data, step.method)):
            more = await asyncio.wait_for(reader.read(65536), 60)
            if not more:
                raise RuntimeError(f"{step.path}: the connection ended")
            data += more
        tell(*found[:2])
        if step.close:
            writer.close()
            await writer.wait_closed()
            streams = None


def available(connection):
    return struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, b"\0" * 4))[0]


def with_fionread():
    connection = None
    for step in steps:
        connection = connection or socket.create_connection(address)
        for part in step.parts():
            connection.sendall(part)
        data = b""
        while not (found := answer(data, step.method)):
            if not select.select([connection], [], [], 60)[0]:
                raise RuntimeError(f"{step.path}: nothing to read")
            count = available(connection)
            if count == 0:
                raise RuntimeError(f"{step.path}: it is readable, and FIONREAD says 0 behind {len(data)} bytes")
            more = connection.recv(count)
            if len(more) != count:
                raise RuntimeError(f"{step.path}: FIONREAD says {count}, and {len(more)} bytes came")
            data += more
        tell(*found[:2])
        if step.close:
            connection.close()
            connection = None


class Edge:
    """One connection that does the plan by itself, driven by events that are told once."""

    def __init__(self, poll, number):
        self.number, self.steps, self.results = number, list(steps), []
        self.socket = socket.create_connection(address)
        self.socket.setblocking(False)
        self.data = self.out = b""
        poll.register(self.socket, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self.begin()

    def begin(self):
        self.out = b"".join(self.steps[0].parts(f"?connection={self.number}"))

    def work(self):
        """Does all that can be done; False when the plan is done."""
        while True:
            try:
                while self.out:
                    self.out = self.out[self.socket.send(self.out) :]
            except BlockingIOError:
                pass
            try:
                while more := self.socket.recv(16384):
                    self.data += more
            except BlockingIOError:
                pass
            found = answer(self.data, self.steps[0].method)
            if not found:
                return True
            self.results.append(found[:2])
            self.data = self.data[found[2] :]
            self.steps.pop(0)
            if not self.steps:
                return False
            self.begin()


def with_edges():
    poll = select.epoll()
    connections = [Edge(poll, number) for number in range(16)]
    busy = {connection.socket.fileno(): connection for connection in connections}
    while busy:
        events = poll.poll(60)
        if not events:
            raise RuntimeError(f"no event for {len(busy)} connections")
        for descriptor, _ in events:
            if descriptor in busy and not busy[descriptor].work():
                del busy[descriptor]
    for connection in connections:
        for result in connection.results:
            tell(*result)
        connection.socket.close()


def with_websocket():
    connection = socket.create_connection(address)
    connection.settimeout(60)
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    head = f"GET /upgrade/chat HTTP/1.1\r\nHost: {sys.argv[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n"
    connection.sendall(head.encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1)
    if b" 101 " not in data:
        raise RuntimeError(data)
    print(101)
    request = b"GET /in/a/frame HTTP/1.1\r\nHost: a\r\n\r\n"
    for payload in [b"x", request, request * 3, request * 1700, b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"]:
        # The mask is zero, so that the payload stands in the stream as it is.
        if len(payload) < 126:
            frame = struct.pack("!BB", 0x82, 0x80 | len(payload))
        elif len(payload) < 65536:
            frame = struct.pack("!BBH", 0x82, 0x80 | 126, len(payload))
        else:
            frame = struct.pack("!BBQ", 0x82, 0x80 | 127, len(payload))
        frame += b"\0\0\0\0"
        connection.sendall(frame)
        connection.sendall(payload)
        wanted, back = frame + payload, b""
        while len(back) < len(wanted):
            more = connection.recv(65536)
            if not more:
                raise RuntimeError("the connection ended")
            back += more
        if back != wanted:
            raise RuntimeError("a frame came back changed")
        tell("frame", back)
    connection.close()


with open(sys.argv[2]) as plan:
    steps = [Step(line) for line in plan if line.strip()]
if mode == "requests":
    with_requests()
elif mode == "asyncio":
    asyncio.run(with_asyncio())
elif mode == "fionread":
    with_fionread()
elif mode == "edge":
    with_edges()
elif mode == "websocket":
    with_websocket()
else:
    sys.exit(f"no mode {mode}")
