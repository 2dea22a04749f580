-- What sandboxes used: a row for each time that one ran without a pause. Told by events,
-- kept longer than those, and longer than the team.
CREATE TABLE executions (
    sandbox_id    TEXT NOT NULL,
    started_at    INTEGER NOT NULL,
    team_id       TEXT NOT NULL,
    template_id   TEXT NOT NULL,
    vcpus         INTEGER NOT NULL,
    memory_mib    INTEGER NOT NULL,
    -- Null while it runs.
    ended_at      INTEGER,
    -- Since when no node has the sandbox, though nothing told of its end.
    missing_since INTEGER,
    PRIMARY KEY (sandbox_id, started_at)
) STRICT;
CREATE INDEX executions_by_team ON executions (team_id, started_at);
CREATE INDEX executions_by_end ON executions (team_id, ended_at);
CREATE INDEX executions_open ON executions (started_at) WHERE ended_at IS NULL;
