-- name: insert_event!
-- A new draft.
INSERT INTO events.events (
    id, organizer_id, title, description, venue, starts_at, sale_opens_at, sale_closes_at, currency,
    hold_seconds, created_at, updated_at)
VALUES (:id, :organizer_id, :title, :description, :venue, :starts_at, :sale_opens_at,
        :sale_closes_at, :currency, :hold_seconds, :now, :now);

-- name: insert_ticket_types!
-- The ticket types of a new draft, in the order given.
INSERT INTO events.ticket_types (id, event_id, position, name, price, capacity, max_per_member)
SELECT u.id, :event_id, u.position - 1, u.name, u.price, u.capacity, u.max_per_member
FROM unnest(:ids::uuid[], :names::text[], :prices::bigint[], :capacities::int[], :limits::int[])
     WITH ORDINALITY AS u (id, name, price, capacity, max_per_member, position);

-- name: get_event^
-- One event with its ticket types.
SELECT *, events.types_of(id) AS ticket_types FROM events.events WHERE id = :id;

-- name: lock_event^
-- One event for a change: the second of two changes waits here and sees the first.
SELECT * FROM events.events WHERE id = :id FOR NO KEY UPDATE;

-- name: organizer_of$
-- Whose event it is.
SELECT organizer_id FROM events.events WHERE id = :id;

-- name: save_details^
-- Write what the organizer may write; a published event is to be told to the sale side.
UPDATE events.events
SET title = :title, description = :description, venue = :venue, starts_at = :starts_at,
    sale_opens_at = :sale_opens_at, sale_closes_at = :sale_closes_at, currency = :currency,
    hold_seconds = :hold_seconds, version = version + 1, updated_at = :now,
    repair_at = CASE WHEN status = 'published' THEN now() + interval '2 seconds' END
WHERE id = :id
RETURNING *, events.types_of(id) AS ticket_types;

-- name: publish_event^
-- A draft goes on sale; the sale side is to be told.
UPDATE events.events
SET status = 'published', published_at = :now, sale_opens_at = :sale_opens_at,
    version = version + 1, updated_at = :now, repair_at = now() + interval '2 seconds'
WHERE id = :id
RETURNING *, events.types_of(id) AS ticket_types;

-- name: cancel_event^
-- An event is off. If it was ever published the sale side is to be told.
UPDATE events.events
SET status = 'cancelled', cancelled_at = :now, cancel_reason = :reason,
    version = version + 1, updated_at = :now,
    repair_at = CASE WHEN published_at IS NOT NULL THEN now() + interval '2 seconds' END
WHERE id = :id
RETURNING *, events.types_of(id) AS ticket_types;

-- name: mark_announced!
-- The sale side knows this version; nothing is left to repair unless a newer one exists.
UPDATE events.events
SET announced_version = greatest(announced_version, :version),
    repair_at = CASE WHEN version = :version THEN NULL ELSE repair_at END
WHERE id = :id;

-- name: claim_unannounced
-- Events whose sale side is behind, kept from the other repairers for a while.
UPDATE events.events SET repair_at = now() + interval '5 seconds'
WHERE id IN (
    SELECT id FROM events.events WHERE repair_at <= now()
    ORDER BY repair_at LIMIT :most FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id;

-- name: lock_ticket_type^
-- One ticket type of an event, for a change.
SELECT *, extract(epoch FROM now() - pending_since)::float8 AS pending_age_s
FROM events.ticket_types WHERE id = :id AND event_id = :event_id FOR NO KEY UPDATE;

-- name: get_ticket_type^
-- One ticket type as it stands.
SELECT * FROM events.ticket_types WHERE id = :id;

-- name: save_numbers^
-- Write the numbers of a ticket type that nobody sells yet.
UPDATE events.ticket_types
SET price = :price, capacity = :capacity, max_per_member = :max_per_member
WHERE id = :id
RETURNING *;

-- name: save_intent!
-- Remember what the sale side is about to be asked for.
UPDATE events.ticket_types
SET pending_id = :pending_id, pending_numbers = :numbers::jsonb, pending_since = now(),
    repair_at = now() + interval '2 seconds'
WHERE id = :id;

-- name: apply_intent^
-- The sale side agreed: the numbers asked for become the true ones.
UPDATE events.ticket_types
SET price = :price, capacity = :capacity, max_per_member = :max_per_member,
    pending_id = NULL, pending_numbers = NULL, pending_since = NULL, repair_at = NULL
WHERE id = :id AND pending_id = :pending_id
RETURNING *;

-- name: drop_intent!
-- The sale side refused: everything stays as it was.
UPDATE events.ticket_types
SET pending_id = NULL, pending_numbers = NULL, pending_since = NULL, repair_at = NULL
WHERE id = :id AND pending_id = :pending_id;

-- name: claim_intents
-- Intents without an answer, kept from the other repairers for a while.
UPDATE events.ticket_types SET repair_at = now() + interval '5 seconds'
WHERE id IN (
    SELECT id FROM events.ticket_types WHERE repair_at <= now()
    ORDER BY repair_at LIMIT :most FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id, event_id, pending_id, pending_numbers;

-- name: list_by_status
-- Events of one status, newest sale first; without `:unpublished` only what was ever public.
SELECT *, events.types_of(id) AS ticket_types
FROM events.events
WHERE status = :status::events.status AND (:unpublished::bool OR published_at IS NOT NULL)
  AND (:pattern::text IS NULL OR title ILIKE :pattern OR venue ILIKE :pattern)
  AND (listed_at, id) < (:before_at, :before_id)
ORDER BY listed_at DESC, id DESC LIMIT :most;

-- name: list_of_organizer
-- An organizer's own events in any status or in one, newest sale first.
SELECT *, events.types_of(id) AS ticket_types
FROM events.events
WHERE organizer_id = :organizer_id
  AND (:status::text IS NULL OR status = :status::text::events.status)
  AND (:pattern::text IS NULL OR title ILIKE :pattern OR venue ILIKE :pattern)
  AND (listed_at, id) < (:before_at, :before_id)
ORDER BY listed_at DESC, id DESC LIMIT :most;

-- name: delete_old_answers$
-- Forget a bounded number of answers kept for Idempotency-Key; the contract promises 24 hours.
WITH old AS (
    DELETE FROM events.idempotency WHERE (scope, key_digest) IN (
        SELECT scope, key_digest FROM events.idempotency
        WHERE created_at < now() - make_interval(hours => :hours) LIMIT :most)
    RETURNING 1)
SELECT count(*) FROM old;

-- name: count_unannounced^
-- Events once on sale, and those whose sale side has been behind for too long.
SELECT count(*) AS checked,
       count(*) FILTER (WHERE behind) AS failed,
       (array_agg(id::text) FILTER (WHERE behind))[1 : 5] AS examples
FROM (SELECT id, announced_version < version
                 AND updated_at < now() - make_interval(secs => :late_s) AS behind
      FROM events.events WHERE published_at IS NOT NULL) AS sold;

-- name: count_intents^
-- Ticket types, and those whose change has been without an answer for too long.
SELECT count(*) AS checked,
       count(*) FILTER (WHERE late) AS failed,
       (array_agg(id::text) FILTER (WHERE late))[1 : 5] AS examples
FROM (SELECT id, coalesce(pending_since < now() - make_interval(secs => :late_s), false) AS late
      FROM events.ticket_types) AS types;
