// /v1/messages by Anthropic's SDK: whole and streamed, with tools, counted; models and errors in Anthropic's form.

import assert from 'node:assert/strict';
import test from 'node:test';

import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';

import { all, ask as askInChat, connect, connectAnthropic, URL_NARROW } from './client.js';
import { MODEL, TOKEN } from './system.js';

const client = connectAnthropic();
const QUESTION = { role: 'user', content: 'Name three colours.' };
const Forecast = z.object({ city: z.enum(['Amsterdam', 'Paris', 'Berlin']), days: z.int().min(1).max(7) });
const WEATHER = {
  name: 'get_weather',
  description: 'Tells the weather in a city.',
  input_schema: { ...z.toJSONSchema(Forecast), $schema: undefined },
  strict: true,
};
const TIME = { name: 'get_time', description: 'Tells the time.', input_schema: { type: 'object' } };

/** A request; greedy and short unless told otherwise. */
const ask = (options) => ({ model: MODEL, messages: [QUESTION], temperature: 0, max_tokens: 24, ...options });
const create = (options) => client.messages.create(ask(options));
const textOf = ({ content }) => content.map(({ text }) => text ?? '').join('');
const read = ({ input_tokens, cache_read_input_tokens, cache_creation_input_tokens }) =>
  input_tokens + cache_read_input_tokens + cache_creation_input_tokens;

/** A request whose answer is a call. */
const forced = (options) =>
  ask({
    messages: [{ role: 'user', content: 'What will the weather be in Paris in the next 3 days?' }],
    tools: [TIME, WEATHER],
    tool_choice: { type: 'tool', name: 'get_weather', disable_parallel_tool_use: true },
    max_tokens: 100,
    ...options,
  });

test("an answer has all that the SDK knows, and is the one that OpenAI's interface gives", async () => {
  const message = await create();
  assert.match(message.id, /^msg_/);
  assert.equal(message.model, MODEL);
  const completion = await connect().chat.completions.create(askInChat(QUESTION.content));
  assert(textOf(message).trim());
  assert.equal(textOf(message), completion.choices[0].message.content);
  assert.equal(read(message.usage), completion.usage.prompt_tokens);
  assert.equal(message.usage.output_tokens, completion.usage.completion_tokens);
  assert(message._request_id);
});

test('the events of a stream come in their order', async () => {
  const events = await all(create({ stream: true }));
  const kinds = events.map(({ type }) => type);
  assert.deepEqual(
    kinds.filter((kind, at) => kind !== kinds[at - 1]),
    ['message_start', 'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop'],
  );
  const pieces = events.filter(({ type }) => type === 'content_block_delta').map(({ delta }) => delta.text);
  const whole = await create();
  assert(pieces.length > 3);
  assert.equal(pieces.join(''), textOf(whole));
  assert.equal(events.at(-2).delta.stop_reason, whole.stop_reason);
});

test('the SDK puts a stream together itself', async () => {
  const stream = client.messages.stream(ask());
  const pieces = [];
  stream.on('text', (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  const whole = await create();
  assert(pieces.length > 3);
  assert.equal(pieces.join(''), textOf(whole));
  assert.equal(textOf(final), textOf(whole));
  assert.equal(final.stop_reason, whole.stop_reason);
  assert.equal(read(final.usage), read(whole.usage));
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
});

for (const stream of [false, true]) {
  test(`a stop sequence is named and not told, ${stream ? 'streamed' : 'whole'}`, async () => {
    const text = textOf(await create());
    const word = text.split(/\s+/).filter(({ length }) => length > 3)[2];
    const request = ask({ stop_sequences: ['never said', word] });
    const message = await (stream ? client.messages.stream(request).finalMessage() : client.messages.create(request));
    assert.deepEqual([message.stop_reason, message.stop_sequence], ['stop_sequence', word]);
    assert.equal(textOf(message), text.slice(0, text.indexOf(word)));
  });
}

test('a token limit ends it', async () => {
  const message = await create({ max_tokens: 3 });
  assert.deepEqual([message.stop_reason, message.usage.output_tokens], ['max_tokens', 3]);
});

test('a call goes to the tool and its result back', async () => {
  const request = forced();
  const called = await client.messages.create(request);
  assert.equal(called.stop_reason, 'tool_use');
  assert.equal(called.content.length, 1);
  const [call] = called.content;
  assert.equal(call.name, 'get_weather');
  Forecast.strict().parse(call.input);
  const result = { type: 'tool_result', tool_use_id: call.id, content: 'Sunny, 21 degrees.' };
  const messages = [
    ...request.messages,
    { role: 'assistant', content: called.content },
    { role: 'user', content: [result, { type: 'text', text: 'So?' }] },
  ];
  const uncalled = { ...request, tool_choice: { type: 'none' } };
  const told = await client.messages.create({ ...uncalled, messages });
  assert.notEqual(told.stop_reason, 'tool_use');
  assert(textOf(told).trim());
  // The call and its result are part of what the model reads.
  const alone = await client.messages.create({ ...uncalled, max_tokens: 1 });
  assert(read(told.usage) > read(alone.usage) + 20);
});

test('a streamed call is put together by the SDK', async () => {
  const [whole] = (await client.messages.create(forced())).content;
  const stream = client.messages.stream(forced());
  const pieces = [];
  stream.on('inputJson', (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  const [{ name, input }] = final.content;
  assert.equal(final.stop_reason, 'tool_use');
  assert.deepEqual([name, input], ['get_weather', whole.input]);
  assert(pieces.length > 3);
  assert.deepEqual(JSON.parse(pieces.join('')), input);
});

for (const stream of [false, true]) {
  test(`toolRunner calls the function, ${stream ? 'streamed' : 'whole'}`, async () => {
    const calls = [];
    const weather = betaZodTool({
      name: 'get_weather',
      description: 'Tells the weather in a city.',
      inputSchema: Forecast,
      run: (forecast) => {
        calls.push(forecast);
        return 'Sunny, 21 degrees.';
      },
    });
    // The SDK would have the server keep the conversation; told that this one does not, it sends the whole of it.
    const request = forced({ tools: [weather], stream });
    const runner = client.beta.messages.toolRunner({ ...request, max_iterations: 2 });
    await runner.runUntilDone();
    // Where a call is required there is one each time.
    assert(calls.length > 0);
    calls.forEach((forecast) => Forecast.strict().parse(forecast));
    const roles = runner.params.messages.map(({ role }) => role);
    assert.deepEqual(roles.slice(0, 4), ['user', 'assistant', 'user', 'assistant']);
    const [result] = runner.params.messages[2].content;
    assert.deepEqual([result.type, result.content], ['tool_result', 'Sunny, 21 degrees.']);
  });
}

test('an answer keeps to its schema', async () => {
  const Colour = z.object({ colour: z.enum(['red', 'green', 'blue']), is_dark: z.boolean() });
  const request = ask({ output_config: { format: zodOutputFormat(Colour) }, max_tokens: 200 });
  const message = await client.messages.parse(request);
  assert.equal(message.stop_reason, 'end_turn');
  assert.deepEqual(Colour.strict().parse(message.parsed_output), JSON.parse(textOf(message)));
});

test('tokens are counted as usage tells them', async () => {
  const conversation = [QUESTION, { role: 'assistant', content: 'Red.' }, { role: 'user', content: 'Two more.' }];
  for (const asked of [
    { messages: [QUESTION] },
    { messages: [QUESTION], system: [{ type: 'text', text: 'Be brief.' }] },
    { messages: [QUESTION], tools: [WEATHER, TIME] },
    { messages: conversation },
  ]) {
    const counted = await client.messages.countTokens({ model: MODEL, ...asked });
    const { usage } = await create({ ...asked, max_tokens: 1 });
    assert.equal(counted.input_tokens, read(usage));
  }
});

test('models are listed, page by page, and looked up', async () => {
  const names = (await all(client.models.list({ limit: 1 }))).map(({ id }) => id);
  assert(names.length > 1 && names.includes(MODEL));
  const model = await client.models.retrieve(MODEL);
  assert.deepEqual([model.id, model.display_name, model.max_input_tokens], [MODEL, MODEL, 8192]);
});

for (const stream of [false, true]) {
  test(`errors are the SDK's own, ${stream ? 'streamed' : 'whole'}`, async () => {
    const refused = (options, expected, code, param) =>
      assert.rejects(create({ stream, ...options }), (error) => {
        assert.deepEqual([error.constructor, error.status, error.type], expected);
        assert.deepEqual([error.error.error.code, error.error.error.param], [code, param]);
        assert.equal(error.requestID, error.error.request_id);
        assert(error.requestID);
        return true;
      });
    const badRequest = [Anthropic.BadRequestError, 400, 'invalid_request_error'];
    await refused({ temperature: 1.5 }, badRequest, 'INVALID_REQUEST', 'temperature');
    await refused({ messages: [] }, badRequest, 'INVALID_REQUEST', 'messages');
    const long = [{ role: 'user', content: 'word '.repeat(20_000) }];
    await refused({ messages: long }, badRequest, 'context_length_exceeded', 'messages');
    const notFound = [Anthropic.NotFoundError, 404, 'not_found_error'];
    await refused({ model: 'no-such-model' }, notFound, 'model_not_found', 'model');
  });
}

test('a key that is not the right one', async () => {
  const narrow = (apiKey) => connectAnthropic({ url: URL_NARROW, apiKey });
  await assert.rejects(all(narrow('wrong').models.list()), {
    constructor: Anthropic.AuthenticationError,
    status: 401,
    type: 'authentication_error',
  });
  assert((await all(narrow(TOKEN).models.list())).some(({ id }) => id === MODEL));
});

test('an endpoint that is not there', async () => {
  const expected = { constructor: Anthropic.NotFoundError, status: 404, type: 'not_found_error' };
  await assert.rejects(all(client.messages.batches.list()), expected);
});
