// POST /v1/chat/completions, whole and streamed.

import assert from 'node:assert/strict';
import test from 'node:test';

import { all, ask, connect, URL_OPEN } from './client.js';
import { MODEL } from './system.js';

const client = connect();
const QUESTION = 'Name three colours.';

async function whole(options) {
  return client.chat.completions.create(ask(QUESTION, options));
}

async function chunks(options) {
  return all(client.chat.completions.create(ask(QUESTION, { stream: true, ...options })));
}

const joined = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

test('an answer has all that the SDK knows', async () => {
  const completion = await whole();
  assert.match(completion.id, /^chatcmpl-/);
  assert.equal(completion.model, MODEL);
  const [choice] = completion.choices;
  assert.equal(choice.index, 0);
  assert(choice.message.content.trim());
  const { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
  assert(prompt_tokens > 5 && completion_tokens >= 1 && completion_tokens <= 24);
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
});

test('a stream begins with the role, ends with the reason, and joins to the whole answer', async () => {
  const [first, ...rest] = await chunks();
  const last = rest.pop();
  const completion = await whole();
  assert.deepEqual(first.choices[0].delta, { role: 'assistant', content: '' });
  assert(rest.length > 3 && rest.every(({ choices }) => choices[0].delta.content && !choices[0].finish_reason));
  assert.deepEqual(last.choices[0].delta, {});
  assert.equal(last.choices[0].finish_reason, completion.choices[0].finish_reason);
  assert.equal(joined([first, ...rest]), completion.choices[0].message.content);
});

test('usage comes once and last where it was asked for', async () => {
  const all = await chunks({ stream_options: { include_usage: true } });
  const last = all.pop();
  assert.deepEqual(last.choices, []);
  const { prompt_tokens, completion_tokens } = (await whole()).usage;
  assert.deepEqual([last.usage.prompt_tokens, last.usage.completion_tokens], [prompt_tokens, completion_tokens]);
  assert(all.every((chunk) => chunk.usage === null && chunk.choices.length === 1));
});

test('several choices are numbered, and a stream of them joins to the same', async () => {
  const options = { n: 3, seed: 7, temperature: 1.2 };
  const { choices } = await whole(options);
  assert.deepEqual(choices.map(({ index }) => index), [0, 1, 2]);
  assert(new Set(choices.map(({ message }) => message.content)).size > 1);
  const texts = ['', '', ''];
  for (const chunk of await chunks(options)) {
    const [{ index, delta }] = chunk.choices;
    texts[index] += delta.content ?? '';
  }
  assert.deepEqual(texts, choices.map(({ message }) => message.content));
});

test('log probabilities', async () => {
  const options = { logprobs: true, top_logprobs: 2, max_tokens: 4 };
  const [choice] = (await whole(options)).choices;
  assert.equal(choice.logprobs.content.length, 4);
  assert.equal(choice.logprobs.content.map(({ token }) => token).join(''), choice.message.content);
  assert(choice.logprobs.content.every(({ top_logprobs }) => top_logprobs.length === 2));
  const streamed = (await chunks(options)).flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
  assert.deepEqual(streamed, choice.logprobs.content);
});

test('the SDK puts a stream together itself', async () => {
  const runner = client.chat.completions.stream(ask(QUESTION));
  const pieces = [];
  runner.on('content', (piece) => pieces.push(piece));
  const completion = await runner.finalChatCompletion();
  const [choice] = (await whole()).choices;
  assert.equal(completion.choices[0].message.content, choice.message.content);
  assert.equal(pieces.join(''), choice.message.content);
});

test('a stream can be handed on as lines and read again', async () => {
  const stream = await client.chat.completions.create(ask(QUESTION, { stream: true }));
  const lines = await new Response(stream.toReadableStream()).text();
  const parsed = lines.trim().split('\n').map((line) => JSON.parse(line));
  assert.equal(joined(parsed), (await whole()).choices[0].message.content);
});

test('the id of a request is told', async () => {
  const request = client.chat.completions.create(ask(QUESTION), { headers: { 'X-Request-Id': 'my-own.id_1' } });
  const { data, response, request_id } = await request.withResponse();
  assert.equal(response.headers.get('x-request-id'), 'my-own.id_1');
  assert.equal(request_id, 'my-own.id_1');
  assert.equal(data._request_id, 'my-own.id_1');
  assert((await whole())._request_id);
});

test('other base URLs serve the same', async () => {
  const expected = (await whole()).choices[0].message.content;
  for (const prefix of ['/openai/v1', '/openai']) {
    const other = connect({ baseURL: URL_OPEN + prefix });
    const completion = await other.chat.completions.create(ask(QUESTION));
    assert.equal(completion.choices[0].message.content, expected);
  }
});

test('sixty-four clients at once get the answer that one gets alone', async () => {
  const expected = (await whole()).choices[0].message.content;
  const answers = Array.from({ length: 64 }, async (_, number) => {
    const { completions } = connect().chat;
    // Half of them stream.
    if (number % 2) return joined(await all(completions.create(ask(QUESTION, { stream: true }))));
    return (await completions.create(ask(QUESTION))).choices[0].message.content;
  });
  assert.deepEqual(new Set(await Promise.all(answers)), new Set([expected]));
});
