-- Their rows and intents go; what they own in the outbox is taken over because nobody of that number is there.
WITH intents AS (
  DELETE FROM saga_worker.intent WHERE worker_id = ANY($1::integer[])
)
DELETE FROM saga_worker.worker
WHERE worker_id = ANY($1::integer[])
