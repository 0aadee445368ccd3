-- Durable work: accepted once it is here, done at least once, its outcome applied once.
CREATE TABLE jobs (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- in the order of arrival
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('task', 'batch_line', 'response')),
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    model TEXT NOT NULL,
    band SMALLINT NOT NULL,                   -- 0 is claimed first
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    attempt BIGINT NOT NULL,                  -- how often it was claimed
    reclaims INTEGER NOT NULL DEFAULT 0,      -- how often it was taken from a queen that had died
    holder TEXT,                              -- the queen that runs it, or ran it last
    is_cancelling BOOLEAN NOT NULL DEFAULT FALSE,
    created_at_ms BIGINT NOT NULL,            -- milliseconds since 1970, as the three below
    deadline_at_ms BIGINT,
    started_at_ms BIGINT,
    finished_at_ms BIGINT,
    idempotency_key TEXT,
    idempotency_digest TEXT,
    batch TEXT,                               -- the group it belongs to, and its line there
    line BIGINT,
    bytes BIGINT NOT NULL,                    -- of the four below
    request TEXT NOT NULL,                    -- JSON
    decision TEXT,                            -- JSON
    result TEXT,                              -- JSON
    events TEXT,                              -- one JSON a line
    CHECK ((batch IS NULL) = (line IS NULL)),
    CHECK ((idempotency_key IS NULL) = (idempotency_digest IS NULL)),
    CHECK ((finished_at_ms IS NULL) = (state IN ('queued', 'running')))
);

CREATE INDEX idx_jobs_owner ON jobs(owner, kind, number);
CREATE UNIQUE INDEX idx_jobs_idempotency ON jobs(owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX idx_jobs_batch ON jobs(batch, line) WHERE batch IS NOT NULL;
CREATE INDEX idx_jobs_batch_unfinished ON jobs(batch) WHERE batch IS NOT NULL AND finished_at_ms IS NULL;
CREATE INDEX idx_jobs_queued ON jobs(band, number) WHERE state = 'queued';
CREATE INDEX idx_jobs_running ON jobs(holder) WHERE state = 'running';
CREATE INDEX idx_jobs_finished ON jobs(finished_at_ms) WHERE finished_at_ms IS NOT NULL;

-- The queens that live: whoever holds jobs and is not here, or whose lease is over, counts as dead.
CREATE TABLE queens (
    id TEXT PRIMARY KEY,                      -- new at each start, and after each lost lease
    lease_until TIMESTAMPTZ NOT NULL          -- by the database's clock
);

-- How much is kept, as the sum of all rows: each way of writing has a row of its own, so that none waits for another.
CREATE TABLE tallies (
    queen TEXT NOT NULL,                      -- '' for what queens that are gone have left
    lane INTEGER NOT NULL,
    objects BIGINT NOT NULL,
    object_bytes BIGINT NOT NULL,
    ended BIGINT NOT NULL,                    -- jobs that have ended, and their bytes
    ended_bytes BIGINT NOT NULL,
    unfinished BIGINT NOT NULL,               -- jobs that have not
    PRIMARY KEY (queen, lane)
) WITH (fillfactor = 50);
