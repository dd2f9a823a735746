// A Node HTTP server. /f/ID asks every backend for /b/ID/K, all at once, through one keep-alive agent. /t/ID does so after a timer that
// depends on the ID, by the name of the host: callbacks that no read begins. /s/N/SIZE answers with N chunks of SIZE bytes, /u with the number of bytes
// that it was sent.
'use strict';
const http = require('http');
const { parseArgs } = require('util');

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    backend: { type: 'string', multiple: true, default: [] },
    'max-sockets': { type: 'string', default: 'Infinity' },
  },
});
const agent = new http.Agent({ keepAlive: true, maxSockets: Number(options['max-sockets']) });

function call(address, path) {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    http
      .get({ host, port, path, agent }, (response) => {
        response.resume();
        response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(path))));
      })
      .on('error', reject);
  });
}

http
  .createServer(async (request, response) => {
    const parts = request.url.split('/');
    if (parts[1] === 's') {
      const [count, size] = [Number(parts[2]), Number(parts[3])];
      for (let n = 0; n < count; n++) {
        response.write(Buffer.alloc(size, 'x'));
        await new Promise((resolve) => setImmediate(resolve));
      }
      response.end();
      return;
    }
    let body = 'hello\n';
    if (parts[1] === 'u') {
      let count = 0;
      for await (const chunk of request) count += chunk.length;
      body = `${count}\n`;
    }
    if (parts[1] === 'f' || parts[1] === 't') {
      try {
        const later = parts[1] === 't';
        if (later) await new Promise((resolve) => setTimeout(resolve, (Number(parts[2]) * 7) % 5));
        const backends = options.backend.map((address) => (later ? address.replace('127.0.0.1', 'localhost') : address));
        await Promise.all(backends.map((address, index) => call(address, `/b/${parts[2]}/${index + 1}`)));
        body = `id=${parts[2]};\n`;
      } catch (error) {
        response.statusCode = 502;
      }
    }
    response.setHeader('Content-Length', body.length);
    response.end(body);
  })
  .listen(Number(options.port), '127.0.0.1');
