-- Of sagas that never start again it has no entry, and none of its columns is ever changed by a step.
CREATE INDEX saga_earlier_runs ON saga_worker.saga (definition, key) WHERE ref IS NULL;
