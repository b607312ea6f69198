-- What an operator did, in the transaction that did it.
INSERT INTO saga_worker.audit (actor, action, target, reason, before, after)
SELECT $1::text, $2::text, v.target, $3::text, v.before::jsonb, v.after::jsonb
FROM unnest($4::text[], $5::text[], $6::text[]) AS v(target, before, after)
