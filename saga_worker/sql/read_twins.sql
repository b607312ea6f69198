-- Body hashes of the rows that an insert ran into. A new statement: the inserting one does not see the row it waited for.
SELECT dedup, body_sha
FROM saga_worker.inbox
WHERE dedup = ANY($1::uuid[])
