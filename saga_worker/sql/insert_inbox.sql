-- Rows are inserted in the order of dedup, so that two consumers wait for each other only upward, and numbered in the
-- order of arrival, which is the order in which a saga takes them. Index: inbox_dedup_key.
WITH numbered_rows AS MATERIALIZED (
  SELECT nextval('saga_worker.inbox_id_seq') AS id, u.*
  FROM unnest(
    $1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::uuid[], $9::text[],
    $10::text[], $11::smallint[], $12::text[], $13::text[], $14::boolean[], $15::smallint[], $16::double precision[],
    $17::bytea[], $18::bytea[])
    WITH ORDINALITY
    AS u(dedup, body_sha, consumer, source, message_id, type, role, ref, saga_key, correlation_id, state, reason,
         error, suspect, prio, expires_seconds, props, body, place)
  ORDER BY place
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
