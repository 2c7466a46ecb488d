// A WebSocket server of npm's "ws" on loopback. Usage: node ws_server.js PORT [CHAIN_FILE KEY_FILE]
// It echoes each message as it came, but for texts that ask for something. What it sees goes to stderr, a JSON a line.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const { WebSocketServer } = require('ws');

const [port, chain, key] = process.argv.slice(2);
const tell = (event, more) => process.stderr.write(JSON.stringify({ event, ...more }) + '\n');
const server = chain ? https.createServer({ cert: fs.readFileSync(chain), key: fs.readFileSync(key) }) : http.createServer();
const sockets = new WebSocketServer({ server, maxPayload: 128 << 20, perMessageDeflate: { threshold: 0 } });

function sendFragments(ws, cnt, size) {
  for (let ix = 0; ix < cnt; ix++) ws.send(Buffer.alloc(size, ix & 255), { binary: true, fin: ix === cnt - 1 });
}

const asked = {
  close: (ws, code, reason) => ws.close(Number(code), reason),
  terminate: (ws) => ws.terminate(),
  fragments: (ws, cnt, size) => sendFragments(ws, Number(cnt), Number(size)),
  ping: (ws, data) => {
    ws.once('pong', (got) => ws.send('ponged ' + got));
    ws.ping(data);
  },
};

sockets.on('connection', (ws, request) => {
  tell('open', { headers: request.headers, protocol: ws.protocol, extensions: ws.extensions });
  ws.send('welcome'); // right behind the 101
  ws.on('message', (data, isBinary) => {
    const [word, ...args] = isBinary || data.length > 100 ? [] : data.toString().split(':');
    if (word in asked) asked[word](ws, ...args);
    else ws.send(data, { binary: isBinary });
  });
  ws.on('ping', (data) => tell('ping', { data: data.toString() }));
  ws.on('close', (code, reason) => tell('close', { code, reason: reason.toString() }));
  ws.on('error', (error) => tell('error', { message: error.message }));
});
server.listen(Number(port), '127.0.0.1', () => tell('listening'));
