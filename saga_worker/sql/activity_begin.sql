-- Activities that are wanted for the first time; those that have room run here at once. Their numbers were drawn under
-- the locks of their sagas: nobody else has them, so that no conflict is looked for, and all that a row holds is known
-- before. Index: none is read.
INSERT INTO saga_worker.activity (
  ref, seq, run, definition, definition_version, saga_key, step, state, epoch, attempts, worker_id, next_at, timeout_at,
  timeout_seconds, input, traceparent, tracestate)
SELECT v.ref, v.seq, 1, v.definition, v.definition_version, v.saga_key, v.step, v.runs_here::integer, 1,
       v.runs_here::integer, CASE WHEN v.runs_here THEN $2::integer END, $3::timestamptz,
       CASE WHEN v.runs_here THEN $3::timestamptz + make_interval(secs => v.timeout_seconds) END, v.timeout_seconds,
       v.input, v.traceparent, v.tracestate
FROM unnest($1::saga_worker.activity_traced[]) AS v
