-- The figures of the whole installation, for /metrics. Relies on the partial indexes of inbox, one literal state each.
-- Stuck is the cheap half of check_stuck: an open saga with nothing waiting, nothing to send and no wake row.
SELECT (SELECT count(*) FROM saga_worker.inbox WHERE state = 0) AS ready,
       (SELECT count(*) FROM saga_worker.inbox WHERE state = 1) AS parked,
       (SELECT count(*) FROM saga_worker.inbox WHERE state IN (2, 5) AND state = 2) AS held,
       (SELECT count(*) FROM saga_worker.inbox WHERE state IN (2, 5) AND state = 5) AS dead,
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(received_at)), 0)::float8
        FROM saga_worker.inbox WHERE state = 0) AS oldest_ready_seconds,
       (SELECT count(*) FROM saga_worker.outbox) AS outbox,
       (SELECT count(*) FROM saga_worker.outbox WHERE last_error IS NOT NULL) AS outbox_failing,
       (SELECT count(*) FROM saga_worker.saga WHERE attention IS NOT NULL) AS attention,
       (SELECT coalesce(sum(unsettled), 0) FROM saga_worker.saga WHERE unsettled > 0) AS unsettled,
       (SELECT count(*) FROM saga_worker.saga s
        WHERE s.finished_at IS NULL AND s.status <> 6 AND s.attention IS NULL
          AND NOT EXISTS (SELECT FROM saga_worker.wake w WHERE w.ref = s.ref)
          AND NOT EXISTS (SELECT FROM saga_worker.outbox o WHERE o.ref = s.ref)
          AND NOT EXISTS (SELECT FROM saga_worker.inbox i WHERE i.ref = s.ref AND i.state = 0)
          AND NOT EXISTS (SELECT FROM saga_worker.inbox i WHERE i.ref = s.ref AND i.state IN (2, 5) AND i.state = 2)
       ) AS stuck
