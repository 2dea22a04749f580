-- What happened. Ids are the same whenever an event is told again.
CREATE TABLE events (
    id           TEXT COLLATE "C" PRIMARY KEY,
    team_id      TEXT COLLATE "C" NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    type         TEXT COLLATE "C" NOT NULL,
    category     TEXT,
    label        TEXT,
    -- A JSON object.
    data         TEXT,
    occurred_at  BIGINT NOT NULL,
    -- Of events about sandboxes.
    sandbox_id   TEXT COLLATE "C",
    execution_id TEXT,
    template_id  TEXT,
    build_id     TEXT
);
CREATE INDEX events_by_team ON events (team_id, occurred_at, id);
CREATE INDEX events_by_sandbox ON events (team_id, sandbox_id, occurred_at, id);
CREATE INDEX events_by_time ON events (occurred_at);

CREATE TABLE webhooks (
    id              TEXT COLLATE "C" PRIMARY KEY,
    team_id         TEXT COLLATE "C" NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    url             TEXT NOT NULL,
    -- Types of events, separated by commas.
    events          TEXT NOT NULL,
    sealed_secret   TEXT NOT NULL,
    enabled         BIGINT NOT NULL,
    disabled_reason TEXT,
    failing_since   BIGINT,
    created_at      BIGINT NOT NULL
);
CREATE INDEX webhooks_by_team ON webhooks (team_id, created_at);

-- An event on its way to a webhook. Without a sandbox its id is empty here.
CREATE TABLE deliveries (
    webhook_id  TEXT COLLATE "C" NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    TEXT COLLATE "C" NOT NULL REFERENCES events (id) ON DELETE CASCADE,
    sandbox_id  TEXT COLLATE "C" NOT NULL,
    event_type  TEXT COLLATE "C" NOT NULL,
    occurred_at BIGINT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('pending', 'success', 'failed')),
    -- Those that failed since it was begun, or begun again.
    attempts    BIGINT NOT NULL,
    next_at     BIGINT NOT NULL,
    PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, occurred_at, event_id);
CREATE INDEX deliveries_by_event ON deliveries (event_id);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_due_at_webhook ON deliveries (webhook_id, next_at)
    WHERE state = 'pending';
CREATE INDEX deliveries_in_order ON deliveries (webhook_id, sandbox_id, occurred_at, event_id)
    WHERE state = 'pending';

CREATE TABLE delivery_attempts (
    id               TEXT COLLATE "C" PRIMARY KEY,
    webhook_id       TEXT COLLATE "C" NOT NULL,
    event_id         TEXT COLLATE "C" NOT NULL,
    success          BIGINT NOT NULL,
    duration_ms      BIGINT NOT NULL,
    request_url      TEXT NOT NULL,
    request_body     TEXT NOT NULL,
    request_headers  TEXT NOT NULL,
    response_body    TEXT,
    response_headers TEXT,
    response_status  BIGINT,
    error_class      TEXT,
    error_message    TEXT,
    at               BIGINT NOT NULL,
    FOREIGN KEY (webhook_id, event_id) REFERENCES deliveries (webhook_id, event_id)
        ON DELETE CASCADE
);
CREATE INDEX delivery_attempts_by_delivery ON delivery_attempts (webhook_id, event_id, at);
CREATE INDEX delivery_attempts_by_time ON delivery_attempts (webhook_id, at);
