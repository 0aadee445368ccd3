// Chat completions that are stored: found, listed, changed and deleted.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';

import { all, ask, connect, ids, missing } from './client.js';
import { MODEL } from './system.js';

const client = connect();
const { completions } = client.chat;
const keep = (options) => completions.create(ask('Name three colours.', { store: true, max_tokens: 4, ...options }));
const isGone = missing('completion_id');

test('a stored completion is found as it was answered', async () => {
  const made = await keep({ metadata: { topic: 'colours' }, n: 2, logprobs: true });
  assert.equal(made.choices.length, 2);
  const kept = await completions.retrieve(made.id);
  assert.deepEqual(kept, made);
  assert.deepEqual(kept.metadata, { topic: 'colours' });
});

test('a streamed one is found as soon as it has ended', async () => {
  const chunks = await all(keep({ stream: true }));
  const kept = await completions.retrieve(chunks[0].id);
  const text = chunks.map(({ choices }) => choices[0].delta.content ?? '').join('');
  assert(text);
  assert.equal(kept.choices[0].message.content, text);
  assert.equal(kept.choices[0].finish_reason, chunks.at(-1).choices[0].finish_reason);
});

test('nothing is stored that was not asked for', async () => {
  for (const store of [undefined, false]) {
    const { id } = await keep({ store });
    await assert.rejects(completions.retrieve(id), isGone);
  }
});

test('lists are paged and filtered', async () => {
  const mark = { list: 'paged' };
  const made = [];
  for (const number of ['0', '1', '2']) made.push((await keep({ metadata: { ...mark, number }, max_tokens: 1 })).id);
  await keep({ max_tokens: 1 });
  assert.deepEqual(await ids(completions.list({ metadata: mark })), made);
  assert.deepEqual(await ids(completions.list({ metadata: mark, limit: 1 })), made, 'the SDK goes through all pages');
  assert.deepEqual(await ids(completions.list({ metadata: mark, order: 'desc' })), made.toReversed());
  assert.deepEqual(await ids(completions.list({ metadata: { ...mark, number: '1' } })), made.slice(1, 2));
  assert.deepEqual(await ids(completions.list({ metadata: { list: 'other' } })), []);
  assert.deepEqual(await ids(completions.list({ metadata: mark, model: MODEL })), made);
  assert.deepEqual(await ids(completions.list({ metadata: mark, model: 'other' })), []);
  const page = await completions.list({ metadata: mark, limit: 2 });
  assert.deepEqual(page.data.map(({ id }) => id), made.slice(0, 2));
  assert(page.hasNextPage());
  const next = await page.getNextPage();
  assert.deepEqual(next.data.map(({ id }) => id), made.slice(2));
  assert(!next.hasNextPage());
  await assert.rejects(completions.list({ limit: 101 }), { constructor: OpenAI.BadRequestError, param: 'limit' });
});

test('metadata is replaced', async () => {
  const made = await keep({ metadata: { a: '1', b: '2' } });
  const updated = await completions.update(made.id, { metadata: { b: '3' } });
  assert.deepEqual(updated, { ...made, metadata: { b: '3' } });
  assert.deepEqual(await completions.retrieve(made.id), updated);
  const metadata = { ['k'.repeat(65)]: 'x' };
  await assert.rejects(completions.update(made.id, { metadata }), { constructor: OpenAI.BadRequestError, param: 'metadata' });
});

test('messages are listed', async () => {
  const parts = [
    { type: 'text', text: 'Name ' },
    { type: 'text', text: 'colours.' },
  ];
  const { id } = await keep({
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: parts },
    ],
  });
  const messages = await all(completions.messages.list(id));
  assert.deepEqual(
    messages.map(({ role, content, content_parts }) => ({ role, content, content_parts })),
    [
      { role: 'system', content: 'Be brief.', content_parts: null },
      { role: 'user', content: 'Name colours.', content_parts: parts },
    ],
  );
  assert.deepEqual(await all(completions.messages.list(id, { limit: 1 })), messages);
  assert.deepEqual(await all(completions.messages.list(id, { order: 'desc' })), messages.toReversed());
});

test('what is deleted is gone', async () => {
  const { id } = await keep();
  assert.deepEqual(await completions.delete(id), { id, object: 'chat.completion.deleted', deleted: true });
  await assert.rejects(completions.retrieve(id), isGone);
  await assert.rejects(completions.delete(id), isGone);
  await assert.rejects(all(completions.messages.list(id)), isGone);
});
