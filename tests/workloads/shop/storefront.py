"""The shop's pages: asks the catalog what there is, and pricing what it costs."""

import argparse
import json
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def fetch(address, path):
    host, port = address.split(":")
    connection = HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


class Storefront(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        if self.path == "/":
            status, items = fetch(options.catalog, "/items")
            return self.answer(status, items)
        if self.path.startswith("/product/"):
            name = self.path.removeprefix("/product/")
            status, item = fetch(options.catalog, f"/items/{name}")
            if status == 200:
                status, price = fetch(options.pricing, f"/price/{name}")
                item = {"item": item, "price": price}
            return self.answer(status, item)
        return self.answer(404, None)

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        total = 0
        for name in order["items"]:
            status, price = fetch(options.pricing, f"/price/{name}")
            if status != 200:
                return self.answer(502, None)
            total += price["cents"]
        return self.answer(201, {"total": total})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--catalog", required=True)
parser.add_argument("--pricing", required=True)
options = parser.parse_args()
ThreadingHTTPServer(("127.0.0.1", options.port), Storefront).serve_forever()
