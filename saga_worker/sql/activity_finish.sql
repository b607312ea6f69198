-- Activities that have their outcome, if they are still those that were handed out: gone, the result is an inbox row.
-- The arrays are sorted, and rows are locked in the order of the key. "+ 0": else the planner may take activity_worker
-- while the table is small, and keep reading all that run. Index: activity_pkey.
--
-- Of 200, µs each: locked by a CTE first and then deleted by key 5.1, by ctid 4.5, at once 3.5.
DELETE FROM saga_worker.activity AS a
USING unnest($1::uuid[], $2::integer[], $3::integer[]) AS v(ref, seq, epoch)
WHERE a.ref = v.ref AND a.seq = v.seq AND a.epoch = v.epoch AND a.state + 0 = 1
  AND a.ref = ANY($1::uuid[])
RETURNING a.ref, a.seq
