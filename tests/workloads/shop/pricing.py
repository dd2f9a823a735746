"""What the shop's items cost. The lamp has no price, which is the shop's one bug."""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PRICES = {"chair": 4900, "table": 12900}


class Pricing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        cents = PRICES.get(self.path.removeprefix("/price/"))
        body = json.dumps({"cents": cents}).encode() + b"\n"
        self.send_response(200 if cents is not None else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
options = parser.parse_args()
ThreadingHTTPServer(("127.0.0.1", options.port), Pricing).serve_forever()
