-- I1: every row is done, ignored, dead or pending, and what was set aside says why. One scan of inbox.
SELECT count(*) AS examined,
       format('received %s = done %s + ignored %s + dead %s + pending %s', count(*), count(*) FILTER (WHERE state = 3),
              count(*) FILTER (WHERE state = 4), count(*) FILTER (WHERE state = 5),
              count(*) FILTER (WHERE state IN (0, 1, 2))) AS figure,
       count(*) FILTER (WHERE state NOT BETWEEN 0 AND 5 OR (reason IS NULL AND state IN (1, 2, 4, 5))) AS violations,
       (array_agg(format('inbox row %s: state %s, reason %s', id, state, coalesce(reason, 'none')))
         FILTER (WHERE state NOT BETWEEN 0 AND 5 OR (reason IS NULL AND state IN (1, 2, 4, 5))))[1:3] AS examples
FROM saga_worker.inbox
