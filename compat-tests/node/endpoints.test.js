// Every endpoint besides chat: completions, embeddings, models.

import assert from 'node:assert/strict';
import test from 'node:test';

import { all, connect } from './client.js';
import { EMBEDDING_MODEL, MODEL } from './system.js';

const client = connect();
const PROMPT = 'Once upon a time there was';
const WIDTH = 384;
const completion = (options) => ({ model: MODEL, prompt: PROMPT, temperature: 0, max_tokens: 8, ...options });

test('a text is continued, and a stream of it joins to the same', async () => {
  const whole = await client.completions.create(completion());
  assert.match(whole.id, /^cmpl-/);
  assert.equal(whole.choices[0].finish_reason, 'length');
  assert.equal(whole.usage.completion_tokens, 8);
  const chunks = await all(client.completions.create(completion({ stream: true })));
  assert.equal(chunks.map(({ choices }) => choices[0].text).join(''), whole.choices[0].text);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
});

test('several prompts, several choices, an echo and log probabilities', async () => {
  const options = { prompt: [PROMPT, 'The capital of France is'], n: 2, seed: 3, temperature: 1, echo: true, logprobs: 2 };
  const { choices } = await client.completions.create(completion(options));
  assert.deepEqual(choices.map(({ index }) => index), [0, 1, 2, 3]);
  assert(choices[0].text.startsWith(PROMPT) && choices[2].text.startsWith('The capital of France is'));
  assert(choices.every(({ text, logprobs }) => logprobs.tokens.join('') === text));
  assert(choices.every(({ logprobs }) => logprobs.token_logprobs[0] === null));
});

test('vectors are the same in base64, which the SDK asks for, and as numbers', async () => {
  const input = ['a first text', 'a second one'];
  const byDefault = await client.embeddings.create({ model: EMBEDDING_MODEL, input });
  const numbers = await client.embeddings.create({ model: EMBEDDING_MODEL, input, encoding_format: 'float' });
  const packed = await client.embeddings.create({ model: EMBEDDING_MODEL, input, encoding_format: 'base64' });
  for (const [index, { embedding }] of byDefault.data.entries()) {
    assert.equal(embedding.length, WIDTH);
    const bytes = Buffer.from(packed.data[index].embedding, 'base64');
    assert.equal(bytes.length, WIDTH * 4);
    for (let at = 0; at < WIDTH; at++) {
      assert.equal(embedding[at], bytes.readFloatLE(at * 4));
      assert(Math.abs(embedding[at] - numbers.data[index].embedding[at]) < 1e-6);
    }
    const square = embedding.reduce((sum, value) => sum + value * value, 0);
    assert(Math.abs(square - 1) < 1e-5);
  }
  assert.deepEqual(byDefault.usage, { prompt_tokens: 10, total_tokens: 10 });
});

test('models are listed and looked up', async () => {
  const listed = await all(client.models.list());
  assert(listed.some(({ id, state }) => id === MODEL && state === 'running'));
  assert.deepEqual(listed.map(({ id }) => id).includes(EMBEDDING_MODEL), true);
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});
