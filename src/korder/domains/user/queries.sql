-- name: insert_member$
-- A new member; no row when a live one has the address (a twin's commit is waited for).
INSERT INTO users.members (id, email, name, password_hash, roles, created_at)
VALUES (:id, :email, :name, :password_hash, :roles, :created_at)
ON CONFLICT (lower(email)) DO NOTHING
RETURNING id;

-- name: member^
-- A live member by id.
SELECT id, email, name, roles, points, created_at FROM users.members
WHERE id = :id AND deleted_at IS NULL;

-- name: member_by_email^
-- A live member by address, whatever its case, with what a sign-in compares.
SELECT id, email, name, roles, points, created_at, password_hash FROM users.members
WHERE lower(email) = lower(:email) AND deleted_at IS NULL;

-- name: members
-- Live members, newest first, from below the id `before` on; with `email` only who has it.
SELECT id, email, name, roles, points, created_at FROM users.members
WHERE deleted_at IS NULL
  AND (:email::text IS NULL OR lower(email) = lower(:email::text))
  AND (:before::uuid IS NULL OR id < :before::uuid)
ORDER BY id DESC LIMIT :most;

-- name: password_of$
-- The hash of a live member, NULL when there is none.
SELECT password_hash FROM users.members WHERE id = :id AND deleted_at IS NULL;

-- name: roles_of$
-- The roles of a member; NULL when unknown.
SELECT roles FROM users.members WHERE id = :id AND deleted_at IS NULL;

-- name: lock_roles!
-- One change of roles at a time, so that two admins cannot remove each other at once.
SELECT pg_advisory_xact_lock(hashtextextended('users.roles', 0));

-- name: other_admins$
-- How many live admins there are besides this one.
SELECT count(*) FROM users.members
WHERE 'admin' = ANY (roles) AND deleted_at IS NULL AND id <> :id;

-- name: set_roles^
-- Replace the roles of a live member.
UPDATE users.members SET roles = :roles WHERE id = :id AND deleted_at IS NULL
RETURNING id, email, name, roles, points, created_at;

-- name: set_name^
-- Rename a live member.
UPDATE users.members SET name = :name WHERE id = :id AND deleted_at IS NULL
RETURNING id, email, name, roles, points, created_at;

-- name: set_password!
-- Replace the password of a live member.
UPDATE users.members SET password_hash = :password_hash WHERE id = :id AND deleted_at IS NULL;

-- name: replace_hash!
-- The same password hashed anew, unless it was changed in the meantime.
UPDATE users.members SET password_hash = :new WHERE id = :id AND password_hash = :old;

-- name: erase_member$
-- Take away all that tells who a member was, and every way to sign in.
UPDATE users.members
SET email = NULL, name = NULL, password_hash = NULL, roles = '{}', deleted_at = now()
WHERE id = :id AND deleted_at IS NULL
RETURNING id;

-- name: forget_answers!
-- Kept answers that hold a deleted member's name and address.
DELETE FROM users.idempotency WHERE member_id = :member_id;

-- name: answer_is_about!
-- Note whom a kept answer is about.
UPDATE users.idempotency SET member_id = :member_id
WHERE scope = :scope AND key_digest = :key_digest;

-- name: open_session$
-- A new refresh family, unless the member or the password is gone since it was checked (FOR SHARE
-- makes a deletion wait, or waits for it and then finds nobody).
INSERT INTO users.sessions (id, member_id, created_at, expires_at, access_expires_at)
SELECT :id, m.id, :now, :expires_at, :access_expires_at
FROM users.members m
WHERE m.id = :member_id AND m.deleted_at IS NULL AND m.password_hash = :password_hash
FOR SHARE
RETURNING id;

-- name: insert_refresh_token!
-- The digest of a refresh token just made.
INSERT INTO users.refresh_tokens (digest, session_id, created_at, expires_at)
VALUES (:digest, :session_id, :now, :expires_at);

-- name: lock_session_of_token$
-- The family of a refresh token, locked until this transaction ends. The state is read by the
-- next statement: this one's snapshot is older than the lock.
SELECT id FROM users.sessions
WHERE id = (SELECT session_id FROM users.refresh_tokens WHERE digest = :digest)
FOR UPDATE;

-- name: refresh_state^
-- What decides about a refresh token, and whom it is for.
SELECT s.id AS session_id, s.member_id, s.revoked_at IS NOT NULL AS revoked,
       t.used_at IS NOT NULL AS used, t.expires_at <= :now AS expired,
       m.deleted_at IS NOT NULL AS deleted, m.roles
FROM users.refresh_tokens t
JOIN users.sessions s ON s.id = t.session_id
JOIN users.members m ON m.id = s.member_id
WHERE t.digest = :digest;

-- name: spend_token!
-- Mark a refresh token as used.
UPDATE users.refresh_tokens SET used_at = :now WHERE digest = :digest;

-- name: extend_session!
-- The family lives as long as its newest tokens.
UPDATE users.sessions
SET expires_at = greatest(expires_at, :expires_at),
    access_expires_at = greatest(access_expires_at, :access_expires_at)
WHERE id = :id;

-- name: revoke_session$
-- End one family; its id, or NULL when it was over already.
UPDATE users.sessions SET revoked_at = clock_timestamp(), revoked_reason = :reason
WHERE id = :id AND revoked_at IS NULL RETURNING id;

-- name: revoke_member_session$
-- End the family that an access token names, if it is that member's.
UPDATE users.sessions SET revoked_at = clock_timestamp(), revoked_reason = :reason
WHERE id = :id AND member_id = :member_id AND revoked_at IS NULL RETURNING id;

-- name: revoke_sessions_of
-- End every family of a member; their ids.
UPDATE users.sessions SET revoked_at = clock_timestamp(), revoked_reason = :reason
WHERE member_id = :member_id AND revoked_at IS NULL RETURNING id;

-- name: revocations
-- Revoked families whose access tokens may still be alive (a minute for clocks that differ). The
-- overlap covers transactions that commit long after their revocation was stamped.
SELECT id, revoked_at, access_expires_at FROM users.sessions
WHERE revoked_at IS NOT NULL AND access_expires_at > now() - interval '1 minute'
  AND (:since::timestamptz IS NULL OR revoked_at >= :since::timestamptz - interval '15 seconds')
ORDER BY revoked_at;

-- name: lock_keys!
-- One maker of keys at a time, over all processes.
SELECT pg_advisory_xact_lock(hashtextextended('users.signing_keys', 0));

-- name: keys
-- Every key that is needed still, newest first: it signs, will sign, or signed tokens that live.
-- The database's clock decides, so that all processes change over together.
SELECT kid, private_key, public_key, created_at, not_before, retired_at,
       not_before <= now() AS started,
       greatest(needed_until, retired_at + :slack_s * interval '1 second') AS needed_until
FROM users.signing_keys
WHERE retired_at IS NULL
   OR greatest(needed_until, retired_at + :slack_s * interval '1 second') > now()
ORDER BY not_before DESC, kid;

-- name: insert_key!
-- A new key, published from now on, signing after `lead_s`.
INSERT INTO users.signing_keys (kid, private_key, public_key, not_before)
VALUES (:kid, :private_key, :public_key, now() + :lead_s * interval '1 second');

-- name: retire_keys!
-- All other keys stop signing when the new one starts.
UPDATE users.signing_keys k SET retired_at = successor.not_before
FROM users.signing_keys successor
WHERE successor.kid = :successor AND k.kid <> successor.kid AND k.retired_at IS NULL;

-- name: need_key_until!
-- Keep a key published for tokens that live longer than ordinary ones.
UPDATE users.signing_keys SET needed_until = greatest(needed_until, :until) WHERE kid = :kid;

-- name: move_points^
-- Move the balance and write it into the ledger, both or neither. No row when the member is gone
-- or the balance would go below zero (which its CHECK would refuse, noisily).
WITH moved AS (
    UPDATE users.members SET points = points + :delta::bigint
    WHERE id = :member_id AND deleted_at IS NULL AND points + :delta::bigint >= 0
    RETURNING points
)
INSERT INTO users.points_ledger (id, member_id, delta, balance_after, reason)
SELECT :id, :member_id, :delta::bigint, moved.points, :reason FROM moved
RETURNING id, delta, reason, created_at;

-- name: points_of$
-- The balance of a live member.
SELECT points FROM users.members WHERE id = :id AND deleted_at IS NULL;

-- name: ledger
-- A member's movements, newest first, from below `before` on.
SELECT seq, id, delta, reason, created_at FROM users.points_ledger
WHERE member_id = :member_id AND (:before::bigint IS NULL OR seq < :before::bigint)
ORDER BY seq DESC LIMIT :most;

-- name: delete_old_answers$
-- Kept answers older than 48 hours (the contract promises 24).
WITH gone AS (
    DELETE FROM users.idempotency WHERE (scope, key_digest) IN (
        SELECT scope, key_digest FROM users.idempotency
        WHERE created_at < now() - interval '48 hours' LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING 1
) SELECT count(*) FROM gone;

-- name: delete_old_tokens$
-- Refresh tokens past their life: they are refused with or without their row.
WITH gone AS (
    DELETE FROM users.refresh_tokens WHERE digest IN (
        SELECT digest FROM users.refresh_tokens
        WHERE expires_at < now() LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING 1
) SELECT count(*) FROM gone;

-- name: delete_old_sessions$
-- Families with no living token of either kind.
WITH gone AS (
    DELETE FROM users.sessions WHERE id IN (
        SELECT id FROM users.sessions
        WHERE access_expires_at < now() - interval '5 minutes'
          AND (expires_at < now() OR revoked_at < now() - interval '7 days')
        LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING 1
) SELECT count(*) FROM gone;

-- name: delete_old_keys$
-- Keys that nothing living was signed with, a day after that.
WITH gone AS (
    DELETE FROM users.signing_keys
    WHERE greatest(needed_until, retired_at + :slack_s * interval '1 second')
          < now() - interval '1 day'
      AND retired_at IS NOT NULL
    RETURNING 1
) SELECT count(*) FROM gone;

-- name: audit_balances
-- Members whose balance is not the sum of their ledger, and how many were looked at.
WITH sums AS (
    SELECT member_id, sum(delta) AS total FROM users.points_ledger GROUP BY member_id
)
SELECT m.id, m.points <> coalesce(s.total, 0) AS wrong
FROM users.members m LEFT JOIN sums s ON s.member_id = m.id
WHERE m.points <> 0 OR s.member_id IS NOT NULL;

-- name: audit_ledger^
-- Ledger rows whose `balance_after` does not follow from the row before.
WITH steps AS (
    SELECT id, balance_after, delta,
           lag(balance_after, 1, 0::bigint) OVER (PARTITION BY member_id ORDER BY seq) AS before
    FROM users.points_ledger
)
SELECT count(*) AS checked,
       count(*) FILTER (WHERE before + delta <> balance_after) AS failed,
       (array_agg(id::text) FILTER (WHERE before + delta <> balance_after))[1 : 5] AS examples
FROM steps;
