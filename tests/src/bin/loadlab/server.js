// A Node HTTP server. The next port tells how many requests were served.
'use strict';
const http = require('http');

const port = Number(process.argv[2]);
let served = 0;

function answer(response, body) {
  response.setHeader('Content-Length', body.length);
  response.end(body);
}

http
  .createServer((request, response) => {
    served += 1;
    answer(response, 'hello\n');
  })
  .listen(port, '127.0.0.1');
http.createServer((request, response) => answer(response, `${served}\n`)).listen(port + 1, '127.0.0.1');
