// The shapes that Anthropic's types have, for `watch`. What they call null may be left out: the SDK reads it the same.

import { z } from 'zod';

import { events } from './answers.js';

const count = z.int().nonnegative();
const text = z.string();

const usage = z.strictObject({
  input_tokens: count,
  cache_creation_input_tokens: count,
  cache_read_input_tokens: count,
  output_tokens: count,
  output_tokens_details: z.strictObject({ thinking_tokens: count }),
});
const stopReason = z.enum(['end_turn', 'max_tokens', 'stop_sequence', 'tool_use']);
const end = { stop_reason: stopReason, stop_sequence: text.nullable() };
const textBlock = z.strictObject({ type: z.literal('text'), text });
const toolUse = z.strictObject({ type: z.literal('tool_use'), id: text, name: text, input: z.looseObject({}) });
const block = z.discriminatedUnion('type', [textBlock, toolUse]);
const head = { id: text, type: z.literal('message'), role: z.literal('assistant'), model: text, usage };
const message = z.strictObject({ ...head, content: z.array(block), ...end });

const begun = z.strictObject({ ...head, content: z.tuple([]), stop_reason: z.null(), stop_sequence: z.null() });
const delta = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text_delta'), text }),
  z.strictObject({ type: z.literal('input_json_delta'), partial_json: text }),
]);
const event = z.discriminatedUnion(
  'type',
  Object.entries({
    message_start: { message: begun },
    ping: {},
    content_block_start: { index: count, content_block: block },
    content_block_delta: { index: count, delta },
    content_block_stop: { index: count },
    message_delta: { delta: z.strictObject(end), usage },
    message_stop: {},
  }).map(([name, fields]) => z.strictObject({ type: z.literal(name), ...fields })),
);

const model = z.strictObject({
  id: text,
  type: z.literal('model'),
  display_name: text,
  created_at: z.iso.datetime(),
  lifecycle: z.literal('active'),
  max_input_tokens: count.nullable(),
  max_tokens: count.nullable(),
});
const models = z.strictObject({
  data: z.array(model),
  has_more: z.boolean(),
  first_id: text.nullable(),
  last_id: text.nullable(),
});

const failure = z.strictObject({
  type: z.literal('error'),
  error: z.strictObject({
    type: text,
    message: text,
    // Beyond Anthropic's.
    param: text.nullable(),
    code: text,
    details: z.looseObject({ suggested_action: text }),
    correlation_id: text,
    retriable: z.boolean(),
    retry_after_ms: count.optional(),
  }),
  request_id: text,
});

export const ANTHROPIC = [
  [/^POST .*\/messages$/, message, events(event, 'message_start', ['message_stop'])],
  [/^POST .*\/messages\/count_tokens$/, z.strictObject({ input_tokens: count })],
  [/^GET .*\/models$/, models],
  [/^GET .*\/models\/[^/]+$/, model],
  [/./, failure],
];
