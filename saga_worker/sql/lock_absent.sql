-- Sagas among $1 whose definition no live worker lists, locked. Indexes: saga_ref_key.
SELECT s.ref
FROM saga_worker.saga AS s
WHERE s.ref = ANY($1::uuid[])
  AND s.definition || '/' || s.definition_version <> ALL($2::text[])
ORDER BY s.ref
FOR NO KEY UPDATE SKIP LOCKED
