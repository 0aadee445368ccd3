// Every answer of every test, held to the shapes that OpenAI's types have. The SDK checks nothing itself: here each answer is
// read a second time, as it came over the wire, and nothing may be missing, of another type, or unknown.

import { z } from 'zod';

const count = z.int().nonnegative();
const text = z.string();

const usage = z.strictObject({
  prompt_tokens: count,
  completion_tokens: count,
  total_tokens: count,
  prompt_tokens_details: z.strictObject({ cached_tokens: count }),
  completion_tokens_details: z.strictObject({ reasoning_tokens: count }),
});
const likely = { token: text, logprob: z.number().max(0), bytes: z.array(z.int().min(0).max(255)).nullable() };
const token = z.strictObject({ ...likely, top_logprobs: z.array(z.strictObject(likely)) });
const logprobs = z.strictObject({ content: z.array(token).nullable(), refusal: z.null() }).nullable();
const finishReason = z.enum(['stop', 'length', 'tool_calls']);

/** What all answers of a model begin with. */
const head = { id: text, created: z.int(), model: text, system_fingerprint: text };

const call = z.strictObject({
  id: text,
  type: z.literal('function'),
  function: z.strictObject({ name: text, arguments: text }),
});
const message = z.strictObject({
  role: z.literal('assistant'),
  content: text.nullable(),
  refusal: z.null(),
  tool_calls: z.array(call).nonempty().optional(),
});
const completion = z.strictObject({
  ...head,
  object: z.literal('chat.completion'),
  choices: z.array(z.strictObject({ index: count, message, logprobs, finish_reason: finishReason })).nonempty(),
  usage,
  // Of those that are stored. Beyond OpenAI's types, not beyond its interface.
  metadata: z.record(text, text).optional(),
});

const callDelta = z.strictObject({
  index: count,
  id: text.optional(),
  type: z.literal('function').optional(),
  function: z.strictObject({ name: text.optional(), arguments: text }),
});
const delta = z.strictObject({
  role: z.literal('assistant').optional(),
  content: text.optional(),
  tool_calls: z.array(callDelta).nonempty().optional(),
});
const chunk = z.strictObject({
  ...head,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(z.strictObject({ index: count, delta, logprobs, finish_reason: finishReason.nullable() })),
  usage: usage.nullish(),
});

/** A page of a list. */
const page = (item) =>
  z.strictObject({
    object: z.literal('list'),
    data: z.array(item),
    first_id: text.nullable(),
    last_id: text.nullable(),
    has_more: z.boolean(),
  });
const storedMessage = z.strictObject({
  id: text,
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: text.nullable(),
  content_parts: z.array(z.strictObject({ type: z.literal('text'), text })).nullable(),
  refusal: z.null(),
});

const textCompletion = (end) =>
  z.strictObject({
    ...head,
    object: z.literal('text_completion'),
    choices: z.array(
      z.strictObject({
        index: count,
        text,
        finish_reason: end,
        logprobs: z
          .strictObject({
            tokens: z.array(text),
            token_logprobs: z.array(z.number().max(0).nullable()),
            top_logprobs: z.array(z.record(text, z.number()).nullable()),
            text_offset: z.array(count),
          })
          .nullable(),
      }),
    ),
    usage: usage.nullish(),
  });

const embeddings = z.strictObject({
  object: z.literal('list'),
  model: text,
  data: z.array(
    z.strictObject({ object: z.literal('embedding'), index: count, embedding: z.union([z.base64(), z.array(z.number())]) }),
  ),
  usage: z.strictObject({ prompt_tokens: count, total_tokens: count }),
});

const model = z.strictObject({
  id: text,
  object: z.literal('model'),
  created: z.int(),
  owned_by: text,
  // Beyond OpenAI's.
  state: text,
  kind: text,
  root: text,
  context_length: count.optional(),
});

const outputText = z.strictObject({
  type: z.literal('output_text'),
  text,
  annotations: z.tuple([]),
  logprobs: z.array(token),
});
const inputText = z.strictObject({ type: z.literal('input_text'), text });
const itemStatus = z.enum(['in_progress', 'completed', 'incomplete']);
const said = (role, part) =>
  z.strictObject({ type: z.literal('message'), id: text, status: itemStatus, role: z.enum(role), content: z.array(part) });
const functionCall = z.strictObject({
  type: z.literal('function_call'),
  id: text,
  status: itemStatus,
  call_id: text,
  name: text,
  arguments: text,
});
const output = z.union([said(['assistant'], outputText), functionCall]);
/** What a response is made from. */
const item = z.union([
  said(['system', 'developer', 'user'], inputText),
  output,
  z.strictObject({ type: z.literal('function_call_output'), id: text, status: itemStatus, call_id: text, output: text }),
]);
const response = z.strictObject({
  id: text,
  object: z.literal('response'),
  created_at: z.int(),
  status: z.enum(['queued', 'in_progress', 'completed', 'incomplete', 'cancelled']),
  completed_at: z.int().nullable(),
  error: z.null(),
  incomplete_details: z.strictObject({ reason: z.literal('max_output_tokens') }).nullable(),
  instructions: text.nullable(),
  max_output_tokens: count.nullable(),
  max_tool_calls: z.null(),
  model: text,
  output: z.array(output),
  parallel_tool_calls: z.boolean(),
  previous_response_id: text.nullable(),
  prompt_cache_key: z.null(),
  reasoning: z.strictObject({ effort: z.null(), summary: z.null() }),
  safety_identifier: z.null(),
  service_tier: z.literal('default'),
  // Beyond the SDK's types, not beyond OpenAI's interface.
  store: z.boolean(),
  background: z.boolean(),
  temperature: z.number(),
  text: z.strictObject({
    format: z.union([
      z.strictObject({ type: z.literal('text') }),
      z.strictObject({ type: z.literal('json_schema'), name: text, schema: z.looseObject({}), strict: z.boolean() }),
    ]),
  }),
  tool_choice: z.union([
    z.enum(['none', 'auto', 'required']),
    z.strictObject({ type: z.literal('function'), name: text }),
  ]),
  tools: z.array(
    z.strictObject({
      type: z.literal('function'),
      name: text,
      description: text.nullish(),
      parameters: z.looseObject({}).nullable(),
      strict: z.boolean().nullable(),
    }),
  ),
  top_logprobs: count,
  top_p: z.number(),
  truncation: z.literal('disabled'),
  usage: z
    .strictObject({
      input_tokens: count,
      input_tokens_details: z.strictObject({ cached_tokens: count, cache_write_tokens: count }),
      output_tokens: count,
      output_tokens_details: z.strictObject({ reasoning_tokens: count }),
      total_tokens: count,
    })
    .nullable(),
  user: z.null(),
  metadata: z.record(text, text),
});
const inputTokens = z.strictObject({ object: z.literal('response.input_tokens'), input_tokens: count });

const inItem = { item_id: text, output_index: count };
const inPart = { ...inItem, content_index: count };
const event = z.discriminatedUnion(
  'type',
  Object.entries({
    created: { response },
    queued: { response },
    in_progress: { response },
    'output_item.added': { output_index: count, item: output },
    'content_part.added': { ...inPart, part: outputText },
    'output_text.delta': { ...inPart, delta: text, logprobs: z.array(token) },
    'output_text.done': { ...inPart, text, logprobs: z.array(token) },
    'content_part.done': { ...inPart, part: outputText },
    'function_call_arguments.delta': { ...inItem, delta: text },
    'function_call_arguments.done': { ...inItem, name: text, arguments: text },
    'output_item.done': { output_index: count, item: output },
    completed: { response },
    incomplete: { response },
  }).map(([name, fields]) =>
    z.strictObject({ type: z.literal(`response.${name}`), sequence_number: count, ...fields }),
  ),
);

const file = z.strictObject({
  id: text,
  object: z.literal('file'),
  bytes: count,
  created_at: z.int(),
  expires_at: z.int().nullable(),
  filename: text,
  purpose: z.enum(['batch', 'batch_output', 'user_data']),
  status: z.literal('processed'),
});
const lineError = z.strictObject({ code: text, message: text, param: text.nullable(), line: count.nullable() });
const time = z.int().nullable();
const batch = z.strictObject({
  id: text,
  object: z.literal('batch'),
  endpoint: text,
  model: text.nullable(),
  errors: z.strictObject({ object: z.literal('list'), data: z.array(lineError).nonempty() }).nullable(),
  input_file_id: text,
  completion_window: z.literal('24h'),
  status: z.enum(['validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled']),
  output_file_id: text.nullable(),
  error_file_id: text.nullable(),
  created_at: z.int(),
  in_progress_at: time,
  expires_at: time,
  finalizing_at: time,
  completed_at: time,
  failed_at: time,
  expired_at: time,
  cancelling_at: time,
  cancelled_at: time,
  request_counts: z.strictObject({ total: count, completed: count, failed: count }),
  metadata: z.record(text, text).nullable(),
});

const deleted = (object) => z.strictObject({ id: text, object: z.literal(object), deleted: z.literal(true) });

const failure = z.strictObject({
  error: z.strictObject({
    message: text,
    type: text,
    param: text.nullable(),
    code: text,
    // Beyond OpenAI's.
    details: z.looseObject({ suggested_action: text }),
    correlation_id: text,
    retriable: z.boolean(),
    retry_after_ms: count.optional(),
  }),
});

const OPENAI = [
  [/^POST .*\/chat\/completions$/, completion, chunks(chunk)],
  [/^GET .*\/chat\/completions$/, page(completion)],
  [/^(GET|POST) .*\/chat\/completions\/[^/]+$/, completion],
  [/^DELETE .*\/chat\/completions\/[^/]+$/, deleted('chat.completion.deleted')],
  [/^GET .*\/chat\/completions\/[^/]+\/messages$/, page(storedMessage)],
  [/^POST .*\/completions$/, textCompletion(finishReason), chunks(textCompletion(finishReason.nullable()))],
  [/^POST .*\/embeddings$/, embeddings],
  [/^GET .*\/models$/, z.strictObject({ object: z.literal('list'), data: z.array(model) })],
  [/^GET .*\/models\/[^/]+$/, model],
  [/^POST .*\/responses$/, response, responseEvents('response.created')],
  [/^POST .*\/responses\/input_tokens$/, inputTokens],
  [/^GET .*\/responses\/[^/]+$/, response, responseEvents()],
  [/^POST .*\/responses\/[^/]+\/cancel$/, response],
  [/^DELETE .*\/responses\/[^/]+$/, deleted('response')],
  [/^GET .*\/responses\/[^/]+\/input_items$/, page(item)],
  [/^POST .*\/files$/, file],
  [/^GET .*\/files$/, page(file)],
  [/^GET .*\/files\/[^/]+$/, file],
  [/^GET .*\/files\/[^/]+\/content$/],
  [/^DELETE .*\/files\/[^/]+$/, deleted('file')],
  [/^POST .*\/batches$/, batch],
  [/^GET .*\/batches$/, page(batch)],
  [/^GET .*\/batches\/[^/]+$/, batch],
  [/^POST .*\/batches\/[^/]+\/cancel$/, batch],
  [/./, failure],
];

/** What was wrong with the answers so far. */
export const violations = [];

/** Reads an answer while the SDK reads it. The last of the shapes is an error's. */
export function watch(url, response, { method = 'POST', shapes = OPENAI } = {}) {
  const asked = `${method} ${new URL(url).pathname}`;
  const what = `${asked} → ${response.status}`;
  const [, whole, stream] = response.ok ? shapes.find(([path]) => path.test(asked)) : shapes.at(-1);
  // Bytes of which nothing is expected.
  if (!whole) return response;
  const isStream = response.headers.get('content-type').startsWith('text/event-stream');
  const reader = isStream ? stream(what) : wholeReader(what, whole);
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const body = response.body.pipeThrough(
    new TransformStream({
      transform(bytes, controller) {
        reader.take(decoder.decode(bytes, { stream: true }));
        controller.enqueue(bytes);
      },
      flush: () => reader.end(),
    }),
  );
  return new Response(body, { status: response.status, headers: response.headers });
}

function check(what, shape, json) {
  try {
    return shape.parse(JSON.parse(json));
  } catch (error) {
    violations.push(`${what}: ${error.message}\n${json.slice(0, 2000)}`);
    return undefined;
  }
}

function wholeReader(what, shape) {
  let json = '';
  return {
    take: (text) => (json += text),
    end: () => check(what, shape, json),
  };
}

const expectIn = (what) => (holds, otherwise) => holds || violations.push(`${what}: ${otherwise}`);

/** Takes a stream apart; comments are left out. */
function frameReader(what, takeFrame, end) {
  let rest = '';
  return {
    take(text) {
      const frames = (rest + text).split('\n\n');
      rest = frames.pop();
      frames.filter((frame) => !frame.startsWith(':')).forEach(takeFrame);
    },
    end() {
      expectIn(what)(rest === '', `half a frame: ${rest}`);
      end();
    },
  };
}

/** Each frame has the shape, all have one head, each choice ends once, and `[DONE]` is last. */
function chunks(shape) {
  return (what) => {
    const expect = expectIn(what);
    let last = '';
    const heads = new Set();
    const begun = new Set();
    const ended = new Set();
    const takeFrame = (frame) => {
      expect(/^data: [^\n]+$/.test(frame), `not one line of data: ${frame}`);
      expect(last !== '[DONE]', 'a frame after [DONE]');
      last = frame.slice('data: '.length);
      const chunk = last === '[DONE]' ? undefined : check(what, shape, last);
      if (!chunk) return;
      heads.add(JSON.stringify([chunk.id, chunk.created, chunk.model, chunk.system_fingerprint]));
      for (const { index, finish_reason } of chunk.choices) {
        expect(!ended.has(index), `choice ${index} goes on after its end`);
        begun.add(index);
        if (finish_reason) ended.add(index);
      }
    };
    return frameReader(what, takeFrame, () => {
      expect(last === '[DONE]', `the last frame is ${last}`);
      expect(heads.size === 1, `several heads: ${[...heads]}`);
      expect(begun.size === ended.size, `choices ${[...begun]}, of which ended ${[...ended]}`);
    });
  };
}

/**
 * Each event has the shape of its name; the first and the last have these names, and no other has the last one's. Where no
 * first one is named, a stream may begin with any.
 */
export function events(shape, first, last, look = () => {}) {
  return (what) => {
    const expect = expectIn(what);
    const names = [];
    const takeFrame = (frame) => {
      const [, name, data] = /^event: ([^\n]+)\ndata: ([^\n]+)$/.exec(frame) ?? [];
      expect(data, `no name and data: ${frame}`);
      expect(!last.includes(names.at(-1)), `${name} comes after ${names.at(-1)}`);
      const event = data && check(what, shape, data);
      if (event) {
        expect(event.type === name, `${event.type} is called ${name}`);
        look(event, names.length, expect);
      }
      names.push(name);
    };
    return frameReader(what, takeFrame, () => {
      expect(names[0] === (first ?? names[0]), `the first event is ${names[0]}`);
      expect(last.includes(names.at(-1)), `the last event is ${names.at(-1)}`);
    });
  };
}

/** They are numbered; who has seen some is told the rest. */
function responseEvents(first) {
  return (what) => {
    let begin = first ? 0 : undefined;
    const numbered = ({ type, sequence_number }, number, expect) => {
      begin ??= sequence_number;
      expect(sequence_number === begin + number, `${type} with number ${sequence_number} comes as number ${begin + number}`);
    };
    return events(event, first, ['response.completed', 'response.incomplete'], numbered)(what);
  };
}
