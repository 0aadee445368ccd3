// A real system for the tests: a queen with her hive and workers, started by the keeper as a user starts them.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const MODEL = 'smollm2-135m-instruct';
export const EMBEDDING_MODEL = 'all-minilm-l6-v2';
export const TOKEN = 'a-token-for-tests';

const START_MS = 60_000;
const STOP_MS = 30_000;

/** A folder that `make test` prepares and names. */
function required(name) {
  assert(process.env[name], `${name} is not set: run \`make test-node\`, which prepares what it names`);
  return process.env[name];
}

/** Starts everything on a data directory of its own, with these settings. */
export async function start(settings = {}) {
  const models = required('RBEE_TEST_MODELS');
  const files = [
    [MODEL, 'text-gen', join(models, `${MODEL}.gguf`)],
    [EMBEDDING_MODEL, 'embedding', join(models, EMBEDDING_MODEL, 'model.safetensors')],
  ];
  const dataDir = await mkdtemp(join(tmpdir(), 'rbee-node-'));
  // The models are taken where they lie: the tests need no network.
  const entries = files.map(
    ([name, kind, path]) =>
      `[[hive.models]]\nreference = "${name}"\nkind = "${kind}"\nprovider = "file"\npath = "${path}"\n`,
  );
  await writeFile(join(dataDir, 'config.toml'), entries.join(''));
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('RBEE_'));
  const environment = { RBEE_HIVE_PORT: '0', RBEE_HIVE_FIRST_WORKER_PORT: '18201', ...settings };
  const keeper = spawn(
    join(required('RBEE_BIN_DIR'), 'rbee-keeper'),
    ['up', '--port', '0', '--data-dir', dataDir, '--json'],
    { env: { ...Object.fromEntries(inherited), ...environment }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  try {
    await once(keeper, 'spawn');
    const { url } = await announced(keeper);
    return { url, stop: () => stop(keeper, dataDir) };
  } catch (error) {
    await rm(dataDir, { recursive: true });
    throw error;
  }
}

/** The JSON that `up --json` prints when all is ready. */
async function announced(keeper) {
  const late = setTimeout(() => keeper.kill('SIGKILL'), START_MS);
  let text = '';
  for await (const line of createInterface(keeper.stdout)) {
    text += line;
    if (line === '}') {
      clearTimeout(late);
      return JSON.parse(text);
    }
  }
  throw new Error(`rbee-keeper up ended before it was ready: ${text}`);
}

async function stop(keeper, dataDir) {
  const late = setTimeout(() => keeper.kill('SIGKILL'), STOP_MS);
  const ended = once(keeper, 'exit');
  keeper.kill('SIGINT');
  const [code] = await ended;
  clearTimeout(late);
  await rm(dataDir, { recursive: true });
  assert.equal(code, 0, `rbee-keeper up ended with ${code}`);
}
