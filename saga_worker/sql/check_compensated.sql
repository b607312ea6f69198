-- I9: in a compensated saga nothing that was done, or may have been done, is left standing unless it is counted as
-- unsettled, its undo is under way (a success that came after the end), or the saga is on the attention list; and no
-- forward command was committed after compensation began. A command is
-- [step, kind, fate, destination, type, body, attempts, undoes, undone]. Whether a step has an undo is known by some
-- saga of the same definition having sent one.
WITH commands AS (
  SELECT s.saga_id, s.definition, s.status, s.unsettled, s.attention, c.key::integer AS seq, c.value ->> 0 AS step,
         c.value ->> 1 AS kind, c.value ->> 2 AS fate, (c.value ->> 7)::integer AS undoes,
         (c.value ->> 8)::boolean AS undone
  FROM saga_worker.saga s
  CROSS JOIN LATERAL json_each(convert_from(s.progress, 'UTF8')::json -> 'commands') AS c
  WHERE s.status IN (2, 4, 5, 6)
), undoable AS (
  SELECT DISTINCT definition, step FROM commands WHERE kind = 'undo'
), under_way AS (
  SELECT saga_id, undoes AS seq FROM commands WHERE kind = 'undo' AND fate = 'sent'
  UNION
  SELECT saga_id, substring(name FROM '^undo:([0-9]+)$')::integer FROM saga_worker.v_timer WHERE name LIKE 'undo:%'
), standing AS (
  SELECT c.saga_id, c.unsettled, count(*) AS effects, min(c.step) AS step
  FROM commands c
  JOIN undoable u ON u.definition = c.definition AND u.step = c.step
  LEFT JOIN under_way w ON w.saga_id = c.saga_id AND w.seq = c.seq
  WHERE c.status = 4 AND c.attention IS NULL AND c.kind = 'forward' AND c.fate IN ('done', 'unknown') AND NOT c.undone
    AND w.seq IS NULL
  GROUP BY c.saga_id, c.unsettled
  HAVING count(*) > c.unsettled
), began AS (
  SELECT saga_id, min(revision) AS revision FROM saga_worker.journal WHERE to_status IN (2, 4) GROUP BY saga_id
), forward_after AS (
  SELECT DISTINCT j.saga_id, c.step
  FROM began b
  JOIN saga_worker.journal j ON j.saga_id = b.saga_id AND j.revision >= b.revision
  CROSS JOIN LATERAL unnest(j.sent) AS sent(seq)
  JOIN commands c ON c.saga_id = j.saga_id AND c.seq = sent.seq AND c.kind = 'forward'
), found AS (
  SELECT format('saga %s is compensated, but %s effects stand (step %s)', saga_id, effects, step) AS example FROM standing
  UNION ALL
  SELECT format('saga %s sent step %s after compensation began', saga_id, step) FROM forward_after
)
SELECT (SELECT count(*) FROM saga_worker.saga WHERE status = 4) AS examined,
       format('%s compensated, %s of them unsettled', (SELECT count(*) FROM saga_worker.saga WHERE status = 4),
              (SELECT count(*) FROM saga_worker.saga WHERE status = 4 AND unsettled > 0)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM found
