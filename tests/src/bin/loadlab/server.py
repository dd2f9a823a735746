"""A threaded HTTP server: one thread per connection, head and body in one send. The next port tells how many requests were served."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

port = int(sys.argv[1])
served = count()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.server.server_port == port:
            next(served)
            body = b"hello\n"
        else:
            # The repr of a counter is `count(N)`; reading it does not advance it.
            body = repr(served)[6:-1].encode()
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


threading.Thread(target=Server(("127.0.0.1", port + 1), Handler).serve_forever, args=(3600,), daemon=True).start()
Server(("127.0.0.1", port), Handler).serve_forever(3600)
