-- How long the files that a batch leaves are kept, in seconds; until they are deleted if null.
ALTER TABLE batches ADD COLUMN output_seconds BIGINT;
