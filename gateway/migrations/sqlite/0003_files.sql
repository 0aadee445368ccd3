-- Files of callers: in pieces as they came, seen when they are complete.
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of coming
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    created_at INTEGER NOT NULL,              -- seconds since 1970, as the one below
    expires_at INTEGER,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('uploading', 'uploaded', 'deleted'))
);

CREATE INDEX idx_files_owner ON files(owner, number);
CREATE INDEX idx_files_expires_at ON files(expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_files_incomplete ON files(status) WHERE status <> 'uploaded';

CREATE TABLE file_chunks (
    file INTEGER NOT NULL REFERENCES files(number),
    number INTEGER NOT NULL,                  -- from 0
    data BLOB NOT NULL,                       -- 1 MiB, and less in the last one
    PRIMARY KEY (file, number)
);

-- How much each owner has, but for what is deleted.
CREATE TABLE file_usage (
    owner TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
);

-- Batches: files of requests that are jobs, a line each.
CREATE TABLE batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of coming
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    created_at INTEGER NOT NULL,              -- seconds since 1970, as all times here
    endpoint TEXT NOT NULL,
    model TEXT,
    input_file_id TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed',
        'expired', 'cancelling', 'cancelled')),
    holder TEXT,                              -- the queen that sees to it
    expires_at INTEGER,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    output_file_id TEXT,
    error_file_id TEXT,
    errors TEXT,                              -- JSON
    metadata TEXT NOT NULL                    -- a JSON object of strings
);

CREATE INDEX idx_batches_owner ON batches(owner, number);
CREATE INDEX idx_batches_created_at ON batches(created_at);
CREATE INDEX idx_batches_unfinished ON batches(number)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
