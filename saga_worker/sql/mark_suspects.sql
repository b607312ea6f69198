-- What dead workers had in hand runs alone from now on. A suspect has one crash more for each worker that died while it
-- was alone with it; a neighbour has none. The intents are used up, so that no crash counts twice. Rows that somebody else is writing
-- are in his hands: skipped, nobody waits. Indexes: intent_pkey, inbox_pkey.
WITH intents AS (
  DELETE FROM saga_worker.intent
  WHERE worker_id = ANY($1::integer[])
  RETURNING ids, alone
), in_hand AS MATERIALIZED (
  SELECT u.id, count(*) FILTER (WHERE t.alone) AS alone
  FROM intents AS t
  CROSS JOIN LATERAL unnest(t.ids) AS u(id)
  GROUP BY u.id
), still_ready AS MATERIALIZED (
  SELECT i.id, h.alone
  FROM in_hand AS h
  JOIN saga_worker.inbox AS i ON i.id = h.id
  WHERE i.state = 0
  ORDER BY i.id
  FOR NO KEY UPDATE OF i SKIP LOCKED
)
UPDATE saga_worker.inbox AS i
SET crashes = i.crashes + CASE WHEN i.suspect THEN r.alone ELSE greatest(r.alone - 1, 0) END, suspect = true
FROM still_ready AS r
WHERE i.id = r.id
RETURNING i.ref
