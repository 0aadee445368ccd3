-- Models whose bytes are, or once were, on this machine. What can be fetched but never was has no row.
CREATE TABLE models (
    id TEXT PRIMARY KEY,              -- SHA-256 of "provider:reference", hexadecimal
    provider TEXT NOT NULL,           -- 'hf', 'file' or 'pip'
    reference TEXT NOT NULL,          -- the name that requests use
    local_path TEXT NOT NULL,         -- the main file
    size_bytes INTEGER NOT NULL,      -- all files together
    downloaded_at INTEGER,            -- seconds since 1970
    last_used_at INTEGER,             -- seconds since 1970
    kind TEXT NOT NULL,               -- 'text-gen' or 'embedding'
    sha256 TEXT,                      -- of the main file, hexadecimal, where it is known
    state TEXT NOT NULL CHECK (state IN ('present', 'missing'))
);

CREATE UNIQUE INDEX idx_models_reference ON models(reference);
