// Errors arrive as the SDK's own classes; what may be asked again is asked again, after the time that the server tells.

import assert from 'node:assert/strict';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI from 'openai';

import { all, ask, connect, endless, eventually, eventuallyAllFree, URL_NARROW } from './client.js';
import { EMBEDDING_MODEL, MODEL, TOKEN } from './system.js';

const client = connect();
const narrow = (options) => connect({ url: URL_NARROW, apiKey: TOKEN, ...options });
const short = ask('Hi', { max_tokens: 1 });

/** Fails unless the request fails with this class and these fields. */
async function rejects(request, type, fields) {
  const error = await request.then(
    () => assert.fail('it succeeded'),
    (error) => error,
  );
  assert.equal(error.constructor, type, error);
  for (const [name, value] of Object.entries(fields)) assert.equal(error[name], value, name);
  return error;
}

/** Notes what each attempt of a request met, and when. */
function attempts() {
  const answers = [];
  return {
    answers,
    onAnswer: ({ status, headers }) => answers.push({ status, headers, at: Date.now() }),
    statuses: () => answers.map(({ status }) => status),
    pauseMs: () => answers[1].at - answers[0].at,
  };
}

/** Does something while the one slot is taken and the one place in the queue too. */
async function whileFull(work) {
  const running = await narrow().chat.completions.create(endless({ stream: true }));
  const waiting = await narrow().chat.completions.create(endless({ stream: true }));
  try {
    return await work();
  } finally {
    running.controller.abort();
    waiting.controller.abort();
  }
}

test('a request that makes no sense', async () => {
  const request = client.chat.completions.create({ ...short, temperature: 3 });
  const error = await rejects(request, OpenAI.BadRequestError, {
    status: 400,
    code: 'INVALID_REQUEST',
    type: 'invalid_request_error',
    param: 'temperature',
  });
  assert.equal(error.requestID, error.error.correlation_id);
  assert.match(error.message, /^400 .*temperature/);
});

test('a prompt longer than the context', async () => {
  const request = client.chat.completions.create(ask('word '.repeat(20_000)));
  await rejects(request, OpenAI.BadRequestError, { code: 'context_length_exceeded' });
});

for (const stream of [false, true]) {
  test(`a model that is not there, ${stream ? 'streamed' : 'whole'}`, async () => {
    const request = client.chat.completions.create({ ...short, stream, model: 'no-such-model' });
    await rejects(request, OpenAI.NotFoundError, { status: 404, code: 'model_not_found', type: 'not_found_error' });
  });
}

test('an endpoint that is not there', async () => {
  await rejects(client.fineTuning.jobs.list().asResponse(), OpenAI.NotFoundError, { status: 404, code: 'NOT_FOUND' });
});

test('a key that is not the right one', async () => {
  const request = narrow({ apiKey: 'wrong' }).models.list();
  await rejects(request, OpenAI.AuthenticationError, { status: 401, code: 'invalid_api_key' });
  assert((await all(narrow().models.list())).some(({ id }) => id === MODEL));
});

test('nobody listens', async () => {
  const error = await rejects(connect({ url: 'http://127.0.0.1:1' }).models.list(), OpenAI.APIConnectionError, {});
  assert.equal(error.status, undefined);
});

test('a model that is not loaded yet is waited for', async () => {
  const seen = attempts();
  const completion = await narrow({ maxRetries: 2, onAnswer: seen.onAnswer }).chat.completions.create(short);
  assert.equal(completion.usage.completion_tokens, 1);
  assert.deepEqual(seen.statuses(), [503, 200]);
  assert.equal(seen.answers[0].headers.get('retry-after'), '5');
  assert(seen.pauseMs() >= 5000);
});

test('a model that is not loaded yet is a 503', async () => {
  const request = narrow().embeddings.create({ model: EMBEDDING_MODEL, input: 'Hi' });
  await rejects(request, OpenAI.InternalServerError, { status: 503, code: 'MODEL_LOADING', type: 'service_unavailable' });
});

test('a full queue is a 429', async () => {
  await whileFull(async () => {
    const request = narrow().chat.completions.create(short);
    const error = await rejects(request, OpenAI.RateLimitError, { status: 429, code: 'QUEUE_FULL', type: 'rate_limit_error' });
    assert.equal(error.headers.get('retry-after-ms'), '1000');
  });
  await eventuallyAllFree(URL_NARROW, TOKEN);
});

test('a full queue is asked again after the time that it tells', async () => {
  const seen = attempts();
  let answer;
  await whileFull(async () => {
    answer = narrow({ maxRetries: 2, onAnswer: seen.onAnswer }).chat.completions.create(short);
    await eventually(() => seen.answers.length === 1, 'the first attempt is answered');
  });
  assert.equal((await answer).usage.completion_tokens, 1);
  assert.deepEqual(seen.statuses(), [429, 200]);
  // Left to itself the SDK asks again after half a second at most.
  assert(seen.pauseMs() >= 1000);
});

test('the SDK gives up when its retries are used', async () => {
  const seen = attempts();
  await whileFull(async () => {
    const request = narrow({ maxRetries: 1, onAnswer: seen.onAnswer }).chat.completions.create(short);
    await rejects(request, OpenAI.RateLimitError, { status: 429 });
  });
  assert.deepEqual(seen.statuses(), [429, 429]);
});

test('what cannot succeed is not asked again', async () => {
  const seen = attempts();
  const request = connect({ maxRetries: 2, onAnswer: seen.onAnswer }).chat.completions.create({ ...short, n: 0 });
  await rejects(request, OpenAI.BadRequestError, { param: 'n' });
  await sleep(1000);
  assert.deepEqual(seen.statuses(), [400]);
});
