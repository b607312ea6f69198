-- New sagas in the order of ref; their gap locks are held, so the unique key cannot make anybody wait.
INSERT INTO saga_worker.saga (
  saga_id, ref, definition, definition_version, key, status, revision, seq, unsettled, attention, reason,
  state, progress, started_at, updated_at, finished_at)
SELECT saga_id, ref, definition, definition_version, key, status, revision, seq, unsettled, attention, reason,
       state, progress, started_at, updated_at, finished_at
FROM unnest($1::saga_worker.saga_insert[])
