-- I6 (and I2's count): the journal of a saga is one chain: revisions 1 to n without gap, n is the saga's revision, and
-- each row starts from the status in which the one before ended. One ordered scan of journal.
WITH linked AS (
  SELECT saga_id, revision, from_status,
         lag(revision) OVER chain AS previous_revision, lag(to_status) OVER chain AS previous_status
  FROM saga_worker.journal
  WINDOW chain AS (PARTITION BY saga_id ORDER BY revision)
), broken AS (
  SELECT format('saga %s: revision %s does not follow %s', saga_id, revision, coalesce(previous_revision::text, 'the start'))
           AS example
  FROM linked
  WHERE revision <> coalesce(previous_revision, 0) + 1
     OR (previous_revision IS NULL) <> (from_status IS NULL)
     OR from_status <> previous_status
), lengths AS (
  SELECT saga_id, max(revision) AS revision, count(*) AS rows FROM saga_worker.journal GROUP BY saga_id
), miscounted AS (
  SELECT format('saga %s is at revision %s, its journal has %s rows', s.saga_id, s.revision, coalesce(l.rows, 0)) AS example
  FROM saga_worker.saga s
  LEFT JOIN lengths l ON l.saga_id = s.saga_id
  WHERE s.revision IS DISTINCT FROM l.rows
), found AS (
  SELECT example FROM broken UNION ALL SELECT example FROM miscounted
)
SELECT (SELECT count(*) FROM saga_worker.saga) AS examined,
       format('%s journals', (SELECT count(*) FROM lengths)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM found
