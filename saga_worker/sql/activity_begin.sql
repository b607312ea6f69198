-- Activities that are wanted for the first time; those of which $8 says so run here at once. Their numbers were drawn
-- under the locks of their sagas: nobody else has them, so that no conflict is looked for, and all that a row holds is
-- known before. Index: none is read.
INSERT INTO saga_worker.activity (
  ref, seq, run, definition, definition_version, saga_key, step, state, epoch, attempts, worker_id, next_at, timeout_at,
  timeout_seconds, input)
SELECT v.ref, v.seq, 1, v.definition, v.definition_version, v.saga_key, v.step, v.runs::integer, 1, v.runs::integer,
       CASE WHEN v.runs THEN $10::integer END, $11::timestamptz,
       CASE WHEN v.runs THEN $11::timestamptz + make_interval(secs => v.timeout_seconds) END, v.timeout_seconds, v.input
FROM unnest(
  $1::uuid[], $2::integer[], $3::text[], $4::integer[], $5::text[], $6::text[], $7::double precision[], $8::boolean[],
  $9::bytea[])
  AS v(ref, seq, definition, definition_version, saga_key, step, timeout_seconds, runs, input)
