-- Volumes: noted before their directories are made, forgotten after these are gone.
CREATE TABLE volumes (
    id         TEXT PRIMARY KEY,
    -- A team with volumes stays.
    team_id    TEXT NOT NULL REFERENCES teams (id),
    name       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('making', 'ready', 'failed', 'removing')),
    created_at INTEGER NOT NULL
);
-- What is being removed keeps no name from others.
CREATE UNIQUE INDEX volumes_by_name ON volumes (team_id, name) WHERE state <> 'removing';

ALTER TABLE teams ADD COLUMN max_volumes INTEGER NOT NULL DEFAULT 100;
