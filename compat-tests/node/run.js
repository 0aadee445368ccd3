// Starts what the tests talk to, runs them, one file after the other, and stops it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';

import { start, TOKEN } from './system.js';

// An answer that is found again tells nothing of the way to it.
const open = { RBEE_CACHE_MB: '0' };
// Serves one, lets one more wait, tells at once when a model must be loaded first, and wants a token.
const narrow = { ...open, RBEE_HIVE_SLOTS: '1', RBEE_QUEUE_LIMIT: '1', RBEE_COLD_START_SECONDS: '0', RBEE_TOKEN: TOKEN };
const started = await Promise.allSettled([start(open), start(narrow)]);
const systems = started.flatMap(({ value }) => value ?? []);
try {
  const failed = started.find(({ reason }) => reason);
  if (failed) throw failed.reason;
  process.exitCode = await test(...systems.map(({ url }) => url));
} finally {
  await Promise.all(systems.map((system) => system.stop()));
}

async function test(RBEE_URL, RBEE_NARROW_URL) {
  const tests = spawn(
    process.execPath,
    ['--test', '--test-concurrency=1', '--test-reporter=spec', ...process.argv.slice(2)],
    { stdio: 'inherit', env: { ...process.env, RBEE_URL, RBEE_NARROW_URL } },
  );
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => tests.kill(signal));
  const [code] = await once(tests, 'exit');
  return code ?? 1;
}
