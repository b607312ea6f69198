-- These runs have ended and make room for the next one of their key: found by their id from now on. Guarded as
-- update_sagas is. Index: saga_pkey.
UPDATE saga_worker.saga AS s
SET ref = NULL
FROM unnest($1::uuid[], $2::integer[]) AS v(saga_id, locked_revision)
WHERE s.saga_id = v.saga_id
  AND s.saga_id = ANY($1::uuid[])
  AND s.revision = v.locked_revision
