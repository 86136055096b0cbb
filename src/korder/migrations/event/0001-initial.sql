-- The event domain: events, their ticket types, and the answers kept for Idempotency-Key.
-- What the sale side was told is written beside each change, so that a crash between the two
-- steps is seen and repaired (korder/domains/event/announce.py, ticket_types.py).

CREATE SCHEMA IF NOT EXISTS events;

CREATE TYPE events.status AS ENUM ('draft', 'published', 'cancelled');

CREATE TABLE events.events (
    id                uuid PRIMARY KEY,
    organizer_id      uuid NOT NULL,
    title             text NOT NULL,
    description       text NOT NULL DEFAULT '',
    venue             text NOT NULL,
    starts_at         timestamptz NOT NULL,
    -- NULL while a draft means "when it is published"
    sale_opens_at     timestamptz,
    -- NULL means "when the event starts", also when that moves later
    sale_closes_at    timestamptz,
    currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    hold_seconds      integer NOT NULL CHECK (hold_seconds BETWEEN 5 AND 3600),
    status            events.status NOT NULL DEFAULT 'draft',
    cancel_reason     text,
    published_at      timestamptz,
    cancelled_at      timestamptz,
    -- grows with every change of this row; the sale side ignores what is older than it knows
    version           bigint NOT NULL DEFAULT 1,
    -- the newest version that the sale side is known to have
    announced_version bigint NOT NULL DEFAULT 0,
    -- when `repair` may tell the sale side again; NULL when it knows everything
    repair_at         timestamptz,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL,
    -- the order of the lists: newest sale first
    listed_at         timestamptz NOT NULL
        GENERATED ALWAYS AS (coalesce(sale_opens_at, created_at)) STORED,
    CONSTRAINT events_window CHECK (sale_opens_at < coalesce(sale_closes_at, starts_at)),
    CONSTRAINT events_published_sale CHECK (published_at IS NULL OR sale_opens_at IS NOT NULL),
    CONSTRAINT events_published CHECK (status <> 'published' OR published_at IS NOT NULL),
    CONSTRAINT events_cancelled CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL))
);

CREATE INDEX events_listed ON events.events (status, listed_at DESC, id DESC);
CREATE INDEX events_of_organizer ON events.events (organizer_id, listed_at DESC, id DESC);
CREATE INDEX events_to_repair ON events.events (repair_at) WHERE repair_at IS NOT NULL;

CREATE TABLE events.ticket_types (
    id                uuid PRIMARY KEY,
    event_id          uuid NOT NULL REFERENCES events.events (id),
    position          smallint NOT NULL,
    name              text NOT NULL,
    price             bigint NOT NULL CHECK (price >= 0),
    capacity          integer NOT NULL CHECK (capacity >= 0),
    max_per_member    integer CHECK (max_per_member > 0),
    -- The three numbers that the sale side is being asked for; it may refuse them, so they become
    -- true only with its answer. `pending_id` tells one such intent from the next.
    pending_id        uuid,
    pending_numbers   jsonb,
    pending_since     timestamptz,
    repair_at         timestamptz,
    UNIQUE (event_id, position),
    CONSTRAINT ticket_types_pending CHECK (
        (pending_id IS NULL) = (pending_numbers IS NULL)
        AND (pending_id IS NULL) = (pending_since IS NULL)
        AND (pending_id IS NULL) = (repair_at IS NULL))
);

CREATE INDEX ticket_types_to_repair ON events.ticket_types (repair_at) WHERE repair_at IS NOT NULL;

-- An event's ticket types as the contract shows them, a JSON array in their order.
CREATE FUNCTION events.types_of(event uuid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(json_agg(json_build_object(
        'id', t.id, 'name', t.name, 'price', t.price, 'capacity', t.capacity,
        'max_per_member', t.max_per_member) ORDER BY t.position), '[]')::text
    FROM events.ticket_types t WHERE t.event_id = event
$$;

CREATE TABLE events.idempotency (
    scope             text NOT NULL,
    key_digest        bytea NOT NULL,
    fingerprint       bytea NOT NULL,
    status            smallint NOT NULL DEFAULT 0,
    body              bytea NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key_digest)
);

CREATE INDEX idempotency_created ON events.idempotency (created_at);
