"""A threaded HTTP server whose calls are made by other threads than those that serve.

/f/ID          a new thread asks every backend for /b/ID/K, one after another, and is joined before the answer
/pool/ID       the only thread of a pool asks instead: the first such request starts it
/late/ID       answered at once; a new thread waits until somebody asks for /release
/release/ID    answered once the thread that has waited longest has made its calls
"""

import argparse
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one send, as most servers do.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        _, work, identity = self.path.split("/")
        if work == "f":
            thread = threading.Thread(target=call_all, args=(identity,))
            thread.start()
            thread.join()
        elif work == "pool":
            pool.submit(call_all, identity).result()
        elif work == "late":
            released, done = threading.Event(), threading.Event()
            threading.Thread(target=call_late, args=(identity, released, done), daemon=True).start()
            waiting.put((released, done))
        elif work == "release":
            released, done = waiting.get_nowait()
            released.set()
            if not done.wait(20):
                raise RuntimeError("the late calls do not end")
        body = f"id={identity};\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def call_all(identity):
    for index, address in enumerate(options.backend, 1):
        host, port = address.rsplit(":", 1)
        connection = HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", f"/b/{identity}/{index}")
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"/b/{identity}/{index}: {response.status}")


def call_late(identity, released, done):
    released.wait()
    call_all(identity)
    done.set()


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--backend", action="append", default=[], help="HOST:PORT, repeatable")
options = parser.parse_args()
pool = ThreadPoolExecutor(max_workers=1)
waiting = queue.Queue()
Server(("127.0.0.1", options.port), Handler).serve_forever()
