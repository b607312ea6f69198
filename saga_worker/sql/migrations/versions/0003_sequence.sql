ALTER TABLE saga_worker.inbox ADD COLUMN sequence bigint;

CREATE INDEX inbox_line ON saga_worker.inbox (ref, source, sequence) WHERE state = 1 AND sequence IS NOT NULL;
