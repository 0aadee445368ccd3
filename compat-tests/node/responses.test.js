// /v1/responses: whole and streamed, stored, gone on with. What the small model is made to say is looked at.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';
import { zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { all, ask as askInChat, connect } from './client.js';
import { MODEL } from './system.js';

const client = connect();
const QUESTION = 'Name three colours.';
const Forecast = z.object({ city: z.enum(['Amsterdam', 'Paris', 'Berlin']), days: z.int().min(1).max(7) });
const Person = z.object({ name: z.string().max(8), age: z.int().min(0).max(99) });

/** A request; greedy and short unless told otherwise. */
function ask(input = QUESTION, options = {}) {
  return { model: MODEL, input, temperature: 0, max_output_tokens: 24, ...options };
}

const respond = (input, options) => client.responses.create(ask(input, options));

/** A request whose answer is a call. */
function forced(options) {
  const weather = zodResponsesFunction({
    name: 'get_weather',
    description: 'Tells the weather in a city.',
    parameters: Forecast,
  });
  return ask('What will the weather be in Paris in the next 3 days?', {
    tools: [weather],
    tool_choice: { type: 'function', name: 'get_weather' },
    parallel_tool_calls: false,
    max_output_tokens: 100,
    ...options,
  });
}

const isGone = { constructor: OpenAI.NotFoundError, status: 404, param: 'response_id' };

test('an answer has all that the SDK knows, and says what a chat completion says', async () => {
  const response = await respond(QUESTION, { metadata: { topic: 'colours' } });
  assert.match(response.id, /^resp_/);
  assert.equal(response.model, MODEL);
  assert.deepEqual(response.metadata, { topic: 'colours' });
  const completion = await client.chat.completions.create(askInChat(QUESTION));
  assert(response.output_text.trim());
  assert.equal(response.output_text, completion.choices[0].message.content);
  assert.equal(response.usage.input_tokens, completion.usage.prompt_tokens);
  assert.equal(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens);
});

test('a token limit leaves it incomplete', async () => {
  const response = await respond(QUESTION, { max_output_tokens: 3 });
  assert.equal(response.status, 'incomplete');
  assert.deepEqual(response.incomplete_details, { reason: 'max_output_tokens' });
  assert.equal(response.usage.output_tokens, 3);
});

test('the events of a stream come in their order and join to the whole answer', async () => {
  const events = await all(respond(QUESTION, { stream: true }));
  const kinds = events.map(({ type }) => type.replace('response.', ''));
  const inOrder = kinds.filter((kind, at) => kind !== kinds[at - 1]);
  const whole = await respond();
  assert.deepEqual(inOrder, [
    'created',
    'in_progress',
    'output_item.added',
    'content_part.added',
    'output_text.delta',
    'output_text.done',
    'content_part.done',
    'output_item.done',
    whole.status,
  ]);
  const deltas = events.filter(({ type }) => type === 'response.output_text.delta');
  assert(deltas.length > 3);
  assert.equal(deltas.map(({ delta }) => delta).join(''), whole.output_text);
  const last = events.at(-1).response;
  assert.equal(last.usage.output_tokens, whole.usage.output_tokens);
  assert.deepEqual((await client.responses.retrieve(last.id)).output, last.output);
});

test('the SDK puts a stream together itself', async () => {
  const stream = client.responses.stream(ask());
  const snapshots = [];
  stream.on('response.output_text.delta', ({ snapshot }) => snapshots.push(snapshot));
  const final = await stream.finalResponse();
  const whole = await respond();
  assert(snapshots.length > 3);
  assert.equal(snapshots.at(-1), whole.output_text);
  assert.equal(final.output_text, whole.output_text);
  assert.equal(final.status, whole.status);
});

test('it is kept until it is deleted', async () => {
  const { output_text, ...made } = await respond();
  const { output_text: again, ...kept } = await client.responses.retrieve(made.id);
  assert.deepEqual(kept, made);
  assert.equal(again, output_text);
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), isGone);
  await assert.rejects(client.responses.delete(made.id), isGone);
  await assert.rejects(all(client.responses.inputItems.list(made.id)), isGone);
});

test('what is not to be stored is not', async () => {
  const made = await respond(QUESTION, { store: false });
  assert.equal(made.store, false);
  await assert.rejects(client.responses.retrieve(made.id), isGone);
});

test('a conversation goes on', async () => {
  const first = await respond('My name is Ada.');
  const second = await respond('What is my name?', { previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  const messages = [
    { role: 'user', content: 'My name is Ada.' },
    { role: 'assistant', content: first.output_text },
    { role: 'user', content: 'What is my name?' },
  ];
  const completion = await client.chat.completions.create({ ...askInChat(''), messages });
  assert.equal(second.output_text, completion.choices[0].message.content);
  assert.equal(second.usage.input_tokens, completion.usage.prompt_tokens);
  await assert.rejects(respond('And?', { previous_response_id: 'resp_x' }), {
    constructor: OpenAI.BadRequestError,
    param: 'previous_response_id',
    code: 'previous_response_not_found',
  });
});

test('what it was made from is listed, page by page', async () => {
  const first = await respond('One.', { max_output_tokens: 4 });
  const input = [
    { role: 'developer', content: 'Count.' },
    { role: 'user', content: [{ type: 'input_text', text: 'Two.' }] },
  ];
  const { id } = await respond(input, { previous_response_id: first.id, max_output_tokens: 1 });
  const { inputItems } = client.responses;
  const items = await all(inputItems.list(id, { order: 'asc' }));
  assert.deepEqual(
    items.map(({ role, content }) => [role, content[0].text]),
    [
      ['user', 'One.'],
      ['assistant', first.output_text],
      ['developer', 'Count.'],
      ['user', 'Two.'],
    ],
  );
  const page = await inputItems.list(id, { order: 'asc', limit: 3 });
  assert.deepEqual(page.data, items.slice(0, 3));
  assert(page.hasNextPage());
  assert.deepEqual((await page.getNextPage()).data, items.slice(3));
  assert.deepEqual(await all(inputItems.list(id, { limit: 1 })), items.toReversed());
});

test('arguments are parsed by the zod object that described them', async () => {
  const response = await client.responses.parse(forced());
  const [call] = response.output;
  assert.equal(response.output.length, 1);
  assert.equal(call.name, 'get_weather');
  assert.deepEqual(Forecast.parse(call.parsed_arguments), JSON.parse(call.arguments));
  assert.deepEqual(response.tool_choice, { type: 'function', name: 'get_weather' });

  const stream = client.responses.stream(forced());
  const pieces = [];
  stream.on('response.function_call_arguments.delta', ({ delta }) => pieces.push(delta));
  const [streamed] = (await stream.finalResponse()).output;
  assert(pieces.length > 3);
  assert.equal(pieces.join(''), call.arguments);
  assert.deepEqual(streamed.parsed_arguments, call.parsed_arguments);
});

test('an answer to a call goes back and is read', async () => {
  const request = forced();
  const asked = await client.responses.create(request);
  const [call] = asked.output;
  const result = { type: 'function_call_output', call_id: call.call_id, output: '{"forecast": "rain"}' };
  const options = { ...request, tool_choice: 'none', max_output_tokens: 24 };
  const told = await client.responses.create({ ...options, input: [result], previous_response_id: asked.id });
  assert(told.output_text.trim());
  // The call and its result are part of what the model reads.
  const alone = await client.responses.create({ ...options, max_output_tokens: 1 });
  assert(told.usage.input_tokens > alone.usage.input_tokens + 20);
  const said = { role: 'user', content: request.input };
  const whole = await client.responses.create({ ...options, input: [said, call, result] });
  assert.equal(whole.output_text, told.output_text);
});

for (const stream of [false, true]) {
  test(`an answer keeps to its schema, ${stream ? 'streamed' : 'whole'}`, async () => {
    const format = zodTextFormat(Person, 'person');
    const request = ask('Ada is 36.', { text: { format }, max_output_tokens: 100 });
    const response = await (stream ? client.responses.stream(request).finalResponse() : client.responses.parse(request));
    assert.equal(response.status, 'completed');
    assert.deepEqual(Person.strict().parse(response.output_parsed), JSON.parse(response.output_text));
    assert.equal(response.text.format.name, 'person');
  });
}

test('tokens are counted without an answer', async () => {
  const first = await respond('One.', { max_output_tokens: 1 });
  const { tools } = forced();
  const asked = { input: 'Two.', previous_response_id: first.id, instructions: 'Count.', tools };
  const counted = await client.responses.inputTokens.count({ model: MODEL, ...asked });
  const { usage } = await respond('Two.', { ...asked, max_output_tokens: 1 });
  assert.equal(counted.input_tokens, usage.input_tokens);
});

for (const stream of [false, true]) {
  test(`what cannot be honoured is refused by name, ${stream ? 'streamed' : 'whole'}`, async () => {
    const refused = { constructor: OpenAI.BadRequestError, status: 400, type: 'invalid_request_error' };
    await assert.rejects(respond(QUESTION, { stream, temperature: 3 }), { ...refused, param: 'temperature' });
    const tools = [{ type: 'web_search' }];
    await assert.rejects(respond(QUESTION, { stream, tools }), { ...refused, param: 'tools[0].type' });
    const unknown = { constructor: OpenAI.NotFoundError, status: 404, code: 'model_not_found' };
    await assert.rejects(respond(QUESTION, { stream, model: 'no-such-model' }), unknown);
  });
}
