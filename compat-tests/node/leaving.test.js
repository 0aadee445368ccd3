// Clients that leave before their answer is whole: whatever way they go, their slot is free again.

import assert from 'node:assert/strict';
import { afterEach } from 'node:test';
import test from 'node:test';

import OpenAI from 'openai';

import { connect, endless, eventually, eventuallyAllFree, slots } from './client.js';

const client = connect();

afterEach(() => eventuallyAllFree());

const taken = async () => {
  const { free, all } = await slots();
  return all - free;
};

test('a loop over a stream that ends early', async () => {
  for await (const chunk of await client.chat.completions.create(endless({ stream: true }))) {
    if (!chunk.choices[0].delta.content) continue;
    assert.equal(await taken(), 1);
    break;
  }
});

test('a stream that is aborted', async () => {
  const controller = new AbortController();
  const stream = await client.chat.completions.create(endless({ stream: true }), { signal: controller.signal });
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    if (chunks === 4) controller.abort();
    // What came before the abort may still be read; what the whole answer would be is far more.
    assert(chunks < 200);
  }
  assert(chunks >= 4);
});

test('the SDK’s own runner, aborted', async () => {
  const stream = client.chat.completions.stream(endless());
  stream.on('content', () => stream.abort());
  await assert.rejects(stream.done(), OpenAI.APIUserAbortError);
});

test('a whole answer that is aborted', async () => {
  const controller = new AbortController();
  const request = client.chat.completions.create(endless(), { signal: controller.signal });
  const rejected = assert.rejects(request, OpenAI.APIUserAbortError);
  await eventually(async () => (await taken()) === 1, 'the request takes a slot');
  controller.abort();
  await rejected;
});

test('the client’s own timeout', async () => {
  const request = client.chat.completions.create(endless(), { timeout: 1000 });
  await assert.rejects(request, OpenAI.APIConnectionTimeoutError);
});
