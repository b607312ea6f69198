-- Versions of a definition that a live worker lists or an open saga has. Read only when two uses differ.
SELECT DISTINCT definition_version AS version
FROM saga_worker.saga
WHERE definition = $1::text
  AND finished_at IS NULL
UNION
SELECT DISTINCT substring(listed FROM '/([0-9]+)$')::integer
FROM saga_worker.worker
CROSS JOIN LATERAL unnest(definitions) AS listed
WHERE lease_until >= statement_timestamp()
  AND left(listed, length($1::text) + 1) = $1::text || '/'
