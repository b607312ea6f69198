-- Activities of sagas that have gone on to another version: further attempts are made by it. One that runs goes on as it
-- began, and its outcome counts. Locked in the order of the key. Index: activity_pkey.
WITH found AS MATERIALIZED (
  SELECT a.ref, a.seq, v.definition_version, v.step, v.timeout_seconds, v.input
  FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::double precision[], $6::bytea[])
    AS v(ref, seq, definition_version, step, timeout_seconds, input)
  JOIN saga_worker.activity AS a ON a.ref = v.ref AND a.seq = v.seq
  WHERE a.ref = ANY($1::uuid[])
  ORDER BY a.ref, a.seq
  FOR UPDATE OF a
)
UPDATE saga_worker.activity AS a
SET definition_version = found.definition_version, step = found.step, timeout_seconds = found.timeout_seconds,
    input = found.input
FROM found
WHERE a.ref = found.ref AND a.seq = found.seq AND a.ref = ANY($1::uuid[])
