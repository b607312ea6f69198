-- I3: a standing timer was armed by a step of its saga. A timer that is armed again by a time-out that was postponed
-- has a newer epoch than its journal row, so the name decides, and the epoch may only be newer.
WITH armed AS (
  SELECT j.saga_id, regexp_replace(t.id, ':[0-9]+$', '') AS name, max(substring(t.id FROM '[0-9]+$')::integer) AS epoch
  FROM saga_worker.journal j
  CROSS JOIN LATERAL unnest(j.timers) AS t(id)
  GROUP BY j.saga_id, name
), unexplained AS (
  SELECT format('timer %s of saga %s: no step armed it', t.name, t.saga_id) AS example
  FROM saga_worker.v_timer t
  LEFT JOIN armed a ON a.saga_id = t.saga_id AND a.name = t.name AND a.epoch <= t.epoch
  WHERE a.name IS NULL
)
SELECT (SELECT count(*) FROM saga_worker.v_timer) AS examined,
       format('%s timers armed', (SELECT count(*) FROM saga_worker.v_timer)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM unexplained
