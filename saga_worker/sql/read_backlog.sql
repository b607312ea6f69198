-- What the locked sagas have before them, in a snapshot taken after the locks. Indexes: inbox_ready, inbox_parked,
-- inbox_held. Bodies stop at the byte budget of a saga ($2), but never before its first row: the reader counts them as
-- not read. Of numbered events the next ones of each line ($3 to $5: saga, source, number) come as well: they may stand
-- behind many that wait for them. Index: inbox_line. Rows held or dead come without body: only their state and reason are judged.
-- Properties come only if a trace may be in them, or somebody to answer. One row at least, for the clock.
SELECT clock.now, backlog.*
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN (
  SELECT row.*
  FROM unnest($1::uuid[]) AS locked(ref)
  CROSS JOIN LATERAL (
    (SELECT r.id, r.dedup, r.consumer, r.source, r.message_id, r.type, r.role, r.ref, r.saga_key, r.correlation_id,
            r.state, r.reason, r.suspect, r.prio, r.attempts, r.crashes, r.first_failed_at, r.next_at, r.expires_at,
            r.received_at, CASE WHEN sum(octet_length(r.body)) OVER (ORDER BY r.prio, r.id) <= $2::bigint
                                  OR row_number() OVER (ORDER BY r.prio, r.id) = 1 THEN r.body END AS body,
            r.sequence, CASE WHEN position('"traceparent":'::bytea IN r.props) > 0
                            OR (r.role = 0 AND position('"reply_to":'::bytea IN r.props) > 0) THEN r.props END AS wanted_props
     FROM saga_worker.inbox AS r
     WHERE r.state = 0 AND r.ref = locked.ref
     ORDER BY r.prio, r.id
     LIMIT 200)
    UNION ALL
    (SELECT p.id, p.dedup, p.consumer, p.source, p.message_id, p.type, p.role, p.ref, p.saga_key, p.correlation_id,
            p.state, p.reason, p.suspect, p.prio, p.attempts, p.crashes, p.first_failed_at, p.next_at, p.expires_at,
            p.received_at, CASE WHEN sum(octet_length(p.body)) OVER (ORDER BY p.id) <= $2::bigint
                                  OR row_number() OVER (ORDER BY p.id) = 1 THEN p.body END,
            p.sequence, CASE WHEN position('"traceparent":'::bytea IN p.props) > 0
                            OR (p.role = 0 AND position('"reply_to":'::bytea IN p.props) > 0) THEN p.props END
     FROM saga_worker.inbox AS p
     WHERE p.state IN (1) AND p.ref = locked.ref
     ORDER BY p.id
     LIMIT 200)
    UNION ALL
    (SELECT h.id, h.dedup, h.consumer, h.source, h.message_id, h.type, h.role, h.ref, h.saga_key, h.correlation_id,
            h.state, h.reason, h.suspect, h.prio, h.attempts, h.crashes, h.first_failed_at, h.next_at, h.expires_at,
            h.received_at, ''::bytea, h.sequence, NULL
     FROM saga_worker.inbox AS h
     WHERE h.state IN (2, 5) AND h.ref = locked.ref
     ORDER BY h.id
     LIMIT 200)) AS row
  UNION ALL
  SELECT next.*
  FROM unnest($3::uuid[], $4::text[], $5::bigint[]) AS line(ref, source, number)
  CROSS JOIN LATERAL (
    SELECT n.id, n.dedup, n.consumer, n.source, n.message_id, n.type, n.role, n.ref, n.saga_key, n.correlation_id,
           n.state, n.reason, n.suspect, n.prio, n.attempts, n.crashes, n.first_failed_at, n.next_at, n.expires_at,
           n.received_at, CASE WHEN sum(octet_length(n.body)) OVER (ORDER BY n.sequence) <= $2::bigint
                                 OR row_number() OVER (ORDER BY n.sequence) = 1 THEN n.body END,
           n.sequence, CASE WHEN position('"traceparent":'::bytea IN n.props) > 0
                            OR (n.role = 0 AND position('"reply_to":'::bytea IN n.props) > 0) THEN n.props END
    FROM saga_worker.inbox AS n
    WHERE n.state = 1 AND n.sequence IS NOT NULL
      AND n.ref = line.ref AND n.source = line.source AND n.sequence >= line.number
    ORDER BY n.sequence
    LIMIT 200) AS next) AS backlog ON true
