-- How the children of a ref stand, by step and status, with the key of one of each. Indexes: child_pkey, saga_ref_key.
SELECT c.seq, c.definition, coalesce(saga_worker.status_word(s.status), 'not_started') AS status, count(*) AS count,
       min(c.key) AS example
FROM saga_worker.child AS c
LEFT JOIN saga_worker.saga AS s ON s.ref = c.ref
WHERE c.parent = $1::uuid
GROUP BY c.seq, c.definition, s.status
ORDER BY c.seq, c.definition, s.status
