-- Machines that run sandboxes. Times are the store's own.
CREATE TABLE nodes (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL,
    address       TEXT NOT NULL,
    -- One run of its process.
    instance      TEXT NOT NULL,
    -- Counts its registrations: only the latest is heard.
    generation    INTEGER NOT NULL,
    -- What an operator wants of it.
    mode          TEXT NOT NULL CHECK (mode IN ('ready', 'draining', 'standby')),
    -- A JSON object.
    labels        TEXT NOT NULL,
    version       TEXT NOT NULL,
    revision      TEXT NOT NULL,
    -- A JSON object.
    report        TEXT,
    registered_at INTEGER NOT NULL,
    heartbeat_at  INTEGER,
    lease_until   INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL
) STRICT;

-- What is true of all nodes together: `id`.
CREATE TABLE cluster_facts (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
