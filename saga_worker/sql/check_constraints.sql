-- The CHECK constraints of the tables exist and hold for every row (none was added without looking at old rows).
-- $1 is the schema, $2 how many this release has.
WITH present AS (
  SELECT format('%s on %s', c.conname, c.conrelid::regclass) AS name, c.convalidated
  FROM pg_catalog.pg_constraint c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
  WHERE c.contype = 'c' AND n.nspname = $1::text
), found AS (
  SELECT format('%s was never checked against old rows', name) AS example FROM present WHERE NOT convalidated
  UNION ALL
  SELECT format('%s of %s constraints are missing', $2::integer - count(*), $2::integer) FROM present
  HAVING count(*) < $2::integer
)
SELECT (SELECT count(*) FROM present) AS examined, format('%s CHECK constraints', (SELECT count(*) FROM present)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM found
