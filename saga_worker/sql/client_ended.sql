-- Which of these sagas have ended, or are gone. Index: saga_pkey.
SELECT w.saga_id
FROM unnest($1::uuid[]) AS w(saga_id)
LEFT JOIN saga_worker.saga AS s ON s.saga_id = w.saga_id
WHERE s.saga_id IS NULL OR s.finished_at IS NOT NULL
