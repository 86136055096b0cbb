-- name: audited_stock^
-- Invariant 1: the counters of each ticket type against one pass over its reservations.
WITH summed AS MATERIALIZED (
    SELECT ticket_type_id,
           coalesce(sum(quantity) FILTER (WHERE status = 'held'), 0) AS held,
           coalesce(sum(quantity) FILTER (WHERE status = 'confirmed'), 0) AS sold
    FROM reservations.reservations GROUP BY ticket_type_id
), off AS (
    SELECT ticket_type_id,
           CASE WHEN i.ticket_type_id IS NULL OR s.ticket_type_id IS NULL THEN false
                ELSE true END AS both_sides,
           i.capacity, i.held AS counted_held, i.sold AS counted_sold,
           coalesce(s.held, 0) AS held, coalesce(s.sold, 0) AS sold
    FROM reservations.inventory i FULL JOIN summed s USING (ticket_type_id)
    WHERE i.held IS DISTINCT FROM coalesce(s.held, 0)
       OR i.sold IS DISTINCT FROM coalesce(s.sold, 0)
       OR i.held + i.sold > i.capacity OR i.held < 0 OR i.sold < 0
)
SELECT (SELECT count(*) FROM reservations.inventory) AS checked,
       (SELECT count(*) FROM off) AS failed,
       ARRAY(SELECT format('ticket type %s: capacity %s, counted held %s sold %s, summed held %s sold %s',
                           ticket_type_id, coalesce(capacity::text, 'unknown'),
                           coalesce(counted_held::text, '-'), coalesce(counted_sold::text, '-'),
                           held, sold)
             FROM off ORDER BY ticket_type_id LIMIT 5) AS examples;

-- name: audited_allowances^
-- Invariant 2: live quantity per member of the ticket types that always had a limit, against the
-- highest limit that was ever in force (a later, lower one does not take tickets away).
WITH live AS MATERIALIZED (
    SELECT r.member_id, r.ticket_type_id, i.limit_ceiling, sum(r.quantity) AS quantity
    FROM reservations.reservations r
    JOIN reservations.inventory i ON i.ticket_type_id = r.ticket_type_id
    WHERE i.limit_ceiling IS NOT NULL AND r.status IN ('held', 'confirmed')
    GROUP BY r.member_id, r.ticket_type_id, i.limit_ceiling
), off AS (
    SELECT * FROM live WHERE quantity > limit_ceiling
)
SELECT (SELECT count(*) FROM live) AS checked,
       (SELECT count(*) FROM off) AS failed,
       ARRAY(SELECT format('member %s has %s of ticket type %s, allowed %s',
                           member_id, quantity, ticket_type_id, limit_ceiling)
             FROM off ORDER BY member_id LIMIT 5) AS examples;

-- name: audited_keys^
-- Invariant 3: no member's key decided twice. The table is read, not the index that forbids it.
WITH twice AS MATERIALIZED (
    SELECT member_id, idempotency_key, count(*) AS rows
    FROM reservations.reservations WHERE idempotency_key IS NOT NULL
    GROUP BY member_id, idempotency_key HAVING count(*) > 1
)
SELECT (SELECT count(*) FROM reservations.reservations WHERE idempotency_key IS NOT NULL)
           AS checked,
       (SELECT count(*) FROM twice) AS failed,
       ARRAY(SELECT format('member %s: one key, %s reservations', member_id, rows)
             FROM twice ORDER BY member_id LIMIT 5) AS examples;

-- name: audited_states^
-- Every reservation is in a state of the model, says why it was refused exactly when it was, and
-- belongs to the event that its ticket type belongs to.
WITH off AS MATERIALIZED (
    SELECT r.id, r.status::text AS status, r.reason
    FROM reservations.reservations r
    LEFT JOIN reservations.inventory i ON i.ticket_type_id = r.ticket_type_id
    WHERE r.status::text <> ALL(:states::text[])
       OR (r.status = 'rejected') <> (r.reason IS NOT NULL)
       OR r.event_id IS DISTINCT FROM i.event_id
       OR r.expires_at <= r.created_at OR r.quantity <= 0 OR r.amount < 0
)
SELECT (SELECT count(*) FROM reservations.reservations) AS checked,
       (SELECT count(*) FROM off) AS failed,
       ARRAY(SELECT format('reservation %s: %s, reason %s', id, status, coalesce(reason, 'none'))
             FROM off ORDER BY id LIMIT 5) AS examples;

-- name: audited_deadlines^
-- Invariant 5: no hold outlives its deadline by more than the sweep allows, in ms.
WITH late AS MATERIALIZED (
    SELECT id, now() - expires_at AS late FROM reservations.reservations
    WHERE status = 'held' AND expires_at < now() - make_interval(secs => :late_ms / 1000.0)
)
SELECT (SELECT count(*) FROM reservations.reservations WHERE status = 'held') AS checked,
       (SELECT count(*) FROM late) AS failed,
       ARRAY(SELECT format('reservation %s: %s ms past its deadline', id,
                           round(extract(epoch FROM late) * 1000))
             FROM late ORDER BY late DESC LIMIT 5) AS examples;

-- name: any_worker$
-- Whether a worker is there to sweep, relay and settle (a clean stop removes its row).
SELECT EXISTS (SELECT 1 FROM reservations.workers);

-- name: expected_stock
-- What the gate of a shard should have of every ticket type that is on sale.
SELECT ticket_type_id,
       CASE WHEN cancelled_at IS NULL THEN capacity - held - sold ELSE 0 END AS available
FROM reservations.inventory WHERE shard = :shard AND closes_at > now();

-- name: live_of_holders
-- What these members have of these ticket types (pairs), if those are limited and on sale.
SELECT pair.member_id, pair.ticket_type_id, coalesce(sum(r.quantity), 0)::bigint AS quantity
FROM unnest(:members::uuid[], :ticket_types::uuid[]) AS pair (member_id, ticket_type_id)
JOIN reservations.inventory i ON i.ticket_type_id = pair.ticket_type_id
 AND i.max_per_member IS NOT NULL AND i.closes_at > now()
LEFT JOIN reservations.reservations r
  ON r.member_id = pair.member_id AND r.ticket_type_id = pair.ticket_type_id
 AND r.status IN ('held', 'confirmed')
GROUP BY pair.member_id, pair.ticket_type_id;

-- name: outbox_ends^
-- The oldest and the newest row that the relay has still to tell; NULL when it has told all.
SELECT min(id) AS oldest, max(id) AS newest, count(*) AS rows FROM reservations.outbox;

-- name: acknowledged_missing
-- Invariant 4: those of these 201 answers that PostgreSQL does not have as told: same id, same
-- member, same quantity, held (or ended by a deadline that has passed since).
SELECT told.id, coalesce(r.status::text, 'does not exist') AS found
FROM unnest(:ids::uuid[], :members::uuid[], :quantities::int[]) AS told (id, member_id, quantity)
LEFT JOIN reservations.reservations r
  ON r.id = told.id AND r.member_id = told.member_id AND r.quantity = told.quantity
 AND r.ticket_type_id = :ticket_type_id
WHERE r.id IS NULL OR NOT (r.status = 'held' OR r.status = 'expired' AND r.expires_at <= now())
ORDER BY told.id;

-- name: taken_of_type^
-- Tickets of one ticket type: all that are taken, and those taken by these members.
SELECT i.capacity, i.held + i.sold AS taken,
       (SELECT coalesce(sum(r.quantity), 0)::bigint FROM reservations.reservations r
        WHERE r.ticket_type_id = i.ticket_type_id AND r.event_id = i.event_id
          AND r.status IN ('held', 'confirmed') AND r.member_id = ANY(:members::uuid[])) AS by_members
FROM reservations.inventory i WHERE i.ticket_type_id = :ticket_type_id;
