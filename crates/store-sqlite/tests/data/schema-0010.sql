-- A database as the schema of 0010 left it, in all its tables.
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO "_sqlx_migrations" VALUES(1,'first','2026-11-20 10:00:00',1,X'90C83CECAE1C0E2ACBAF568338CBE034C4AEE15A2D7624F09EA640F2E818115F2059DB8EA05CBCF12BE5D5524CD7D1DA',1000);
INSERT INTO "_sqlx_migrations" VALUES(4,'snapshots','2026-11-20 10:00:00',1,X'575E57DA2312F5843646D8C09837DA26190F878096F13628445C3775FF0FD2E5ADA9443BED6C016BD4F248D6A24E6DBF',1000);
INSERT INTO "_sqlx_migrations" VALUES(10,'template builds','2026-11-20 10:00:00',1,X'C94F5FF409F46D4250FA2D6334808FEB7E8C9F4EA964C833E1961EF7354C9316E73A6CEDD30B48C2E577B7D3625D9257',1000);
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
INSERT INTO "api_keys" VALUES('0b7c9f7e-52b4-4b51-9a53-6f6a5f3f0001','7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','first key','$sha256$tBP0fRPuL+bIRbLuFBr4HehY307FSaWLeXC7lmRbyNI','e2b_',40,'00','0001',1700000000123,1700000060000,NULL);
CREATE TABLE build_assignments (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    tag         TEXT NOT NULL,
    build_id    TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    created_at  INTEGER NOT NULL
) STRICT;
INSERT INTO "build_assignments" VALUES(1,'basetemplate00000001','default','11111111-2222-4333-8444-555555555550',1700000000300);
INSERT INTO "build_assignments" VALUES(2,'snapshottemplate0001','default','11111111-2222-4333-8444-555555555552',1700000000400);
CREATE TABLE build_discards (
    build_id TEXT PRIMARY KEY
) STRICT;
INSERT INTO "build_discards" VALUES('11111111-2222-4333-8444-555555555559');
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
INSERT INTO "build_requests" VALUES('11111111-2222-4333-8444-555555555551','7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','["v1"]',512,NULL,NULL);
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
INSERT INTO "builds" VALUES('11111111-2222-4333-8444-555555555550','basetemplate00000001','ready',2,1024,2048,'0.6.13',1700000000200,1700000000300,1700000000300);
INSERT INTO "builds" VALUES('11111111-2222-4333-8444-555555555551','basetemplate00000001','building',2,1024,2048,'0.6.13',1700000000201,1700000000301,NULL);
INSERT INTO "builds" VALUES('11111111-2222-4333-8444-555555555552','snapshottemplate0001','ready',2,1024,2048,'0.6.13',1700000000202,1700000000302,1700000000302);
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
INSERT INTO "idempotency" VALUES('7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','unfinished','h','ibbcdefghij0123456789',NULL,9700000090000,9700086400000);
INSERT INTO "idempotency" VALUES('7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','done','h','icbcdefghij0123456789','{"a":1}',1700000090000,9700086400000);
CREATE TABLE snapshots (
    build_id    TEXT PRIMARY KEY REFERENCES builds (id) ON DELETE CASCADE,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    team_id     TEXT NOT NULL REFERENCES teams (id) ON DELETE CASCADE,
    sandbox_id  TEXT NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;
INSERT INTO "snapshots" VALUES('11111111-2222-4333-8444-555555555552','snapshottemplate0001','7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','iabcdefghij0123456789',1700000000400);
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
INSERT INTO "teams" VALUES('7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00','default','Default',100,24,8,8192,25600,0,NULL,1700000000123);
CREATE TABLE template_aliases (
    namespace   TEXT NOT NULL,
    alias       TEXT NOT NULL,
    template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    PRIMARY KEY (namespace, alias)
) STRICT;
INSERT INTO "template_aliases" VALUES('','base','basetemplate00000001');
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
INSERT INTO "templates" VALUES('basetemplate00000001','7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00',1,1,3,1700000100000,1700000000200,1700000000300);
INSERT INTO "templates" VALUES('snapshottemplate0001','7f3c1a52-9d0e-4b6f-8a21-5c4d3e2f1a00',0,0,0,NULL,1700000000400,1700000000400);
CREATE INDEX api_keys_by_team ON api_keys (team_id, created_at);
CREATE INDEX templates_by_team ON templates (team_id, created_at);
CREATE INDEX template_aliases_by_template ON template_aliases (template_id);
CREATE INDEX builds_by_template ON builds (template_id, created_at);
CREATE INDEX build_assignments_by_tag ON build_assignments (template_id, tag, sequence);
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);
CREATE INDEX snapshots_by_template ON snapshots (template_id);
CREATE INDEX snapshots_by_team ON snapshots (team_id, created_at);
CREATE INDEX build_requests_by_team ON build_requests (team_id);
CREATE INDEX builds_in_progress ON builds (status) WHERE status IN ('waiting', 'building');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('build_assignments',2);
COMMIT;
