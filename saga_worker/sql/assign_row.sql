-- A dead row without saga that now has one: compare-and-set to ready under its new consumer. Index: inbox_pkey.
UPDATE saga_worker.inbox
SET state = 0, consumer = $2::text, dedup = $3::uuid, ref = $4::uuid, saga_key = $5::text, role = $6::smallint,
    reason = NULL, error = NULL, suspect = false, attempts = 0, crashes = 0, next_at = clock_timestamp(), expires_at = NULL,
    first_failed_at = NULL, last_failed_at = NULL
WHERE id = $1::bigint
  AND state = 5
  AND ref IS NULL
  AND NOT EXISTS (SELECT FROM saga_worker.inbox AS twin WHERE twin.dedup = $3::uuid AND twin.id <> $1::bigint)
