-- What callers asked to be kept: chat completions and responses.
CREATE TABLE objects (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- in the order of writing
    kind TEXT NOT NULL CHECK (kind IN ('chat.completion', 'response')),
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,                      -- the caller who alone may see it
    created_at BIGINT NOT NULL,               -- seconds since 1970
    model TEXT NOT NULL,                      -- as the caller named it
    metadata TEXT NOT NULL,                   -- a JSON object of strings
    pairs TEXT[] NOT NULL,                    -- the same as "key":"value" each; jsonb has no NUL
    previous TEXT,                            -- the id of the response that this one goes on from
    bytes BIGINT NOT NULL,                    -- of the two below
    input TEXT NOT NULL,                      -- the messages or items that were asked with, a JSON array
    body TEXT NOT NULL                        -- the answer, JSON
);

CREATE INDEX idx_objects_owner ON objects(owner, kind, number);
CREATE INDEX idx_objects_created_at ON objects(created_at);

-- Where each item of a response is, so that a request can name it instead of repeating it.
CREATE TABLE items (
    id TEXT NOT NULL,
    object BIGINT NOT NULL REFERENCES objects(number) ON DELETE CASCADE,
    PRIMARY KEY (id, object)
);

CREATE INDEX idx_items_object ON items(object);
