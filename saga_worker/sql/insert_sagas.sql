-- New sagas in the order of ref; their gap locks are held, so the unique key cannot make anybody wait.
INSERT INTO saga_worker.saga (
  saga_id, ref, definition, definition_version, key, status, revision, seq, unsettled, attention, reason,
  state, progress, started_at, updated_at, finished_at)
SELECT *
FROM unnest(
  $1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::text[], $6::smallint[], $7::integer[], $8::integer[],
  $9::smallint[], $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::timestamptz[], $15::timestamptz[],
  $16::timestamptz[])
