-- Whether a live worker caught up at least the grace ago: before that no reply time-out fires.
SELECT EXISTS (
  SELECT
  FROM saga_worker.worker
  WHERE lease_until >= statement_timestamp()
    AND caught_up_at <= statement_timestamp() - make_interval(secs => $1::double precision))
