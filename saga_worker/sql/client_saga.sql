-- One saga by its id ($1), or the present one of a key by its ref ($2), as it was last committed; no lock is taken.
-- Indexes: saga_pkey, saga_ref_key.
SELECT saga_id, definition, definition_version, key, status, reason, attention, unsettled, revision, state, progress,
       started_at, updated_at, finished_at
FROM saga_worker.saga
WHERE saga_id = $1::uuid OR ref = $2::uuid
