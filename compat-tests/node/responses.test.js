// /v1/responses: whole and streamed, stored, gone on with. What the small model is made to say is looked at.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI from 'openai';
import { zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

import { all, ask as askInChat, connect, ended, eventually, eventuallyAllFree, missing } from './client.js';
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

const isGone = missing('response_id');

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

test('a response is made in the background', async () => {
  const request = ask('Ada is 36.', { text: { format: zodTextFormat(Person, 'person') }, max_output_tokens: 100 });
  const made = await client.responses.create({ ...request, background: true, metadata: { for: 'later' } });
  assert.deepEqual([made.status, made.background, made.output], ['queued', true, []]);
  const { output_text, ...response } = await ended(client.responses, made);
  assert.deepEqual([response.id, response.status, response.metadata], [made.id, 'completed', { for: 'later' }]);
  assert.equal(output_text, (await client.responses.create(request)).output_text);
  assert.deepEqual(await client.responses.cancel(made.id), response, 'one that has ended stays as it is');
  // It is a part of a conversation like any other.
  const next = await respond('And Grace?', { previous_response_id: made.id });
  assert(next.usage.input_tokens > response.usage.total_tokens);
  let last;
  for await (const event of await client.responses.retrieve(made.id, { stream: true })) last = event;
  assert.deepEqual([last.type, last.response], ['response.completed', response], 'told again as it is kept');
  await client.responses.delete(made.id);
  await assert.rejects(client.responses.retrieve(made.id), isGone);
  await assert.rejects(client.responses.retrieve(made.id, { stream: true }), isGone);
  await assert.rejects(client.responses.cancel(made.id), isGone);
});

test('who leaves a response in the background comes back and is told the rest', async () => {
  const told = [];
  for await (const event of await respond(QUESTION, { background: true, stream: true })) {
    told.push(event);
    if (event.type === 'response.output_text.delta') break;
  }
  const { id } = told[0].response;
  const rest = await all(client.responses.retrieve(id, { stream: true, starting_after: told.at(-1).sequence_number }));
  const events = [...told, ...rest];
  assert.deepEqual(events.map(({ sequence_number }) => sequence_number), [...events.keys()]);
  const deltas = events.filter(({ type }) => type === 'response.output_text.delta');
  const whole = await respond();
  assert.equal(deltas.map(({ delta }) => delta).join(''), whole.output_text);
  assert.equal(rest.at(-1).type, `response.${whole.status}`);
  assert.deepEqual(await all(client.responses.retrieve(id, { stream: true })), events, 'all is told again');
  const again = await client.responses.stream({ response_id: id }).finalResponse();
  assert.equal(again.output_text, whole.output_text);
});

test('a response in the background is cancelled, or deleted, and leaves its worker', async () => {
  const long = { background: true, max_output_tokens: 1800 };
  const begun = async () => {
    const { id } = await respond('Tell a very long story.', long);
    await eventually(async () => (await client.responses.retrieve(id)).output.length, 'it begins', 60_000);
    return id;
  };
  const id = await begun();
  const cancelled = await client.responses.cancel(id);
  assert.deepEqual([cancelled.id, cancelled.status], [id, 'cancelled']);
  const { output_text, ...kept } = await client.responses.retrieve(id);
  assert(output_text);
  assert.deepEqual(kept, cancelled);
  const deleted = await begun();
  await client.responses.delete(deleted);
  await assert.rejects(client.responses.retrieve(deleted), isGone);
  await eventuallyAllFree();
});

test('what is not made in the background has no such ways', async () => {
  const refused = { constructor: OpenAI.BadRequestError, status: 400 };
  await assert.rejects(respond(QUESTION, { background: true, store: false }), { ...refused, param: 'background' });
  const { id } = await respond(QUESTION, { max_output_tokens: 1 });
  await assert.rejects(client.responses.cancel(id), { ...refused, param: 'response_id' });
  await assert.rejects(client.responses.retrieve(id, { stream: true }), { ...refused, param: 'stream' });
});
