-- Sagas with an activity that is due, or whose attempt is over, and that belongs to one of these versions
-- ("name/version"), which no worker runs. Indexes: activity_ready, activity_worker.
SELECT a.ref, a.seq, a.definition, a.definition || '/' || a.definition_version AS version
FROM saga_worker.activity AS a
WHERE a.state = 0
  AND a.next_at <= statement_timestamp()
  AND a.definition || '/' || a.definition_version = ANY($1::text[])
UNION
SELECT a.ref, a.seq, a.definition, a.definition || '/' || a.definition_version AS version
FROM saga_worker.activity AS a
WHERE a.state = 1
  AND a.timeout_at < statement_timestamp()
  AND a.definition || '/' || a.definition_version = ANY($1::text[])
ORDER BY ref, seq
LIMIT $2::integer
