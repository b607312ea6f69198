-- Rows are inserted in the order of dedup, so that two consumers wait for each other only upward, and numbered in the
-- order of arrival, which is the order in which a saga takes them. Index: inbox_dedup_key.
WITH numbered_rows AS MATERIALIZED (
  SELECT nextval('saga_worker.inbox_id_seq') AS id, u.*
  FROM unnest($1::saga_worker.inbox_insert[]) WITH ORDINALITY AS u
  ORDER BY ordinality
)
INSERT INTO saga_worker.inbox (
  id, dedup, body_sha, consumer, source, message_id, type, role, ref, saga_key, correlation_id, state, reason, error,
  suspect, prio, first_failed_at, last_failed_at, settled_at, expires_at, props, body)
OVERRIDING SYSTEM VALUE
SELECT id, dedup, body_sha, consumer, source, message_id, type, role, ref, saga_key, correlation_id, state, reason,
       error, suspect, prio,
       CASE WHEN state = 5 THEN clock_timestamp() END,
       CASE WHEN state = 5 THEN clock_timestamp() END,
       CASE WHEN state IN (3, 4) THEN clock_timestamp() END,
       clock_timestamp() + make_interval(secs => expires_seconds),
       props, body
FROM numbered_rows
ORDER BY dedup
ON CONFLICT (dedup) DO NOTHING
RETURNING id, dedup
