-- Timers and local steps that dead workers had in hand, with the definitions of their sagas; read before
-- `mark_suspects` uses the intents up. Indexes: intent_pkey, saga_ref_key.
SELECT i.worker_id, i.alone, t.ref, t.timer, s.definition
FROM saga_worker.intent AS i
CROSS JOIN LATERAL unnest(i.refs, i.timers) AS t(ref, timer)
JOIN saga_worker.saga AS s ON s.ref = t.ref
WHERE i.worker_id = ANY($1::integer[])
