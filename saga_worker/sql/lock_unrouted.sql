-- Parked rows of types that no route knew and one knows now. Index: inbox_parked (ref IS NULL).
SELECT id, source, message_id, type, correlation_id, props, body,
       extract(epoch FROM expires_at - clock_timestamp())::double precision AS expires_seconds
FROM saga_worker.inbox
WHERE state IN (1)
  AND ref IS NULL
  AND type = ANY($1::text[])
ORDER BY id
LIMIT $2::integer
FOR UPDATE SKIP LOCKED
