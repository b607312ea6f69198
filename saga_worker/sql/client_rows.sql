-- What became of these starts, and the saga that each led to: the one whose first input it was, else the present one of
-- its key. Indexes: inbox_dedup_key, saga_ref_key.
SELECT i.dedup, saga_worker.state_word(i.state) AS state, i.reason, i.error, s.saga_id
FROM saga_worker.inbox AS i
LEFT JOIN saga_worker.saga AS s ON s.ref = i.ref
WHERE i.dedup = ANY($1::uuid[])
