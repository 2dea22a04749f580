-- What a machine joins the cluster with, once. Times are the store's own.
CREATE TABLE node_tokens (
    -- SHA-256 of the token's secret, in hex.
    digest     TEXT COLLATE "C" PRIMARY KEY,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    -- The node that has joined with it.
    used_by    TEXT
);

-- Who a node is: the key that it shows. A node of the control plane's own process has none.
CREATE TABLE node_identities (
    node_id    TEXT COLLATE "C" PRIMARY KEY,
    -- SHA-256 of the public key, in hex.
    key        TEXT NOT NULL,
    joined_at  BIGINT NOT NULL,
    -- Since when it is refused.
    revoked_at BIGINT
);
