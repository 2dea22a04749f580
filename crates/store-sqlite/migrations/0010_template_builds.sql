-- What belongs to a build that a team asked for, beside the build itself.
CREATE TABLE build_requests (
    build_id          TEXT PRIMARY KEY REFERENCES builds (id) ON DELETE CASCADE,
    team_id           TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    -- JSON list of the tags that the build gets when it is ready.
    tags              TEXT NOT NULL,
    min_free_disk_mib INTEGER NOT NULL,
    -- Of a build that failed.
    reason            TEXT,
    reason_step       TEXT
) STRICT;
CREATE INDEX build_requests_by_team ON build_requests (team_id);
CREATE INDEX builds_in_progress ON builds (status) WHERE status IN ('waiting', 'building');
