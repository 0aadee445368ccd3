// Calls of tools, and the SDK's own helpers around them. The model is small: what it says of its own will is not looked at, what
// it is made to is.

import assert from 'node:assert/strict';
import test from 'node:test';

import { zodFunction } from 'openai/helpers/zod';
import { z } from 'zod';

import { all, ask, connect } from './client.js';

const client = connect();
const QUESTION = 'What will the weather be in Paris in the next 3 days?';
const Forecast = z.object({ city: z.enum(['Amsterdam', 'Paris', 'Berlin']), days: z.int().min(1).max(7) });
const named = { type: 'function', function: { name: 'get_weather' } };

/** A request for a call of a tool that notes how it was called. */
function request(options) {
  const calls = [];
  const weather = zodFunction({
    name: 'get_weather',
    description: 'Tells the weather in a city.',
    parameters: Forecast,
    function: async (forecast) => {
      calls.push(forecast);
      return { forecast: 'rain' };
    },
  });
  const body = ask(QUESTION, {
    tools: [weather],
    tool_choice: named,
    parallel_tool_calls: false,
    max_tokens: 100,
    ...options,
  });
  return { body, calls };
}

test('arguments are parsed by the zod object that described them', async () => {
  const completion = await client.chat.completions.parse(request().body);
  const [choice] = completion.choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  const [call] = choice.message.tool_calls;
  assert.equal(call.function.name, 'get_weather');
  assert.deepEqual(Forecast.parse(call.function.parsed_arguments), JSON.parse(call.function.arguments));
});

test('a stream assembles to the same call', async () => {
  const { body } = request();
  const [whole] = (await client.chat.completions.create(body)).choices[0].message.tool_calls;
  const chunks = await all(client.chat.completions.create({ ...body, stream: true }));
  const deltas = chunks.flatMap(({ choices }) => choices[0].delta.tool_calls ?? []);
  assert(deltas[0].id && deltas[0].type === 'function' && deltas[0].function.name === 'get_weather');
  assert(deltas.length > 3 && deltas.slice(1).every(({ index, id }) => index === 0 && id === undefined));
  assert.equal(deltas.map(({ function: { arguments: piece } }) => piece).join(''), whole.function.arguments);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');

  const stream = client.chat.completions.stream(body);
  const [assembled] = (await stream.finalMessage()).tool_calls;
  assert.equal(assembled.function.arguments, whole.function.arguments);
});

for (const stream of [false, true]) {
  test(`runTools calls the function, ${stream ? 'streamed' : 'whole'}`, async () => {
    const { body, calls } = request({ stream });
    const runner = client.chat.completions.runTools(body);
    const result = await runner.finalFunctionToolCallResult();
    assert.equal(calls.length, 1);
    Forecast.parse(calls[0]);
    assert.deepEqual(JSON.parse(result), { forecast: 'rain' });
    assert.deepEqual(runner.messages.map(({ role }) => role), ['user', 'assistant', 'tool']);
  });

  test(`runTools tells the model what the function said, ${stream ? 'streamed' : 'whole'}`, async () => {
    const { body, calls } = request({ stream, tool_choice: 'required' });
    const runner = client.chat.completions.runTools(body, { maxChatCompletions: 2 });
    const prompts = [];
    runner.on('chatCompletion', ({ usage }) => prompts.push(usage?.prompt_tokens));
    await runner.done();
    // Where a call is required there is one each time; the second question holds the first call and its result.
    assert.equal(calls.length, 2);
    const roles = runner.messages.map(({ role }) => role);
    assert.deepEqual(roles, ['user', 'assistant', 'tool', 'assistant', 'tool']);
    assert.equal(prompts.length, 2);
    if (!stream) assert(prompts[1] > prompts[0] + 20);
  });
}

test('an answer to a call goes back and is read', async () => {
  const { body } = request();
  const { message } = (await client.chat.completions.create(body)).choices[0];
  const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: '{"forecast": "rain"}' };
  const messages = [...body.messages, message, result];
  const told = await client.chat.completions.create({ ...body, messages, tool_choice: 'none' });
  assert(told.choices[0].message.content.trim());
  assert.equal(told.choices[0].message.tool_calls, undefined);
});
