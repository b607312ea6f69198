-- Dead rows chosen by an operator, locked in the order of id, with the news whether their saga was purged. Rows that a
-- running transaction holds are waited for: the operator asked for these. What came after the purge is of the saga that
-- has the key now, if there is one. Index: inbox_pkey or inbox_held.
SELECT i.id, i.consumer, i.type, i.ref, i.saga_key, i.reason, i.attempts, i.crashes,
       EXISTS (SELECT FROM saga_worker.tombstone AS t
               WHERE t.ref = i.ref
                 AND (t.purged_at >= i.received_at OR NOT EXISTS (SELECT FROM saga_worker.saga AS s WHERE s.ref = i.ref)))
         AS is_purged
FROM saga_worker.inbox AS i
WHERE i.state = 5
  AND i.id > $1::bigint
  AND ($2::bigint[] IS NULL OR i.id = ANY($2::bigint[]))
  AND ($3::text IS NULL OR i.reason = $3::text)
  AND ($4::text IS NULL OR i.type = $4::text)
  AND ($5::text IS NULL OR i.saga_key = $5::text)
  AND ($6::timestamptz IS NULL OR i.last_failed_at >= $6::timestamptz)
  AND ($7::text IS NULL OR i.consumer = $7::text)
ORDER BY i.id
LIMIT $8::integer
FOR NO KEY UPDATE OF i
