// An HTTP client: what a plan says (see client.py), request by request, with a line for each answer: status, bytes, CRC-32.
// `agent`: http.request with one keep-alive agent. `fetch`: the global fetch.
'use strict';
const fs = require('fs');
const http = require('http');

const [address, plan, mode] = process.argv.slice(2);
const steps = fs
  .readFileSync(plan, 'utf8')
  .split('\n')
  .filter(Boolean)
  .map((line) => {
    const [method, path, size, framing, padding, connection] = line.split(' ');
    const body = Buffer.alloc(Number(size));
    for (let at = 0; at < body.length; at++) body[at] = (at * 31 + 7) % 251;
    const headers = {};
    if (Number(padding)) headers['X-Padding'] = 'p'.repeat(Number(padding));
    return { method, path, body, framing, headers, close: connection === 'close' };
  });

const table = Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value >>> 0;
});

function tell(status, content) {
  let crc = 0xffffffff;
  for (const byte of content) crc = table[(crc ^ byte) & 255] ^ (crc >>> 8);
  console.log(status, content.length, (crc ^ 0xffffffff) >>> 0);
}

// Three at most: what is written at one time goes out in one call, with three buffers for each.
function parts(body) {
  const all = [];
  const size = Math.ceil(body.length / 3);
  for (let at = 0; at < body.length; at += size) all.push(body.subarray(at, at + size));
  return all;
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function withAgent(step) {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    const headers = { ...step.headers };
    if (step.close) headers.Connection = 'close';
    if (step.framing === 'length') headers['Content-Length'] = step.body.length;
    if (step.framing === 'chunked') headers['Transfer-Encoding'] = 'chunked';
    const request = http.request({ host, port, path: step.path, method: step.method, headers, agent }, (response) => {
      const content = [];
      response.on('data', (chunk) => content.push(chunk));
      response.on('end', () => {
        tell(response.statusCode, Buffer.concat(content));
        resolve();
      });
      response.on('error', reject);
    });
    request.on('error', reject);
    if (step.framing !== 'none') for (const part of parts(step.body)) request.write(part);
    request.end();
  });
}

async function withFetch(step) {
  const options = { method: step.method, headers: step.headers };
  if (step.framing === 'length') options.body = step.body;
  if (step.framing === 'chunked') {
    const left = parts(step.body);
    options.duplex = 'half';
    options.body = new ReadableStream({
      pull(controller) {
        const part = left.shift();
        if (part) controller.enqueue(part);
        else controller.close();
      },
    });
  }
  const response = await fetch(`http://${address}${step.path}`, options);
  tell(response.status, Buffer.from(await response.arrayBuffer()));
}

async function main() {
  for (const step of steps) await (mode === 'fetch' ? withFetch(step) : withAgent(step));
  agent.destroy();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
