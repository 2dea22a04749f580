-- What a machine joins the cluster with, once. Times are the store's own.
CREATE TABLE node_tokens (
    -- SHA-256 of the token's secret, in hex.
    digest     TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- The node that has joined with it.
    used_by    TEXT
) STRICT;

-- Who a node is: the key that it shows. A node of the control plane's own process has none.
CREATE TABLE node_identities (
    node_id    TEXT PRIMARY KEY,
    -- SHA-256 of the public key, in hex.
    key        TEXT NOT NULL,
    joined_at  INTEGER NOT NULL,
    -- Since when it is refused.
    revoked_at INTEGER
) STRICT;
