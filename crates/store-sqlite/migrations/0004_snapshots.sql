-- Builds that were made of a running sandbox. Their templates are snapshots.
CREATE TABLE snapshots (
    build_id    TEXT PRIMARY KEY REFERENCES builds (id) ON DELETE CASCADE,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    team_id     TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    sandbox_id  TEXT NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_template ON snapshots (template_id);
CREATE INDEX snapshots_by_team ON snapshots (team_id, created_at);

-- Builds on nodes that nothing refers to, or not yet: written before such a
-- build is made and before its last reference goes, so that none is forgotten.
CREATE TABLE build_discards (
    build_id TEXT PRIMARY KEY
) STRICT;
