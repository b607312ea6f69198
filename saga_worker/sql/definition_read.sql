-- What is known of these definitions. Index: definition_pkey.
SELECT name, version, fingerprint, structure::text AS structure
FROM saga_worker.definition
WHERE name = ANY($1::text[])
