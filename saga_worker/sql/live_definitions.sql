-- Every 'name/version' that a worker with a running lease lists.
SELECT DISTINCT unnest(definitions) AS definition
FROM saga_worker.worker
WHERE lease_until >= statement_timestamp()
