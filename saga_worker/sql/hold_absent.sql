-- Their ready rows leave the claim index until a worker lists the definition again. Index: inbox_ready.
UPDATE saga_worker.inbox
SET state = 2, reason = 'definition_absent'
WHERE state = 0
  AND ref = ANY($1::uuid[])
  AND role <> 2
