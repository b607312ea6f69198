-- One registration at a time: the revision has to rise with each that changes something.
SELECT pg_advisory_xact_lock(hashtextextended('saga_worker.route', 0))
