-- Rows nobody owns: owner 0, a lease that is over, a worker that is gone. Never by age: what a living owner has in
-- flight is not left over. The locks are taken once, in the order of the key. Index: outbox_pkey.
WITH left_over AS MATERIALIZED (
  SELECT ref, seq
  FROM saga_worker.outbox
  WHERE owner <> ALL(ARRAY(SELECT worker_id FROM saga_worker.worker WHERE lease_until >= statement_timestamp()))
    AND owner <> $1::integer
  ORDER BY ref, seq
  LIMIT $2::integer
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE saga_worker.outbox AS o
SET owner = $1::integer
FROM left_over AS l
WHERE o.ref = l.ref AND o.seq = l.seq
RETURNING o.ref, o.seq, o.destination, o.type, o.exchange, o.routing_key, o.mandatory, o.props, o.body, o.attempts,
          greatest(0, extract(epoch FROM o.next_at - clock_timestamp()))::double precision AS delay_seconds
