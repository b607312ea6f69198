-- Sagas among $1 whose definition no live worker lists, locked. One that is over for good is judged by any version.
-- Indexes: saga_ref_key, child_ref.
SELECT s.ref
FROM saga_worker.saga AS s
WHERE s.ref = ANY($1::uuid[])
  AND s.definition || '/' || s.definition_version <> ALL($2::text[])
  AND NOT (s.finished_at IS NOT NULL AND s.unsettled = 0
           AND (SELECT c.parent FROM saga_worker.child AS c WHERE c.ref = s.ref LIMIT 1) IS NULL
           AND EXISTS (SELECT FROM unnest($2::text[]) AS live
                       WHERE left(live, length(s.definition) + 1) = s.definition || '/'))
ORDER BY s.ref
FOR NO KEY UPDATE SKIP LOCKED
