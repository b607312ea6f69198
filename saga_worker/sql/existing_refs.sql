-- Asked in a new statement after the gap locks: a saga not found now is absent and stays so until we commit.
SELECT ref
FROM saga_worker.saga
WHERE ref = ANY($1::uuid[])
