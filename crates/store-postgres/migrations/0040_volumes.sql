-- Volumes: noted before their directories are made, forgotten after these are gone.
CREATE TABLE volumes (
    id         TEXT COLLATE "C" PRIMARY KEY,
    -- A team with volumes stays.
    team_id    TEXT COLLATE "C" NOT NULL REFERENCES teams (id),
    name       TEXT COLLATE "C" NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('making', 'ready', 'failed', 'removing')),
    created_at BIGINT NOT NULL
);
-- What is being removed keeps no name from others.
CREATE UNIQUE INDEX volumes_by_name ON volumes (team_id, name) WHERE state <> 'removing';

ALTER TABLE teams ADD COLUMN max_volumes BIGINT NOT NULL DEFAULT 100;
