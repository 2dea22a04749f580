-- Who does what only one process may do; times are the store's own.
CREATE TABLE leases (
    name  TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;

-- Who is at work on what is noted. Nobody is on what an earlier version noted: only
-- one process used the file, and it has ended.
ALTER TABLE build_discards ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE idempotency ADD COLUMN owner TEXT NOT NULL DEFAULT '';
UPDATE idempotency SET lease_until = 0 WHERE outcome IS NULL;
