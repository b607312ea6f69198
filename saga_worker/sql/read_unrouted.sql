-- Dead rows without a saga, whole, for the routing that a replay does anew. Index: inbox_pkey.
SELECT id, consumer, source, message_id, type, role, correlation_id, received_at, props, body
FROM saga_worker.inbox
WHERE id = ANY($1::bigint[])
  AND state = 5
  AND ref IS NULL
ORDER BY id
