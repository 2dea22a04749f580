-- What a key may be used for: lists separated by commas, all networks where none is
-- named. Keys that were made before may be used for everything.
ALTER TABLE api_keys ADD COLUMN scopes TEXT NOT NULL DEFAULT 'sandboxes,templates,secrets,admin';
ALTER TABLE api_keys ADD COLUMN read_only INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_keys ADD COLUMN expires_at INTEGER;
ALTER TABLE api_keys ADD COLUMN networks TEXT NOT NULL DEFAULT '';

ALTER TABLE teams ADD COLUMN max_paused_sandboxes INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE teams ADD COLUMN max_snapshots INTEGER NOT NULL DEFAULT 1000;
ALTER TABLE teams ADD COLUMN max_templates INTEGER NOT NULL DEFAULT 500;
ALTER TABLE teams ADD COLUMN max_stored_mib INTEGER NOT NULL DEFAULT 524288;
ALTER TABLE teams ADD COLUMN limits_by_operator INTEGER NOT NULL DEFAULT 0;
