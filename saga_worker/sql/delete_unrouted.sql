-- The originals of rows that were routed in this transaction; we hold their locks. Index: inbox_pkey.
DELETE FROM saga_worker.inbox
WHERE id = ANY($1::bigint[])
  AND state = 1
  AND ref IS NULL
