"""A threaded HTTP server: one thread per connection, calls made on the thread that serves.

/f/ID          asks every backend for /b/ID/K, one after another, on connections that the thread keeps
/b/ID[/K]      answers after a delay that depends on the ID, so that answers overtake each other
/hello         six bytes
/size/N        N bytes
/file/N[/ID]   N bytes that the process never touches: the head by send, the body by sendfile
/spliced/N     the same, head and body by one sendfile
/status/N      an answer with that status and no body
/chunked/N     N chunks of five bytes
/hang          never answers
/upload        reads the body, answers with its length
"""

import argparse
import os
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

own = threading.local()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one send, as most servers do.
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "f":
            for index, address in enumerate(options.backend, 1):
                call(address, f"/b/{parts[1]}/{index}")
            self.answer(f"id={parts[1]};\n".encode())
        elif parts[0] == "b":
            time.sleep(int(parts[1]) * 7 % 5 * options.delay_ms / 1000)
            self.answer(f"id={parts[1]};\n".encode())
        elif parts[0] == "size":
            self.answer(b"x" * int(parts[1]))
        elif parts[0] == "file":
            self.send_response(200)
            self.send_header("Content-Length", parts[1])
            self.end_headers()
            self.wfile.flush()
            self.send_file(b"x" * int(parts[1]))
        elif parts[0] == "spliced":
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {parts[1]}\r\n\r\n"
            self.send_file(head.encode() + b"x" * int(parts[1]))
        elif parts[0] == "status":
            self.send_response(int(parts[1]))
            if int(parts[1]) not in (204, 304):
                self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.flush()
        elif parts[0] == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(int(parts[1])):
                self.wfile.write(b"5\r\nhello\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        elif parts[0] == "hang":
            # Until the client goes away.
            self.connection.recv(1)
            self.close_connection = True
        else:
            self.answer(b"hello\n")

    do_HEAD = do_GET
    do_OPTIONS = do_GET
    do_DELETE = do_GET

    def do_POST(self):
        left = int(self.headers.get("Content-Length", 0))
        total = left
        while left > 0:
            left -= len(self.rfile.read(min(left, 65536)))
        self.answer(f"{total}\n".encode())

    do_PUT = do_POST
    do_PATCH = do_POST

    def send_file(self, content):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            sent = 0
            while sent < len(content):
                left = len(content) - sent
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, left)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class UnixHandler(Handler):
    # There is nothing to disable, and setting it fails.
    disable_nagle_algorithm = False


class UnixServer(Server):
    address_family = socket.AF_UNIX

    def server_bind(self):
        # HTTP servers ask for the name of the host that they bind.
        socketserver.TCPServer.server_bind(self)


def call(address, path):
    if not hasattr(own, "connections"):
        own.connections = {}
    connection = own.connections.get(address)
    if connection is None:
        host, port = address.rsplit(":", 1)
        connection = own.connections[address] = HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}")
    return body


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--backend", action="append", default=[], help="HOST:PORT, repeatable")
parser.add_argument("--delay-ms", type=float, default=0)
parser.add_argument("--unix", help="serve at this unix socket, too")
parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="speak TLS")
options = parser.parse_args()
if options.unix:
    unix = UnixServer(options.unix, UnixHandler)
    threading.Thread(target=unix.serve_forever, daemon=True).start()
server = Server((options.host, options.port), Handler)
if options.tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*options.tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
