-- `refs` and `timers` are parallel: the saga, and "name:epoch" of its timer as in the journal. A worker of an older
-- release says nothing of them, and never that it ran something alone.
ALTER TABLE saga_worker.intent
  ADD COLUMN alone boolean NOT NULL DEFAULT false,
  ADD COLUMN refs uuid[] NOT NULL DEFAULT '{}',
  ADD COLUMN timers text[] NOT NULL DEFAULT '{}';
