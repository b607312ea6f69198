-- The worker has survived them. Index: intent_pkey.
UPDATE saga_worker.intent
SET ids = '{}'
FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed
WHERE worker_id = $1::integer
  AND slot = $2::smallint
