-- name: fences
-- The leases of these shards, locked against a takeover until this transaction ends.
SELECT shard, fence FROM reservations.shard_leases WHERE shard = ANY(:shards::smallint[]) FOR SHARE;

-- name: lock_inventory
-- The inventory rows of a batch, locked in id order (every writer takes them in this order).
SELECT ticket_type_id, capacity - held - sold AS available, price, max_per_member, hold_seconds,
       opens_at, closes_at, cancelled_at IS NOT NULL AS cancelled, clock_timestamp() AS now
FROM reservations.inventory
WHERE ticket_type_id = ANY(:ticket_types::uuid[])
ORDER BY ticket_type_id
FOR NO KEY UPDATE;

-- name: live_quantities
-- What these members hold or have bought of these ticket types (pairs, in order).
SELECT r.member_id, r.ticket_type_id, sum(r.quantity)::int AS quantity
FROM unnest(:members::uuid[], :ticket_types::uuid[]) AS pair (member_id, ticket_type_id)
JOIN reservations.reservations r
  ON r.member_id = pair.member_id AND r.ticket_type_id = pair.ticket_type_id
WHERE r.status IN ('held', 'confirmed')
GROUP BY r.member_id, r.ticket_type_id;

-- name: known_reservations
-- Reservations that already exist under one of these ids, or under one of these members' keys.
SELECT id, member_id, idempotency_key, fingerprint, status::text, reason, created_at, expires_at,
       amount
FROM reservations.reservations WHERE id = ANY(:ids::uuid[])
UNION ALL
SELECT r.id, r.member_id, r.idempotency_key, r.fingerprint, r.status::text, r.reason, r.created_at,
       r.expires_at, r.amount
FROM unnest(:members::uuid[], :digests::bytea[]) AS pair (member_id, digest)
JOIN reservations.reservations r
  ON r.member_id = pair.member_id AND r.idempotency_key = pair.digest;

-- name: insert_reservations!
-- One batch of decided requests. What another batch has inserted already is left alone.
INSERT INTO reservations.reservations (
    id, member_id, event_id, ticket_type_id, amount, created_at, expires_at, updated_at, status,
    quantity, currency, reason, idempotency_key, fingerprint)
SELECT u.id, u.member_id, i.event_id, i.ticket_type_id, u.quantity * i.price, :now::timestamptz,
       :now::timestamptz + make_interval(secs => i.hold_seconds), :now::timestamptz,
       CASE WHEN u.reason IS NULL THEN 'held' ELSE 'rejected' END::reservations.status,
       u.quantity, i.currency, u.reason, u.digest, u.fingerprint
FROM unnest(:ids::uuid[], :members::uuid[], :ticket_types::uuid[], :quantities::int[],
            :reasons::text[], :digests::bytea[], :fingerprints::bytea[])
     AS u (id, member_id, ticket_type_id, quantity, reason, digest, fingerprint)
JOIN reservations.inventory i ON i.ticket_type_id = u.ticket_type_id
ON CONFLICT DO NOTHING;

-- name: move_held!
-- Add to (or, negative, take from) what is held of these ticket types.
UPDATE reservations.inventory i SET held = i.held + d.quantity
FROM unnest(:ticket_types::uuid[], :quantities::int[]) AS d (ticket_type_id, quantity)
WHERE i.ticket_type_id = d.ticket_type_id;

-- name: due_holds
-- Holds past their deadline, oldest first, that nobody else is changing.
SELECT id, member_id, ticket_type_id, quantity FROM reservations.reservations
WHERE status = 'held' AND expires_at <= now()
ORDER BY expires_at LIMIT :most FOR UPDATE SKIP LOCKED;

-- name: holds_of_event
-- Some live holds of an event, locked.
SELECT id, member_id, ticket_type_id, quantity FROM reservations.reservations
WHERE event_id = :event_id AND status = 'held'
ORDER BY id LIMIT :most FOR UPDATE;

-- name: end_reservations!
-- Move these reservations to their next state (checked against the model by the caller).
UPDATE reservations.reservations
SET status = :status::text::reservations.status, updated_at = now()
WHERE id = ANY(:ids::uuid[]);

-- name: announce_releases!
-- Outbox rows for the relay: these members' tickets are free again.
INSERT INTO reservations.outbox (shard, ticket_type_id, member_id, quantity)
SELECT i.shard, u.ticket_type_id, u.member_id, u.quantity
FROM unnest(:ticket_types::uuid[], :members::uuid[], :quantities::int[])
     AS u (ticket_type_id, member_id, quantity)
JOIN reservations.inventory i ON i.ticket_type_id = u.ticket_type_id;

-- name: announce_types
-- Outbox rows for the relay: the stock of these ticket types changed.
INSERT INTO reservations.outbox (shard, ticket_type_id)
SELECT shard, ticket_type_id FROM reservations.inventory
WHERE ticket_type_id = ANY(:ticket_types::uuid[])
RETURNING id;

-- name: outbox_rows
-- What the relay of these shards has to tell, oldest first.
SELECT id, shard, ticket_type_id, member_id, quantity FROM reservations.outbox
WHERE shard = ANY(:shards::smallint[]) ORDER BY id LIMIT :most;

-- name: outbox_done!
-- These rows have reached the gate.
DELETE FROM reservations.outbox WHERE id = ANY(:ids::bigint[]);

-- name: outbox_waiting$
-- How many of these rows the relay has still to tell.
SELECT count(*) FROM reservations.outbox WHERE id = ANY(:ids::bigint[]);

-- name: stock_of_types
-- What is left of these ticket types, for the gate (nothing, once the sale is cancelled).
SELECT ticket_type_id, shard, max_per_member,
       CASE WHEN cancelled_at IS NULL THEN capacity - held - sold ELSE 0 END AS available
FROM reservations.inventory WHERE ticket_type_id = ANY(:ticket_types::uuid[]);

-- name: stock_of_shards
-- What is left of every ticket type of these shards whose sale is not over.
SELECT ticket_type_id, shard, max_per_member,
       CASE WHEN cancelled_at IS NULL THEN capacity - held - sold ELSE 0 END AS available
FROM reservations.inventory
WHERE shard = ANY(:shards::smallint[]) AND closes_at > now() - interval '1 hour';

-- name: allowances_of_shard
-- Live quantity per member of the limited ticket types of a shard, for a rebuild.
SELECT r.member_id, r.ticket_type_id, sum(r.quantity)::int AS quantity
FROM reservations.inventory i
JOIN reservations.reservations r
  ON r.event_id = i.event_id AND r.ticket_type_id = i.ticket_type_id
WHERE i.shard = :shard AND i.max_per_member IS NOT NULL AND i.closes_at > now()
  AND r.status IN ('held', 'confirmed')
GROUP BY r.member_id, r.ticket_type_id;

-- name: sale_of_type
-- Every ticket type of the event that this one belongs to, for the API's snapshot.
SELECT s.ticket_type_id, s.event_id, s.shard, s.currency, s.max_per_member, s.opens_at,
       s.closes_at, s.cancelled_at IS NOT NULL AS cancelled
FROM reservations.inventory t JOIN reservations.inventory s ON s.event_id = t.event_id
WHERE t.ticket_type_id = :ticket_type_id;

-- name: sale_exists$
-- Whether the event was ever put on sale.
SELECT EXISTS (SELECT 1 FROM reservations.inventory WHERE event_id = :event_id);

-- name: availability
-- The counts of one event.
SELECT ticket_type_id AS id, capacity, held, sold, clock_timestamp() AS as_of,
       CASE WHEN cancelled_at IS NULL THEN capacity - held - sold ELSE 0 END AS available
FROM reservations.inventory WHERE event_id = :event_id ORDER BY position;

-- name: put_sale!
-- Open a sale, or bring what all its ticket types share to a newer version.
INSERT INTO reservations.inventory (
    ticket_type_id, event_id, organizer_id, shard, version, position, capacity, price, currency,
    max_per_member, limit_ceiling, hold_seconds, opens_at, closes_at)
SELECT u.id, :event_id, :organizer_id, :shard, :version, u.position, u.capacity, u.price, :currency,
       u.max_per_member, u.max_per_member, :hold_seconds, :opens_at, :closes_at
FROM unnest(:ids::uuid[], :positions::int[], :capacities::int[], :prices::bigint[],
            :limits::int[]) AS u (id, position, capacity, price, max_per_member)
ORDER BY u.id
ON CONFLICT (ticket_type_id) DO UPDATE
SET version = excluded.version, currency = excluded.currency,
    hold_seconds = excluded.hold_seconds, opens_at = excluded.opens_at,
    closes_at = excluded.closes_at
WHERE inventory.version < excluded.version;

-- name: change_ticket_type$
-- Set capacity, price and limit unless that would undercut what is held and sold.
UPDATE reservations.inventory
SET capacity = :capacity, price = :price, max_per_member = :max_per_member,
    limit_ceiling = CASE WHEN limit_ceiling IS NULL OR :max_per_member::int IS NULL THEN NULL
                         ELSE greatest(limit_ceiling, :max_per_member) END
WHERE ticket_type_id = :ticket_type_id AND held + sold <= :capacity
RETURNING event_id;

-- name: event_of_type$
-- The event of a ticket type on sale.
SELECT event_id FROM reservations.inventory WHERE ticket_type_id = :ticket_type_id;

-- name: close_sale
-- Close a sale for good. The rows are locked in id order first, as every batch does.
WITH locked AS (
    SELECT ticket_type_id FROM reservations.inventory WHERE event_id = :event_id
    ORDER BY ticket_type_id FOR NO KEY UPDATE)
UPDATE reservations.inventory i SET cancelled_at = coalesce(i.cancelled_at, now())
FROM locked WHERE i.ticket_type_id = locked.ticket_type_id RETURNING i.ticket_type_id;

-- name: get_reservation^
-- One reservation of a member, its deadline applied.
SELECT id, event_id, ticket_type_id, quantity, amount, currency, expires_at, created_at, reason,
       CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired' ELSE status::text END
           AS status
FROM reservations.reservations WHERE id = :id AND member_id = :member_id;

-- name: get_by_keys
-- The reservations that these members' keys decided (pairs, in order).
SELECT r.id, r.member_id, r.event_id, r.ticket_type_id, r.quantity, r.amount, r.currency,
       r.expires_at, r.created_at, r.reason, r.status::text, r.idempotency_key, r.fingerprint
FROM unnest(:members::uuid[], :digests::bytea[]) AS pair (member_id, digest)
JOIN reservations.reservations r
  ON r.member_id = pair.member_id AND r.idempotency_key = pair.digest;

-- name: list_of_member
-- A member's reservations, newest first.
SELECT id, event_id, ticket_type_id, quantity, amount, currency, expires_at, created_at, reason,
       CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired' ELSE status::text END
           AS status
FROM reservations.reservations
WHERE member_id = :member_id
  AND (:event_id::uuid IS NULL OR event_id = :event_id)
  AND (:status::text IS NULL
       OR CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired' ELSE status::text END
          = :status)
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC LIMIT :most;

-- name: list_of_event
-- An event's reservations, newest first, for its organizer.
SELECT id, member_id, event_id, ticket_type_id, quantity, amount, currency, expires_at, created_at,
       reason,
       CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired' ELSE status::text END
           AS status
FROM reservations.reservations
WHERE event_id = :event_id
  AND (:status::text IS NULL
       OR CASE WHEN status = 'held' AND expires_at <= now() THEN 'expired' ELSE status::text END
          = :status)
  AND (:before::uuid IS NULL OR id < :before)
ORDER BY id DESC LIMIT :most;

-- name: lock_reservation^
-- One reservation of a member, locked for a change of state.
SELECT id, ticket_type_id, quantity, status::text, expires_at <= now() AS overdue
FROM reservations.reservations WHERE id = :id AND member_id = :member_id FOR UPDATE;

-- name: worker_seen!
-- This worker is alive.
INSERT INTO reservations.workers (name, seen_at) VALUES (:name, now())
ON CONFLICT (name) DO UPDATE SET seen_at = now();

-- name: workers_alive$
-- How many workers were seen within the length of a lease.
SELECT count(*)::int FROM reservations.workers
WHERE seen_at > now() - make_interval(secs => :lease_s);

-- name: renew_leases
-- Prolong the leases that are still mine.
UPDATE reservations.shard_leases SET expires_at = now() + make_interval(secs => :lease_s)
WHERE owner = :name AND (shard, fence) IN (
    SELECT * FROM unnest(:shards::smallint[], :fences::bigint[]))
RETURNING shard;

-- name: take_leases
-- Take free leases, or those of my own dead predecessor; each with the next fencing number.
UPDATE reservations.shard_leases
SET owner = :name, fence = fence + 1, expires_at = now() + make_interval(secs => :lease_s)
WHERE shard IN (
    SELECT shard FROM reservations.shard_leases
    WHERE (expires_at < now() OR owner = :name) AND NOT shard = ANY(:mine::smallint[])
    ORDER BY shard LIMIT :most FOR UPDATE SKIP LOCKED)
RETURNING shard, fence;

-- name: give_back_leases!
-- Free these leases at once, for a worker with too few or because this one stops.
UPDATE reservations.shard_leases SET expires_at = '-infinity', owner = ''
WHERE owner = :name AND shard = ANY(:shards::smallint[]);

-- name: forget_worker!
-- This worker stops.
DELETE FROM reservations.workers WHERE name = :name;
