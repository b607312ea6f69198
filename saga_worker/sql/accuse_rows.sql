-- As mark_suspects, for rows whose sagas are locked here and before any lease is over: whoever had one in hand and still
-- lived would hold the lock, or would have taken its word back. The words are used up with this transaction, so that no
-- death counts twice. Index: inbox_pkey.
WITH words AS MATERIALIZED (
  SELECT worker_id, slot, ids, alone
  FROM saga_worker.intent
  WHERE worker_id <> $1::integer AND ids && $2::bigint[]
  ORDER BY worker_id, slot
  FOR UPDATE
), used_up AS (
  UPDATE saga_worker.intent AS t
  SET ids = ARRAY(SELECT unnest(w.ids) EXCEPT SELECT unnest($2::bigint[]))
  FROM words AS w
  WHERE t.worker_id = w.worker_id AND t.slot = w.slot
), in_hand AS MATERIALIZED (
  SELECT u.id, count(*) FILTER (WHERE w.alone) AS alone
  FROM words AS w
  CROSS JOIN LATERAL unnest(w.ids) AS u(id)
  WHERE u.id = ANY($2::bigint[])
  GROUP BY u.id
)
UPDATE saga_worker.inbox AS i
SET crashes = i.crashes + CASE WHEN i.suspect THEN h.alone ELSE greatest(h.alone - 1, 0) END, suspect = true
FROM in_hand AS h
WHERE i.id = h.id AND i.state = 0 AND i.id = ANY($2::bigint[])
RETURNING i.id, i.crashes
