// A Node HTTP server. /f/ID asks every backend for /b/ID/K, all at once, through one keep-alive agent. /t/ID does so after a timer that
// depends on the ID, by the name of the host: callbacks that no read begins.
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
    let body = 'hello\n';
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
