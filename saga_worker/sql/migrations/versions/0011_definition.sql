-- The structure of each version of a definition, as the workers that ran it last had it: what a change is compared with.
CREATE TABLE saga_worker.definition (
  name text NOT NULL,
  version integer NOT NULL,
  fingerprint text NOT NULL,
  structure jsonb NOT NULL,
  noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT definition_pkey PRIMARY KEY (name, version)
);
