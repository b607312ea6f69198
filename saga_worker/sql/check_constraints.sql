-- The CHECK constraints of the tables exist and hold for every row (none was added without looking at old rows).
-- $1 is the schema, $2 how many this release has.
SELECT count(*) AS examined, format('%s CHECK constraints', count(*)) AS figure,
       count(*) FILTER (WHERE NOT c.convalidated) + (count(*) < $2::integer)::integer AS violations,
       array_agg(format('%s on %s is not validated', c.conname, c.conrelid::regclass)) FILTER (WHERE NOT c.convalidated)
         AS examples
FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
WHERE c.contype = 'c' AND n.nspname = $1::text
