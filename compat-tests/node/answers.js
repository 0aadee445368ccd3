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

const SHAPES = [
  [/\/chat\/completions$/, completion, chunk],
  [/\/completions$/, textCompletion(finishReason), textCompletion(finishReason.nullable())],
  [/\/embeddings$/, embeddings],
  [/\/models$/, z.strictObject({ object: z.literal('list'), data: z.array(model) })],
  [/\/models\/[^/]+$/, model],
];

/** What was wrong with the answers so far. */
export const violations = [];

/** Reads an answer while the SDK reads it. */
export function watch(url, response) {
  const what = `${new URL(url).pathname} → ${response.status}`;
  const [, whole, frame] = response.ok ? SHAPES.find(([path]) => path.test(new URL(url).pathname)) : [null, failure];
  const isStream = response.headers.get('content-type').startsWith('text/event-stream');
  const reader = isStream ? frameReader(what, frame) : wholeReader(what, whole);
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

/** Each frame has the shape, all have one head, each choice ends once, and `[DONE]` is last. */
function frameReader(what, shape) {
  const expect = (holds, otherwise) => holds || violations.push(`${what}: ${otherwise}`);
  let rest = '';
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
  return {
    take(text) {
      const frames = (rest + text).split('\n\n');
      rest = frames.pop();
      frames.filter((frame) => !frame.startsWith(':')).forEach(takeFrame);
    },
    end() {
      expect(rest === '', `half a frame: ${rest}`);
      expect(last === '[DONE]', `the last frame is ${last}`);
      expect(heads.size === 1, `several heads: ${[...heads]}`);
      expect(begun.size === ended.size, `choices ${[...begun]}, of which ended ${[...ended]}`);
    },
  };
}
