-- Loose index scan over inbox_ready: one descent per saga, so that a saga with 20,000 ready rows costs as much as one
-- with a single row. A window over rows in the order of id found 1 saga in its first 200 rows (the first other saga stood
-- at 20,001); this finds 200 sagas in 0.5 ms. The head of a saga decides for all of its rows.
-- The state is a literal: a generic plan cannot prove the index predicate from a parameter.
WITH RECURSIVE heads(ref, next_at, consumer, place) AS (
  (SELECT ref, next_at, consumer, 1
   FROM saga_worker.inbox
   WHERE state = 0 AND ref >= $1::uuid
   ORDER BY ref, prio, id
   LIMIT 1)
  UNION ALL
  SELECT following.ref, following.next_at, following.consumer, heads.place + 1
  FROM heads
  CROSS JOIN LATERAL (
    SELECT ref, next_at, consumer
    FROM saga_worker.inbox
    WHERE state = 0 AND ref > heads.ref
    ORDER BY ref, prio, id
    LIMIT 1) AS following
  WHERE heads.place < $3::integer
)
SELECT ref, (next_at IS NULL OR next_at <= statement_timestamp()) AND consumer = ANY($2::text[]) AS is_due
FROM heads
