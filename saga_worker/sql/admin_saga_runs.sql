-- The earlier runs of a key but this one ($3), the last first, at most 20. Index: saga_earlier_runs.
SELECT saga_id, definition_version, saga_worker.status_word(status) AS status, reason, started_at, finished_at
FROM saga_worker.saga
WHERE ref IS NULL AND definition = $1::text AND key = $2::text AND saga_id <> $3::uuid
ORDER BY started_at DESC
LIMIT 20
