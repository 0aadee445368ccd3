-- Files of callers: in pieces as they came, seen when they are complete.
CREATE TABLE files (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- in the order of coming
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    created_at BIGINT NOT NULL,              -- seconds since 1970, as the one below
    expires_at BIGINT,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('uploading', 'uploaded', 'deleted'))
);

CREATE INDEX idx_files_owner ON files(owner, number);
CREATE INDEX idx_files_expires_at ON files(expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_files_incomplete ON files(status) WHERE status <> 'uploaded';

CREATE TABLE file_chunks (
    file BIGINT NOT NULL REFERENCES files(number),
    number INTEGER NOT NULL,                  -- from 0
    data BYTEA NOT NULL,                      -- 1 MiB, and less in the last one
    PRIMARY KEY (file, number)
);

-- Most of it is compressed already, or not worth the time.
ALTER TABLE file_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- How much each owner has, but for what is deleted.
CREATE TABLE file_usage (
    owner TEXT PRIMARY KEY,
    bytes BIGINT NOT NULL
);

-- Batches: files of requests that are jobs, a line each.
CREATE TABLE batches (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- in the order of coming
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    created_at BIGINT NOT NULL,              -- seconds since 1970, as all times here
    endpoint TEXT NOT NULL,
    model TEXT,
    input_file_id TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed',
        'expired', 'cancelling', 'cancelled')),
    holder TEXT,                              -- the queen that sees to it
    expires_at BIGINT,
    in_progress_at BIGINT,
    finalizing_at BIGINT,
    completed_at BIGINT,
    failed_at BIGINT,
    expired_at BIGINT,
    cancelling_at BIGINT,
    cancelled_at BIGINT,
    output_file_id TEXT,
    error_file_id TEXT,
    errors TEXT,                              -- JSON
    metadata TEXT NOT NULL                    -- a JSON object of strings
);

CREATE INDEX idx_batches_owner ON batches(owner, number);
CREATE INDEX idx_batches_created_at ON batches(created_at);
CREATE INDEX idx_batches_unfinished ON batches(number)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
