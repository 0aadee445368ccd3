// The look at all answers finds what is wrong with them.

import assert from 'node:assert/strict';
import test from 'node:test';

import { violations, watch } from './answers.js';
import { ANTHROPIC } from './anthropic.js';

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
async function found(body, { path = PATH, status = 200, type = 'application/json', ...options } = {}) {
  const response = new Response(body, { status, headers: { 'content-type': type } });
  assert.equal(await watch(`http://rbee${path}`, response, options).text(), body);
  return violations.splice(0);
}

const STREAM = 'text/event-stream; charset=utf-8';

function foundInStream(...frames) {
  const lines = frames.map((frame) => `data: ${frame === DONE ? DONE : JSON.stringify(frame)}\n\n`);
  return found(lines.join(': a comment\n\n'), { type: STREAM });
}

function foundInEvents(events, options) {
  const frames = events.map(({ name, ...event }) => `event: ${name ?? event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  return found(frames.join(': a comment\n\n'), { path: '/v1/responses', type: STREAM, ...options });
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

const response = {
  id: 'resp_1',
  object: 'response',
  created_at: 1,
  status: 'in_progress',
  completed_at: null,
  error: null,
  incomplete_details: null,
  instructions: null,
  max_output_tokens: null,
  max_tool_calls: null,
  model: 'm',
  output: [],
  parallel_tool_calls: true,
  previous_response_id: null,
  prompt_cache_key: null,
  reasoning: { effort: null, summary: null },
  safety_identifier: null,
  service_tier: 'default',
  store: true,
  background: false,
  temperature: 1,
  text: { format: { type: 'text' } },
  tool_choice: 'auto',
  tools: [],
  top_logprobs: 0,
  top_p: 1,
  truncation: 'disabled',
  usage: null,
  user: null,
  metadata: {},
};
const created = { type: 'response.created', response, sequence_number: 0 };
const textDelta = {
  type: 'response.output_text.delta',
  item_id: 'msg_1',
  output_index: 0,
  content_index: 0,
  delta: 'Hi',
  logprobs: [],
  sequence_number: 1,
};
const completed = { type: 'response.completed', response: { ...response, status: 'completed' }, sequence_number: 2 };

test('nothing is found in events where nothing is wrong', async () => {
  assert.deepEqual(await foundInEvents([created, textDelta, completed]), []);
});

for (const [name, events] of Object.entries({
  'no beginning': [{ ...textDelta, sequence_number: 0 }, { ...completed, sequence_number: 1 }],
  'no end': [created, textDelta],
  'text after the end': [created, { ...completed, sequence_number: 1 }, { ...textDelta, sequence_number: 2 }],
  'a number left out': [created, { ...textDelta, sequence_number: 2 }, { ...completed, sequence_number: 3 }],
  'another name': [created, { ...textDelta, name: 'response.text.delta' }, completed],
  'an event of no kind': [created, { ...textDelta, type: 'response.text.delta' }, completed],
  'a number for text': [created, { ...textDelta, delta: 5 }, completed],
  'a response without a model': [{ ...created, response: { ...response, model: undefined } }, textDelta, completed],
})) {
  test(`events with ${name}`, async () => assert((await foundInEvents(events)).length));
}

test('who comes back to events is told the rest, from any of them on', async () => {
  const comingBack = { path: '/v1/responses/resp_1', method: 'GET' };
  assert.deepEqual(await foundInEvents([textDelta, completed], comingBack), []);
  assert((await foundInEvents([textDelta, completed])).length, 'a stream without a beginning');
  assert((await foundInEvents([textDelta], comingBack)).length, 'a rest without an end');
  assert((await foundInEvents([created, completed], comingBack)).length, 'a rest with a number left out');
});

const ofMessages = { path: '/v1/messages', shapes: ANTHROPIC };
const usage = {
  input_tokens: 1,
  cache_creation_input_tokens: 0,
  cache_read_input_tokens: 0,
  output_tokens: 0,
  output_tokens_details: { thinking_tokens: 0 },
};
const message = { id: 'msg_1', type: 'message', role: 'assistant', model: 'm', content: [], stop_reason: null, stop_sequence: null, usage };
const start = { type: 'message_start', message };
const text = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Hi' } };
const stop = { type: 'message_stop' };

test("Anthropic's answers are held to Anthropic's shapes", async () => {
  assert.deepEqual(await foundInEvents([start, text, stop], ofMessages), []);
  const ended = { ...message, content: [{ type: 'text', text: 'Hi' }], stop_reason: 'end_turn' };
  assert.deepEqual(await found(JSON.stringify(ended), ofMessages), []);
  assert((await found(JSON.stringify(message), ofMessages)).length, 'a message without an end');
  assert((await found(JSON.stringify({ ...ended, usage: undefined }), ofMessages)).length);
  assert((await foundInEvents([start, text], ofMessages)).length, 'a stream without an end');
  assert((await foundInEvents([text, stop], ofMessages)).length, 'a stream without a beginning');
  assert((await foundInEvents([start, stop, text], ofMessages)).length, 'text after the end');
  const ofOpenAI = { error: { message: 'm', type: 't', param: null, code: 'c' } };
  assert((await found(JSON.stringify(ofOpenAI), { ...ofMessages, status: 404 })).length);
});
