-- Machines that run sandboxes. Times are the store's own.
CREATE TABLE nodes (
    id            TEXT COLLATE "C" PRIMARY KEY,
    name          TEXT COLLATE "C" NOT NULL,
    address       TEXT NOT NULL,
    -- One run of its process.
    instance      TEXT NOT NULL,
    -- Counts its registrations: only the latest is heard.
    generation    BIGINT NOT NULL,
    -- What an operator wants of it.
    mode          TEXT NOT NULL CHECK (mode IN ('ready', 'draining', 'standby')),
    -- A JSON object.
    labels        TEXT NOT NULL,
    version       TEXT NOT NULL,
    revision      TEXT NOT NULL,
    -- A JSON object.
    report        TEXT,
    registered_at BIGINT NOT NULL,
    heartbeat_at  BIGINT,
    lease_until   BIGINT NOT NULL,
    changed_at    BIGINT NOT NULL
);

-- What is true of all nodes together: `id`.
CREATE TABLE cluster_facts (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);
