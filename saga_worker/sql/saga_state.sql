-- The state of one saga, by its id ($1) or by its ref ($2), as the last transaction left it: no lock is taken or waited
-- for. Relies on the primary key and saga_ref_key.
SELECT saga_id, ref, definition, definition_version, key, status, revision, state
FROM saga_worker.saga
WHERE saga_id = $1::uuid OR ref = $2::uuid
