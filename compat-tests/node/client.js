// The official clients as a user makes them, with nothing changed but the base URL; their answers are watched.

import assert from 'node:assert/strict';
import { afterEach } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

import { violations, watch } from './answers.js';
import { ANTHROPIC } from './anthropic.js';
import { MODEL } from './system.js';

export const URL_OPEN = required('RBEE_URL');
export const URL_NARROW = required('RBEE_NARROW_URL');

function required(name) {
  assert(process.env[name], `${name} is not set: run \`make test-node\`, which starts what it names`);
  return process.env[name];
}

// Whatever a test asked and looked at, all its answers had the shapes of the SDK's types.
afterEach(() => assert.deepEqual(violations.splice(0), []));

/** A client. `onAnswer` sees each answer's head, retried ones too. Retries would hide what a test is to see. */
export function connect({ url = URL_OPEN, onAnswer, ...options } = {}) {
  return new OpenAI({ baseURL: `${url}/v1`, ...settings({ onAnswer }), ...options });
}

/** The same of Anthropic's. */
export function connectAnthropic({ url = URL_OPEN, onAnswer, ...options } = {}) {
  return new Anthropic({ baseURL: url, ...settings({ onAnswer, shapes: ANTHROPIC }), ...options });
}

function settings({ onAnswer = () => {}, shapes }) {
  const watched = async (url, init) => {
    const response = await fetch(url, init);
    onAnswer(response);
    return watch(url, response, { method: init.method.toUpperCase(), shapes });
  };
  return { apiKey: 'none', maxRetries: 0, timeout: 60_000, fetch: watched };
}

/** A request; greedy and short unless told otherwise. */
export function ask(content, options = {}) {
  return { model: MODEL, messages: [{ role: 'user', content }], temperature: 0, max_tokens: 24, ...options };
}

/** A request whose answer goes on for longer than any test. */
export const endless = (options) => ask('Tell a long story.', { max_tokens: 1800, ignore_eos: true, ...options });

/** All that a stream or a list gives. */
export async function all(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

export const ids = async (list) => (await all(list)).map(({ id }) => id);

/** What asking for something fails with that is not there, or no more. */
export const missing = (param) => ({ constructor: OpenAI.NotFoundError, status: 404, param });

/** How many requests the workers take, and how many more they would. */
export async function slots(url = URL_OPEN, token = 'none') {
  const response = await fetch(`${url}/v2/workers/list`, { headers: { Authorization: `Bearer ${token}` } });
  const { workers } = await response.json();
  const sum = (name) => workers.reduce((total, worker) => total + worker[name], 0);
  return { free: sum('slots_available'), all: sum('slots_total') };
}

/** Asks again until it holds; what holds then. */
export async function eventually(holds, otherwise, withinMs = 5000) {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const held = await holds();
    if (held) return held;
    assert(Date.now() < deadline, otherwise);
    await sleep(10);
  }
}

/** A batch, or a response that is made in the background, as it is when it has ended. */
export function ended(resource, { id }) {
  const underWay = ['validating', 'queued', 'in_progress', 'finalizing', 'cancelling'];
  const end = async () => {
    const now = await resource.retrieve(id);
    return !underWay.includes(now.status) && now;
  };
  return eventually(end, `${id} has not ended after a minute`, 60_000);
}

export function eventuallyAllFree(url, token) {
  const isFree = async () => {
    const { free, all } = await slots(url, token);
    return free === all;
  };
  return eventually(isFree, 'a worker is still busy 5 s after its reader left');
}
