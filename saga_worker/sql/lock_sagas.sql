-- Locks the sagas that exist and are free; busy ones are skipped, so nobody waits. Index: saga_ref_key.
-- Nothing may be joined or sub-selected here: after a lock wait only the columns of the locked row are current.
SELECT saga_id, ref, definition, definition_version, key, status, revision, seq, unsettled, attention, reason,
       state, progress, started_at, updated_at, finished_at
FROM saga_worker.saga
WHERE ref = ANY($1::uuid[])
ORDER BY ref
FOR NO KEY UPDATE SKIP LOCKED
