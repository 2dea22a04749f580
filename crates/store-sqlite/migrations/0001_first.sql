-- Times are milliseconds since 1970, ids are their text form.

CREATE TABLE teams (
    id                       TEXT PRIMARY KEY,
    slug                     TEXT NOT NULL UNIQUE,
    name                     TEXT NOT NULL,
    max_concurrent_sandboxes INTEGER NOT NULL DEFAULT 20,
    max_length_hours         INTEGER NOT NULL DEFAULT 1,
    max_vcpus                INTEGER NOT NULL DEFAULT 8,
    max_memory_mib           INTEGER NOT NULL DEFAULT 8192,
    max_disk_mib             INTEGER NOT NULL DEFAULT 25600,
    banned                   INTEGER NOT NULL DEFAULT 0,
    blocked_reason           TEXT,
    created_at               INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY,
    team_id      TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    prefix       TEXT NOT NULL,
    value_length INTEGER NOT NULL,
    mask_first   TEXT NOT NULL,
    mask_last    TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;
CREATE INDEX api_keys_by_team ON api_keys (team_id, created_at);

CREATE TABLE templates (
    id              TEXT PRIMARY KEY,
    team_id         TEXT NOT NULL REFERENCES teams (id),
    public          INTEGER NOT NULL DEFAULT 0,
    is_default      INTEGER NOT NULL DEFAULT 0,
    spawn_count     INTEGER NOT NULL DEFAULT 0,
    last_spawned_at INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX templates_by_team ON templates (team_id, created_at);

-- An empty namespace means a name that needs none, such as `base`.
CREATE TABLE template_aliases (
    namespace   TEXT NOT NULL,
    alias       TEXT NOT NULL,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    PRIMARY KEY (namespace, alias)
) STRICT;
CREATE INDEX template_aliases_by_template ON template_aliases (template_id);

CREATE TABLE builds (
    id           TEXT PRIMARY KEY,
    template_id  TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    status       TEXT NOT NULL CHECK (status IN ('waiting', 'building', 'ready', 'error')),
    vcpus        INTEGER NOT NULL,
    memory_mib   INTEGER NOT NULL,
    disk_mib     INTEGER NOT NULL,
    envd_version TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    finished_at  INTEGER
) STRICT;
CREATE INDEX builds_by_template ON builds (template_id, created_at);

-- Append-only: of several rows for one tag the latest holds.
CREATE TABLE build_assignments (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    tag         TEXT NOT NULL,
    build_id    TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX build_assignments_by_tag ON build_assignments (template_id, tag, sequence);

CREATE TABLE idempotency (
    team_id      TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    key          TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    sandbox_id   TEXT NOT NULL,
    -- Null while the request is being carried out.
    outcome      TEXT,
    lease_until  INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (team_id, key)
) STRICT;
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);
