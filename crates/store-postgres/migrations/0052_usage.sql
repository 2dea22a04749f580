-- What sandboxes used: a row for each time that one ran without a pause. Told by events,
-- kept longer than those, and longer than the team.
CREATE TABLE executions (
    sandbox_id    TEXT COLLATE "C" NOT NULL,
    started_at    BIGINT NOT NULL,
    team_id       TEXT COLLATE "C" NOT NULL,
    template_id   TEXT COLLATE "C" NOT NULL,
    vcpus         BIGINT NOT NULL,
    memory_mib    BIGINT NOT NULL,
    -- Null while it runs.
    ended_at      BIGINT,
    -- Since when no node has the sandbox, though nothing told of its end.
    missing_since BIGINT,
    PRIMARY KEY (sandbox_id, started_at)
);
CREATE INDEX executions_by_team ON executions (team_id, started_at);
CREATE INDEX executions_by_end ON executions (team_id, ended_at);
CREATE INDEX executions_open ON executions (started_at) WHERE ended_at IS NULL;
