-- To which definition a reply belongs: its correlation id names the saga, not the definition. Index: saga_ref_key.
SELECT ref, definition
FROM saga_worker.saga
WHERE ref = ANY($1::uuid[])
