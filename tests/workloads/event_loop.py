"""An asyncio HTTP server on one thread. /f/ID asks every backend for /b/ID/K, one after another, on pooled connections; with --forward each call
carries the traceparent of its request."""

import argparse
import asyncio

pool = {}


async def head_of(reader):
    """First line and headers of the next message, or None at the end of the connection."""
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None, {}
    lines = text.split("\r\n")
    return lines[0], {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}


async def call(address, path, context):
    idle = pool.setdefault(address, [])
    if idle:
        reader, writer = idle.pop()
    else:
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
    line = f"traceparent: {context}\r\n" if context else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n{line}\r\n".encode())
    line, headers = await head_of(reader)
    body = await reader.readexactly(int(headers["content-length"]))
    if line.split()[1] != "200":
        raise RuntimeError(f"{path}: {line}")
    idle.append((reader, writer))
    return body


async def serve(reader, writer):
    while True:
        line, headers = await head_of(reader)
        if line is None:
            break
        await reader.readexactly(int(headers.get("content-length", 0)))
        parts = line.split()[1].strip("/").split("/")
        body = b"hello\n"
        if parts[0] == "f":
            context = headers.get("traceparent") if options.forward else None
            for index, address in enumerate(options.backend, 1):
                await call(address, f"/b/{parts[1]}/{index}", context)
            body = f"id={parts[1]};\n".encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", options.port, backlog=128)
    await server.serve_forever()


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--backend", action="append", default=[], help="HOST:PORT, repeatable")
parser.add_argument("--forward", action="store_true")
options = parser.parse_args()
asyncio.run(main())
