// The look at all answers finds what is wrong with them.

import assert from 'node:assert/strict';
import test from 'node:test';

import { violations, watch } from './answers.js';

const PATH = '/v1/chat/completions';
const head = { id: 'chatcmpl-1', created: 1, model: 'm', system_fingerprint: 'f' };
const whole = {
  ...head,
  object: 'chat.completion',
  choices: [
    { index: 0, message: { role: 'assistant', content: 'Hi', refusal: null }, logprobs: null, finish_reason: 'stop' },
  ],
  usage: {
    prompt_tokens: 1,
    completion_tokens: 1,
    total_tokens: 2,
    prompt_tokens_details: { cached_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0 },
  },
};
const chunk = (delta, finish_reason = null, fields = {}) => ({
  ...head,
  object: 'chat.completion.chunk',
  choices: [{ index: 0, delta, logprobs: null, finish_reason }],
  ...fields,
});
const first = chunk({ role: 'assistant', content: '' });
const middle = chunk({ content: 'Hi' });
const last = chunk({}, 'stop');
const DONE = '[DONE]';

/** What is found when somebody reads this answer. */
async function found(body, { path = PATH, status = 200, type = 'application/json' } = {}) {
  const response = new Response(body, { status, headers: { 'content-type': type } });
  assert.equal(await watch(`http://rbee${path}`, response).text(), body);
  return violations.splice(0);
}

function foundInStream(...frames) {
  const lines = frames.map((frame) => `data: ${frame === DONE ? DONE : JSON.stringify(frame)}\n\n`);
  return found(lines.join(': a comment\n\n'), { type: 'text/event-stream; charset=utf-8' });
}

test('nothing is found where nothing is wrong', async () => {
  assert.deepEqual(await found(JSON.stringify(whole)), []);
  assert.deepEqual(await foundInStream(first, middle, last, DONE), []);
});

for (const [name, change] of Object.entries({
  'no id': { id: undefined },
  'text for a number': { created: '1' },
  'another object': { object: 'completion' },
  'no choice': { choices: [] },
  'an end of no kind': { choices: [{ ...whole.choices[0], finish_reason: 'end' }] },
  'a message without a refusal': { choices: [{ ...whole.choices[0], message: { role: 'assistant', content: 'Hi' } }] },
  'a field of its own': { fingerprint: 'f' },
})) {
  test(`an answer with ${name}`, async () => assert((await found(JSON.stringify({ ...whole, ...change }))).length));
}

test('an error that is no JSON, or has another shape', async () => {
  assert((await found('Internal Server Error', { status: 500 })).length);
  assert((await found('{"error": "not found"}', { status: 404 })).length);
});

for (const [name, frames] of Object.entries({
  'no [DONE]': [first, middle, last],
  'two [DONE]s': [first, middle, last, DONE, DONE],
  'no end': [first, middle, DONE],
  'two ends': [first, middle, last, last, DONE],
  'text after the end': [first, last, middle, DONE],
  'two ids': [first, { ...middle, id: 'chatcmpl-2' }, last, DONE],
  'a number for text': [first, chunk({ content: 5 }), last, DONE],
  'an error for an end': [first, { error: { message: 'lost' } }],
})) {
  test(`a stream with ${name}`, async () => assert((await foundInStream(...frames)).length));
}
