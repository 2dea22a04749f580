-- What happened. Ids are the same whenever an event is told again.
CREATE TABLE events (
    id           TEXT PRIMARY KEY,
    team_id      TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    type         TEXT NOT NULL,
    category     TEXT,
    label        TEXT,
    -- A JSON object.
    data         TEXT,
    occurred_at  INTEGER NOT NULL,
    -- Of events about sandboxes.
    sandbox_id   TEXT,
    execution_id TEXT,
    template_id  TEXT,
    build_id     TEXT
) STRICT;
CREATE INDEX events_by_team ON events (team_id, occurred_at, id);
CREATE INDEX events_by_sandbox ON events (team_id, sandbox_id, occurred_at, id);
CREATE INDEX events_by_time ON events (occurred_at);

CREATE TABLE webhooks (
    id              TEXT PRIMARY KEY,
    team_id         TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    url             TEXT NOT NULL,
    -- Types of events, separated by commas.
    events          TEXT NOT NULL,
    sealed_secret   TEXT NOT NULL,
    enabled         INTEGER NOT NULL,
    disabled_reason TEXT,
    failing_since   INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at);

-- An event on its way to a webhook. Without a sandbox its id is empty here.
CREATE TABLE deliveries (
    webhook_id  TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    sandbox_id  TEXT NOT NULL,
    event_type  TEXT NOT NULL,
    occurred_at INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('pending', 'success', 'failed')),
    -- Those that failed since it was begun, or begun again.
    attempts    INTEGER NOT NULL,
    next_at     INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, event_id)
) STRICT;
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, occurred_at, event_id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_due_at_webhook ON deliveries (webhook_id, next_at)
    WHERE state = 'pending';
CREATE INDEX deliveries_in_order ON deliveries (webhook_id, sandbox_id, occurred_at, event_id)
    WHERE state = 'pending';

CREATE TABLE delivery_attempts (
    id               TEXT PRIMARY KEY,
    webhook_id       TEXT NOT NULL,
    event_id         TEXT NOT NULL,
    success          INTEGER NOT NULL,
    duration_ms      INTEGER NOT NULL,
    request_url      TEXT NOT NULL,
    request_body     TEXT NOT NULL,
    request_headers  TEXT NOT NULL,
    response_body    TEXT,
    response_headers TEXT,
    response_status  INTEGER,
    error_class      TEXT,
    error_message    TEXT,
    at               INTEGER NOT NULL,
    FOREIGN KEY (webhook_id, event_id) REFERENCES deliveries (webhook_id, event_id)
        ON DELETE CASCADE
) STRICT;
CREATE INDEX delivery_attempts_by_delivery ON delivery_attempts (webhook_id, event_id, at);
CREATE INDEX delivery_attempts_by_time ON delivery_attempts (webhook_id, at);
