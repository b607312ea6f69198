-- The outcomes of a batch, as decided under the locks of their sagas. Index: inbox_pkey.
UPDATE saga_worker.inbox AS i
SET state = v.state, reason = v.reason, error = v.error, suspect = v.suspect, attempts = v.attempts,
    crashes = v.crashes, next_at = v.next_at, expires_at = v.expires_at, first_failed_at = v.first_failed_at,
    last_failed_at = v.last_failed_at, sequence = v.sequence,
    settled_at = CASE WHEN v.state IN (3, 4) THEN coalesce(v.settled_at, clock_timestamp()) END
FROM unnest(
  $1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::boolean[], $6::smallint[], $7::smallint[],
  $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::bigint[])
  AS v(id, state, reason, error, suspect, attempts, crashes, next_at, expires_at, first_failed_at, last_failed_at,
       settled_at, sequence)
WHERE i.id = v.id
