// A WebSocket client of npm's "ws". Usage: node ws_client.js PORT CA_FILE|- SCENARIO [ARGUMENT...]
// Exit code 0 and "ok" on stdout when the scenario went as it must.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const WebSocket = require('ws');

const [port, ca, scenario, ...args] = process.argv.slice(2);
const NAME = 'a.test';

function connect(options = {}) {
  const tls = ca === '-' ? {} : { ca: fs.readFileSync(ca), servername: NAME };
  const ws = new WebSocket(`${ca === '-' ? 'ws' : 'wss'}://127.0.0.1:${port}/chat?x=1`, options.protocols || [],
    { ...tls, headers: { Host: NAME }, maxPayload: 128 << 20, perMessageDeflate: false, ...options });
  ws.got = [];
  ws.waiting = [];
  ws.on('message', (data, isBinary) => {
    const message = { data, isBinary };
    if (ws.waiting.length > 0) ws.waiting.shift().resolve(message);
    else ws.got.push(message);
  });
  ws.closed = new Promise((resolve) => ws.on('close', (code, reason) => {
    for (const { reject } of ws.waiting) reject(new Error(`closed: ${code} ${reason}`));
    resolve({ code, reason: reason.toString() });
  }));
  ws.next = () => ws.got.length > 0 ? Promise.resolve(ws.got.shift())
    : new Promise((resolve, reject) => ws.waiting.push({ resolve, reject }));
  return new Promise((resolve, reject) => {
    ws.on('error', reject);
    ws.once('open', async () => {
      assert.equal((await ws.next()).data.toString(), 'welcome');
      resolve(ws);
    });
  });
}

async function end(ws) {
  ws.close(1000, 'done');
  assert.equal((await ws.closed).code, 1000);
}

const scenarios = {
  async messages(cnt, deflate) {
    const ws = await connect({ perMessageDeflate: deflate === 'deflate' && { threshold: 0 } });
    assert.equal(ws.extensions.includes('permessage-deflate'), deflate === 'deflate');
    const sizes = [0, 1, 5, 125, 126, 127, 1000, 4096, 70000];
    const message = (ix) => ix % 2 ? Buffer.alloc(sizes[ix % sizes.length], ix & 255) : `${ix} `.repeat(ix % 50 + 1);
    const send = async () => {
      for (let ix = 0; ix < cnt; ix++) {
        await new Promise((resolve, reject) => ws.send(message(ix), (error) => error ? reject(error) : resolve()));
      }
    };
    const receive = async () => {
      for (let ix = 0; ix < cnt; ix++) {
        const { data, isBinary } = await ws.next();
        assert.equal(isBinary, ix % 2 === 1, `kind of message ${ix}`);
        assert(data.equals(Buffer.from(message(ix))), `message ${ix}`);
      }
    };
    await Promise.all([send(), receive()]);
    await end(ws);
  },
  async fragments() {
    const ws = await connect();
    const parts = Array.from({ length: 200 }, (_, ix) => crypto.randomBytes(ix * 17));
    const pongs = [];
    ws.on('pong', (data) => pongs.push(data.toString()));
    parts.forEach((part, ix) => {
      ws.send(part, { binary: true, fin: ix === parts.length - 1 });
      if (ix % 50 === 0) ws.ping(`between ${ix}`); // control frames may come between fragments (RFC 6455, 5.4)
    });
    assert((await ws.next()).data.equals(Buffer.concat(parts)));
    assert.deepEqual(pongs, ['between 0', 'between 50', 'between 100', 'between 150']);
    ws.send('fragments:300:1000');
    const { data } = await ws.next();
    assert.equal(data.length, 300000);
    for (let ix = 0; ix < 300; ix++) assert.equal(data[ix * 1000], ix & 255);
    await end(ws);
  },
  async ping() {
    const ws = await connect();
    const pong = new Promise((resolve) => ws.once('pong', (data) => resolve(data.toString())));
    ws.ping('from the client');
    assert.equal(await pong, 'from the client');
    ws.send('ping:from the server');
    assert.equal((await ws.next()).data.toString(), 'ponged from the server');
    await end(ws);
  },
  async big(mib) {
    const ws = await connect();
    const data = crypto.randomBytes(Number(mib) << 20);
    ws.send(data);
    assert((await ws.next()).data.equals(data));
    await end(ws);
  },
  async close() {
    const ws = await connect();
    ws.send('close:4001:by the server');
    assert.deepEqual(await ws.closed, { code: 4001, reason: 'by the server' });
    const second = await connect();
    second.close(4002, 'by the client');
    assert.deepEqual(await second.closed, { code: 4002, reason: 'by the client' });
    const third = await connect();
    third.send('terminate');
    assert.equal((await third.closed).code, 1006);
  },
  async protocols() {
    const ws = await connect({ protocols: ['chat.v2', 'chat.v1'] });
    assert.equal(ws.protocol, 'chat.v2');
    await end(ws);
  },
  // Silent for that long, and then as alive as before.
  async idle(ms) {
    const ws = await connect();
    const early = await Promise.race([ws.closed, new Promise((resolve) => setTimeout(resolve, Number(ms)))]);
    assert.equal(early, undefined, 'closed while it was silent');
    ws.send('still here');
    assert.equal((await ws.next()).data.toString(), 'still here');
    await end(ws);
  },
};

scenarios[scenario](...args).then(() => { console.log('ok'); process.exit(0); }, (error) => {
  console.error(error);
  process.exit(1);
});
