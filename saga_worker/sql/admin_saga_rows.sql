-- The rows of a ref that are not settled, and its dead ones. Relies on inbox_ready, inbox_parked and inbox_held: a state
-- stands literally in each branch, since a plan made for a parameter could not use a partial index. Settled rows
-- have no index by ref; the journal names those that were applied.
SELECT waiting.id, saga_worker.state_word(waiting.state) AS state, waiting.type, waiting.source, waiting.message_id,
       waiting.reason, waiting.error, waiting.attempts, waiting.crashes, waiting.received_at, waiting.next_at,
       waiting.expires_at
FROM (
  (SELECT id, state, type, source, message_id, reason, error, attempts, crashes, received_at, next_at, expires_at
   FROM saga_worker.inbox WHERE state = 0 AND ref = $1::uuid ORDER BY prio, id LIMIT 200)
  UNION ALL
  (SELECT id, state, type, source, message_id, reason, error, attempts, crashes, received_at, next_at, expires_at
   FROM saga_worker.inbox WHERE state IN (1) AND ref = $1::uuid ORDER BY id LIMIT 200)
  UNION ALL
  (SELECT id, state, type, source, message_id, reason, error, attempts, crashes, received_at, next_at, expires_at
   FROM saga_worker.inbox WHERE state IN (2, 5) AND ref = $1::uuid ORDER BY id LIMIT 200)
) AS waiting
ORDER BY waiting.id
