-- What a worker is about to run, before user code runs. Not flushed and not logged: a crash of PostgreSQL loses it, and
-- that is not the fault it counts. Index: intent_pkey.
INSERT INTO saga_worker.intent (worker_id, slot, ids, alone, refs, timers)
SELECT $1::integer, $2::smallint, $3::bigint[], $4::boolean, $5::uuid[], $6::text[]
FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed
ON CONFLICT (worker_id, slot) DO UPDATE
SET ids = excluded.ids, alone = excluded.alone, refs = excluded.refs, timers = excluded.timers
