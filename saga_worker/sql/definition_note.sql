-- What these versions look like from now on. Index: definition_pkey.
INSERT INTO saga_worker.definition AS d (name, version, fingerprint, structure)
SELECT v.name, v.version, v.fingerprint, v.structure::jsonb
FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[]) AS v(name, version, fingerprint, structure)
ON CONFLICT (name, version) DO UPDATE
SET fingerprint = excluded.fingerprint, structure = excluded.structure, noted_at = clock_timestamp()
