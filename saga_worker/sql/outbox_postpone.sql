-- Refused by the broker: tried again after a delay, and listed with the reason until then. Index: outbox_pkey.
WITH refused AS MATERIALIZED (
  SELECT o.ref, o.seq
  FROM unnest($1::uuid[], $2::integer[]) AS v(ref, seq)
  JOIN saga_worker.outbox AS o ON o.ref = v.ref AND o.seq = v.seq
  WHERE o.owner = $3::integer AND o.ref = ANY($1::uuid[])
  ORDER BY o.ref, o.seq
  FOR NO KEY UPDATE OF o SKIP LOCKED
)
UPDATE saga_worker.outbox AS o
SET attempts = o.attempts + 1, last_error = $4::text,
    next_at = clock_timestamp() + make_interval(secs => $5::double precision)
FROM refused AS r
WHERE o.ref = r.ref AND o.seq = r.seq AND o.ref = ANY($1::uuid[])
