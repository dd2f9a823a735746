// What the shop sells.
'use strict';
const http = require('http');
const { parseArgs } = require('util');

const { values: options } = parseArgs({ options: { port: { type: 'string' } } });
const items = { chair: 'A chair', table: 'A table', lamp: 'A lamp' };

http
  .createServer((request, response) => {
    const name = request.url.split('/')[2];
    const found = name === undefined ? Object.keys(items) : items[name];
    const body = JSON.stringify(found === undefined ? null : found) + '\n';
    response.writeHead(found === undefined ? 404 : 200, {
      'Content-Type': 'application/json',
      'Content-Length': Buffer.byteLength(body),
    });
    response.end(body);
  })
  .listen(Number(options.port), '127.0.0.1');
