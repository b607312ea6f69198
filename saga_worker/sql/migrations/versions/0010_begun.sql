-- now(), and not the time of the statement: so the rows that are there need not be written anew.
ALTER TABLE saga_worker.activity ADD COLUMN begun_at timestamptz NOT NULL DEFAULT now();
