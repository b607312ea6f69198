-- What became of these starts, and the saga that each led to: an earlier run that began with it, else the present one of
-- its key. Indexes: inbox_dedup_key, saga_ref_key, saga_earlier_runs, journal_pkey.
SELECT i.dedup, saga_worker.state_word(i.state) AS state, i.reason, i.error, coalesce(earlier.saga_id, s.saga_id) AS saga_id
FROM saga_worker.inbox AS i
LEFT JOIN saga_worker.saga AS s ON s.ref = i.ref
LEFT JOIN LATERAL (
  SELECT r.saga_id
  FROM saga_worker.saga AS r
  JOIN saga_worker.journal AS j ON j.saga_id = r.saga_id AND j.revision = 1
  WHERE r.ref IS NULL AND r.definition = i.consumer AND r.key = i.saga_key AND j.inbox_id = i.id) AS earlier ON true
WHERE i.dedup = ANY($1::uuid[])
