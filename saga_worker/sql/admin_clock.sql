-- The database's clock: the only one that ages are measured by.
SELECT clock_timestamp()
