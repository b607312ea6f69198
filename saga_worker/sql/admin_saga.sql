-- One saga by its id ($1) or by its ref ($2), with its progress and the database's clock. Relies on the primary key
-- and saga_ref_key. A ref finds the present run of a key only.
SELECT v.saga_id, v.ref, v.name, v.definition_version, v.key, v.status, v.reason, v.attention, v.unsettled, v.state,
       v.revision, v.started_at, v.updated_at, v.finished_at, v.trace_id, s.progress, clock_timestamp() AS now
FROM saga_worker.v_saga v
JOIN saga_worker.saga s ON s.saga_id = v.saga_id
WHERE v.saga_id = $1::uuid OR v.ref = $2::uuid
