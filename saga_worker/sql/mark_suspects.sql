-- What dead workers had in hand runs alone from now on. A suspect that was alone when its worker died has one crash
-- more; a neighbour has none. The intents are used up, so that no crash counts twice. Rows that somebody else is writing
-- are in his hands: skipped, nobody waits. Indexes: intent_pkey, inbox_pkey.
WITH intents AS (
  DELETE FROM saga_worker.intent
  WHERE worker_id = ANY($1::integer[])
  RETURNING ids, alone
), in_hand AS MATERIALIZED (
  SELECT u.id, bool_or(t.alone) AS was_alone
  FROM intents AS t
  CROSS JOIN LATERAL unnest(t.ids) AS u(id)
  GROUP BY u.id
), still_ready AS MATERIALIZED (
  SELECT i.id, h.was_alone
  FROM in_hand AS h
  JOIN saga_worker.inbox AS i ON i.id = h.id
  WHERE i.state = 0
  ORDER BY i.id
  FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE saga_worker.inbox AS i
SET crashes = i.crashes + CASE WHEN i.suspect AND r.was_alone THEN 1 ELSE 0 END, suspect = true
FROM still_ready AS r
WHERE i.id = r.id
RETURNING i.ref
