-- The newest $2 events that a saga ($1) has taken, oldest first; type and body as long as the inbox keeps them. Relies on
-- the primary keys of journal and inbox.
SELECT newest.revision, newest.decided_at, newest.source, newest.message_id, i.type, i.body
FROM (
  SELECT revision, decided_at, source, message_id, inbox_id
  FROM saga_worker.journal
  WHERE saga_id = $1::uuid AND input_kind = 'event'
  ORDER BY revision DESC
  LIMIT $2::integer
) AS newest
LEFT JOIN saga_worker.inbox i ON i.id = newest.inbox_id
ORDER BY newest.revision
