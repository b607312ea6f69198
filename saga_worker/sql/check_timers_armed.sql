-- I3: a standing timer was armed by a step of its saga, under this very epoch: one that is postponed keeps it.
WITH unexplained AS (
  SELECT format('timer %s of saga %s: no step armed it', t.name, t.saga_id) AS example
  FROM saga_worker.v_timer t
  WHERE NOT EXISTS (
    SELECT FROM saga_worker.journal j WHERE j.saga_id = t.saga_id AND t.name || ':' || t.epoch = ANY(j.timers))
)
SELECT (SELECT count(*) FROM saga_worker.v_timer) AS examined,
       format('%s timers armed', (SELECT count(*) FROM saga_worker.v_timer)) AS figure,
       count(*) AS violations, (array_agg(example))[1:3] AS examples
FROM unexplained
