// Answers in a form that was asked for, described and parsed by zod.

import assert from 'node:assert/strict';
import test from 'node:test';

import { zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { ask, connect } from './client.js';

const client = connect();
const Person = z.object({
  name: z.string().max(20),
  age: z.int().min(0).max(120),
  likes: z.array(z.enum(['tea', 'coffee'])).max(2),
  partner: z.union([z.null(), z.object({ name: z.string().max(20) })]),
});
const request = (options) =>
  ask('Describe a person.', { response_format: zodResponseFormat(Person, 'person'), max_tokens: 300, ...options });

for (const seed of [1, 2, 3]) {
  test(`parse gives what zod described, with seed ${seed}`, async () => {
    const completion = await client.chat.completions.parse(request({ temperature: 1.2, seed }));
    const [{ message, finish_reason }] = completion.choices;
    assert.equal(finish_reason, 'stop');
    assert.deepEqual(Person.strict().parse(message.parsed), JSON.parse(message.content));
  });
}

test('a stream is parsed too', async () => {
  const stream = client.chat.completions.stream(request());
  const snapshots = [];
  stream.on('content.delta', ({ parsed }) => snapshots.push(parsed));
  const completion = await stream.finalChatCompletion();
  const whole = await client.chat.completions.parse(request());
  assert.deepEqual(completion.choices[0].message.parsed, whole.choices[0].message.parsed);
  assert(snapshots.length > 3);
});

test('an answer that is cut by its token limit is no answer', async () => {
  await assert.rejects(client.chat.completions.parse(request({ max_tokens: 4 })), { name: 'Error', message: /length/ });
});

test('a JSON object', async () => {
  const format = { type: 'json_schema', json_schema: { name: 'flag', strict: true, schema: z.toJSONSchema(z.object({ on: z.boolean() })) } };
  const completion = await client.chat.completions.create(request({ response_format: format }));
  assert.equal(typeof JSON.parse(completion.choices[0].message.content).on, 'boolean');
});

test('a schema that cannot be kept to is refused with a pointer', async () => {
  const schema = { type: 'object', properties: { x: { not: { type: 'null' } } } };
  const format = { type: 'json_schema', json_schema: { name: 'x', strict: true, schema } };
  await assert.rejects(client.chat.completions.create(request({ response_format: format })), (error) => {
    assert.equal(error.status, 400);
    assert.equal(error.param, 'response_format.json_schema.schema');
    assert.equal(error.error.details.pointer, '/properties/x/not');
    return true;
  });
});
