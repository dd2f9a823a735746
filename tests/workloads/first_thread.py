"""An HTTP server on threads beside the process's first one, which ends alone, and not the process, when somebody asks for /end."""

import argparse
import ctypes
import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# exit(2), and not exit_group(2).
EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]

end = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one send, as most servers do.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path == "/end":
            end.set()
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"hello\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
options = parser.parse_args()
server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
threading.Thread(target=server.serve_forever).start()
end.wait()
# The call lets go of the interpreter's lock before it is made.
ctypes.CDLL(None).syscall(EXIT, 0)
