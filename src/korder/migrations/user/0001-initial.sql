-- The user domain: members, sign-in, signing keys, points.

CREATE SCHEMA IF NOT EXISTS users;

-- A deleted member keeps its row, so that ledgers and tickets still name somebody, and nothing
-- that tells who it was.
CREATE TABLE users.members (
    id               uuid PRIMARY KEY,
    email            text,
    name             text,
    -- NULL: cannot sign in with a password
    password_hash    text,
    roles            text[] NOT NULL DEFAULT '{member}'
        CONSTRAINT members_known_roles CHECK (roles <@ ARRAY['member', 'organizer', 'admin']),
    -- the sum of the ledger, moved in the same statement as the ledger row
    points           bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz,
    CONSTRAINT members_points_not_negative CHECK (points >= 0),
    CONSTRAINT members_erased_when_deleted CHECK (
        CASE WHEN deleted_at IS NULL THEN email IS NOT NULL AND name IS NOT NULL
             ELSE email IS NULL AND name IS NULL AND password_hash IS NULL AND roles = '{}' END)
);

-- One live member per address, whatever its case; a deleted one gives the address back.
CREATE UNIQUE INDEX members_email ON users.members (lower(email));
CREATE INDEX members_admins ON users.members (id) WHERE 'admin' = ANY (roles);

-- A refresh family, from one sign-in to its end; access tokens name it in `sid`.
CREATE TABLE users.sessions (
    id                uuid PRIMARY KEY,
    member_id         uuid NOT NULL REFERENCES users.members (id),
    created_at        timestamptz NOT NULL,
    expires_at        timestamptz NOT NULL,
    -- when the last access token of the family ends: until then a revocation must be told
    access_expires_at timestamptz NOT NULL,
    revoked_at        timestamptz,
    revoked_reason    text,
    CONSTRAINT sessions_reason_when_revoked CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
);

CREATE INDEX sessions_of_member ON users.sessions (member_id);
CREATE INDEX sessions_revoked ON users.sessions (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX sessions_ending ON users.sessions (access_expires_at);

-- A refresh token is 256 random bits; only its SHA-256 is kept. A spent one stays until it would
-- have expired, so that its second use is noticed.
CREATE TABLE users.refresh_tokens (
    digest           bytea PRIMARY KEY,
    session_id       uuid NOT NULL REFERENCES users.sessions (id) ON DELETE CASCADE,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    used_at          timestamptz
);

CREATE INDEX refresh_tokens_of_session ON users.refresh_tokens (session_id);
CREATE INDEX refresh_tokens_ending ON users.refresh_tokens (expires_at);

-- RSA keys of 2048 bits (a public one has 294 bytes, a private one about 1218). A key is published
-- when it is made, signs from `not_before`, and stops when its successor starts (`retired_at`).
CREATE TABLE users.signing_keys (
    kid              text PRIMARY KEY,
    -- PKCS#8, DER
    private_key      bytea NOT NULL CHECK (length(private_key) BETWEEN 1150 AND 1250),
    -- SubjectPublicKeyInfo, DER
    public_key       bytea NOT NULL CHECK (length(public_key) = 294),
    created_at       timestamptz NOT NULL DEFAULT now(),
    not_before       timestamptz NOT NULL,
    retired_at       timestamptz,
    -- when the last of its tokens ends that lives longer than an ordinary one
    needed_until     timestamptz NOT NULL DEFAULT '-infinity'
);

-- Every movement of points, in the order of `seq` for each member. Append-only.
CREATE TABLE users.points_ledger (
    id               uuid PRIMARY KEY,
    seq              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    member_id        uuid NOT NULL REFERENCES users.members (id),
    delta            bigint NOT NULL CHECK (delta <> 0),
    balance_after    bigint NOT NULL CHECK (balance_after >= 0),
    reason           text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX points_ledger_of_member ON users.points_ledger (member_id, seq);

CREATE FUNCTION users.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
              HINT = 'Write another row that moves the points back.';
END
$$;

CREATE TRIGGER points_ledger_append_only
    BEFORE UPDATE OR DELETE ON users.points_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION users.refuse_change();

-- Kept answers of POSTs. `member_id` is who a kept sign-up is about: deleting that member takes
-- the answer along, as it holds the name and the address.
CREATE TABLE users.idempotency (
    scope            text NOT NULL,
    key_digest       bytea NOT NULL,
    fingerprint      bytea NOT NULL,
    status           smallint NOT NULL DEFAULT 0,
    body             bytea NOT NULL DEFAULT '',
    created_at       timestamptz NOT NULL DEFAULT now(),
    member_id        uuid,
    PRIMARY KEY (scope, key_digest)
);

CREATE INDEX idempotency_created ON users.idempotency (created_at);
CREATE INDEX idempotency_of_member ON users.idempotency (member_id) WHERE member_id IS NOT NULL;
