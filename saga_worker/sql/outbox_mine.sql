-- Rows of one owner after a key, in its order. The table is small: no index by owner, every insert would pay for it.
SELECT ref, seq, destination, type, exchange, routing_key, mandatory, props, body, attempts,
       greatest(0, extract(epoch FROM next_at - clock_timestamp()))::double precision AS delay_seconds
FROM saga_worker.outbox
WHERE owner = $1::integer
  AND (ref, seq) > ($2::uuid, $3::integer)
ORDER BY ref, seq
LIMIT $4::integer
