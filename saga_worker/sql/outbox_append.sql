-- Rows of one commit, in the order of the key. A resend whose first copy is still here is that copy: nothing is added.
INSERT INTO saga_worker.outbox (
  ref, seq, owner, destination, type, exchange, routing_key, mandatory, props, body)
SELECT v.ref, v.seq, $10::integer, v.destination, v.type, v.exchange, v.routing_key, v.mandatory, v.props, v.body
FROM unnest(
  $1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::bytea[], $9::bytea[])
  AS v(ref, seq, destination, type, exchange, routing_key, mandatory, props, body)
ON CONFLICT (ref, seq) DO NOTHING
RETURNING ref, seq
