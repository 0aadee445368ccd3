// Files, and batches of requests that are made from them: from the upload to the answers.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI, { toFile } from 'openai';

import { all, ask, connect, ended, endless, eventually, eventuallyAllFree, ids, missing } from './client.js';

const client = connect();
const { batches, files } = client;
const ENDPOINT = '/v1/chat/completions';

const line = (custom_id, body) => ({ custom_id, method: 'POST', url: ENDPOINT, body });
const short = (custom_id, options) => line(custom_id, ask(`Say ${custom_id}.`, { max_tokens: 4, ...options }));
const jsonl = (lines) => lines.map((line) => `${JSON.stringify(line)}\n`).join('');

async function upload(content, options) {
  return files.create({ file: await toFile(Buffer.from(content), 'requests.jsonl'), purpose: 'batch', ...options });
}

/** A batch of these lines. */
async function begin(content, options) {
  const { id } = await upload(content);
  return batches.create({ input_file_id: id, endpoint: ENDPOINT, completion_window: '24h', ...options });
}

/** What an answer says, whenever it was asked for and whatever of its prompt was known. */
const said = ({ id, created, usage, ...rest }) => rest;

const read = async (id) => Buffer.from(await (await files.content(id)).arrayBuffer());

/** The answers in a file that a batch left, by the names of their requests. */
async function answers(id) {
  const lines = (await read(id)).toString().trimEnd().split('\n');
  return Object.fromEntries(lines.map((line) => JSON.parse(line)).map((answer) => [answer.custom_id, answer]));
}

test('a file is kept byte for byte until it is deleted', async () => {
  const isGone = missing('file_id');
  // Longer than what is kept in one piece.
  const content = Buffer.from(Array.from({ length: 2_500_000 }, (_, at) => (at * at) >> 7));
  const expires_after = { anchor: 'created_at', seconds: 3600 };
  const made = await upload(content, { purpose: 'user_data', expires_after });
  assert.match(made.id, /^file-/);
  assert.deepEqual([made.filename, made.purpose, made.bytes], ['requests.jsonl', 'user_data', content.length]);
  assert.equal(made.expires_at, made.created_at + 3600);
  assert.deepEqual(await files.retrieve(made.id), made);
  assert.deepEqual(await files.waitForProcessing(made.id), made);
  assert((await read(made.id)).equals(content));
  assert.deepEqual(await files.delete(made.id), { id: made.id, object: 'file', deleted: true });
  for (const id of [made.id, 'file-none']) {
    await assert.rejects(files.retrieve(id), isGone);
    await assert.rejects(files.content(id), isGone);
    await assert.rejects(files.delete(id), isGone);
  }
  assert(!(await ids(files.list({ limit: 100 }))).includes(made.id));
  await assert.rejects(upload('x', { purpose: 'vision' }), { constructor: OpenAI.BadRequestError, param: 'purpose' });
});

test('files are listed, page by page', async () => {
  const made = [];
  for (const purpose of ['user_data', 'batch', 'user_data']) made.unshift((await upload('x', { purpose })).id);
  const listed = await ids(files.list({ limit: 100 }));
  assert.deepEqual(listed.slice(0, 3), made, 'the newest first');
  assert.deepEqual(await ids(files.list({ limit: 2 })), listed, 'the SDK goes through all pages');
  assert.deepEqual(await ids(files.list({ limit: 2, order: 'asc' })), listed.toReversed());
  const ofUsers = await ids(files.list({ limit: 1, purpose: 'user_data' }));
  assert.deepEqual(ofUsers.slice(0, 2), [made[0], made[2]]);
  const page = await files.list({ limit: 2 });
  assert(page.hasNextPage());
  assert.equal((await page.getNextPage()).data[0].id, made[2]);
  await assert.rejects(files.list({ after: 'file-none' }), { constructor: OpenAI.BadRequestError, param: 'after' });
});

test('a batch, from the upload to the answers', async () => {
  const numbers = ['one', 'two', 'three', 'four', 'five'];
  const lines = [...numbers.map((number) => short(number)), line('too long', ask('word '.repeat(20_000)))];
  const made = await begin(jsonl(lines), { metadata: { for: 'a test' } });
  assert.match(made.id, /^batch_/);
  assert.deepEqual([made.status, made.endpoint, made.metadata], ['validating', ENDPOINT, { for: 'a test' }]);
  const batch = await ended(batches, made);
  assert.deepEqual([batch.status, batch.errors], ['completed', null]);
  assert.deepEqual(batch.request_counts, { total: 6, completed: 5, failed: 1 });
  const times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at];
  assert.deepEqual(times, times.toSorted());

  const good = await answers(batch.output_file_id);
  assert.deepEqual(Object.keys(good), numbers, 'in the order of the lines');
  for (const { custom_id, body } of lines.slice(0, 5)) {
    const { id, response, error } = good[custom_id];
    assert.match(id, /^batch_req_/);
    assert.deepEqual([error, response.status_code], [null, 200]);
    assert(response.request_id);
    const alone = await client.chat.completions.create(body);
    assert.deepEqual(said(response.body), said(alone));
    assert.equal(response.body.usage.total_tokens, alone.usage.total_tokens);
  }
  const bad = await answers(batch.error_file_id);
  assert.deepEqual(Object.keys(bad), ['too long']);
  const { status_code, body } = bad['too long'].response;
  assert.deepEqual([status_code, body.error.code], [400, 'context_length_exceeded']);
  for (const id of [batch.output_file_id, batch.error_file_id]) {
    assert.equal((await files.retrieve(id)).purpose, 'batch_output');
  }
  await assert.rejects(batches.cancel(batch.id), { constructor: OpenAI.BadRequestError, param: 'batch_id' });
});

test('what is wrong with a file is told by its lines, and nothing is answered', async () => {
  const wrong = [short('one'), short('one'), { ...short('two'), method: 'GET' }, short('three', { temperature: 9 })];
  const batch = await ended(batches, await begin(`${jsonl(wrong)}\n{\n${jsonl([short('four', { model: 'no-such-model' })])}`));
  assert.deepEqual([batch.status, batch.output_file_id, batch.error_file_id], ['failed', null, null]);
  assert.deepEqual(
    batch.errors.data.map(({ line, code, param }) => [line, code, param]),
    [
      [2, 'duplicate_custom_id', 'custom_id'],
      [3, 'invalid_method', 'method'],
      [4, 'invalid_request', 'body.temperature'],
      [6, 'invalid_json_line', null],
      [7, 'model_not_found', 'body.model'],
    ],
  );
  assert.equal(batch.request_counts.completed, 0);
});

test('what is no batch is refused by name', async () => {
  const refused = (param) => ({ constructor: OpenAI.BadRequestError, status: 400, param });
  await assert.rejects(begin('x', { endpoint: '/v1/images/generations' }), refused('endpoint'));
  await assert.rejects(begin('x', { completion_window: '1h' }), refused('completion_window'));
  const { id } = await upload('x', { purpose: 'user_data' });
  await assert.rejects(begin('x', { input_file_id: id }), refused('input_file_id'));
  await files.delete(id);
  await assert.rejects(begin('x', { input_file_id: id }), missing('input_file_id'));
  await assert.rejects(batches.retrieve('batch_none'), missing('batch_id'));
  await assert.rejects(batches.cancel('batch_none'), missing('batch_id'));
});

test('a cancelled batch keeps what was answered, and leaves the workers', async () => {
  const names = Array.from({ length: 40 }, (_, number) => `endless ${number}`);
  const made = await begin(jsonl([short('first'), ...names.map((name) => line(name, endless()))]));
  const isBegun = async () => (await batches.retrieve(made.id)).request_counts.completed;
  await eventually(isBegun, 'nothing is answered after a minute', 60_000);
  assert.equal((await batches.cancel(made.id)).status, 'cancelling');
  const batch = await ended(batches, made);
  assert.equal(batch.status, 'cancelled');
  assert(batch.cancelling_at <= batch.cancelled_at);
  assert.deepEqual(batch.request_counts, { total: 41, completed: 1, failed: 0 });
  assert.deepEqual(Object.keys(await answers(batch.output_file_id)), ['first']);
  const rest = Object.values(await answers(batch.error_file_id));
  assert.deepEqual(rest.map(({ custom_id }) => custom_id), names);
  assert(rest.every(({ response, error }) => response === null && error.code === 'batch_cancelled'));
  await eventuallyAllFree();
});

test('batches are listed, page by page', async () => {
  const made = [];
  for (const name of ['one', 'two', 'three']) made.unshift(await begin(jsonl([short(name, { max_tokens: 1 })])));
  const listed = await ids(batches.list({ limit: 100 }));
  assert.deepEqual(listed.slice(0, 3), made.map(({ id }) => id), 'the newest first');
  assert.deepEqual(await ids(batches.list({ limit: 2 })), listed, 'the SDK goes through all pages');
  const [first, ...rest] = await all(batches.list({ after: made[0].id }));
  assert.equal(first.id, made[1].id);
  assert.equal(rest.length, listed.length - 2);
  for (const batch of made) assert.equal((await ended(batches, batch)).status, 'completed');
});
