-- The reservation domain: inventory, reservations, outbox, shard leases.
-- No foreign key joins the two big tables: a check per inserted row would cost more than the
-- insert itself, and the one writer of a shard reads the inventory row in the same transaction.

CREATE SCHEMA IF NOT EXISTS reservations;

CREATE TYPE reservations.status AS ENUM
    ('held', 'confirmed', 'cancelled', 'expired', 'refunded', 'rejected');

-- One row per ticket type on sale: the truth about what is left. Every batch updates it, so half
-- of each page is left free for heap-only updates.
CREATE TABLE reservations.inventory (
    ticket_type_id   uuid PRIMARY KEY,
    event_id         uuid NOT NULL,
    organizer_id     uuid NOT NULL,
    shard            smallint NOT NULL CHECK (shard BETWEEN 0 AND 15),
    version          bigint NOT NULL,
    position         integer NOT NULL,
    capacity         integer NOT NULL CHECK (capacity >= 0),
    held             integer NOT NULL DEFAULT 0,
    sold             integer NOT NULL DEFAULT 0,
    price            bigint NOT NULL CHECK (price >= 0),
    currency         text NOT NULL,
    max_per_member   integer CHECK (max_per_member > 0),
    -- the most that was ever allowed (NULL: no limit): what the audit holds old reservations to
    limit_ceiling    integer,
    hold_seconds     integer NOT NULL CHECK (hold_seconds > 0),
    opens_at         timestamptz NOT NULL,
    closes_at        timestamptz NOT NULL,
    cancelled_at     timestamptz,
    CONSTRAINT inventory_never_oversold
        CHECK (held >= 0 AND sold >= 0 AND held + sold <= capacity)
) WITH (fillfactor = 50);

CREATE INDEX inventory_event ON reservations.inventory (event_id);
CREATE INDEX inventory_shard ON reservations.inventory (shard);

CREATE TABLE reservations.reservations (
    id               uuid PRIMARY KEY,
    member_id        uuid NOT NULL,
    event_id         uuid NOT NULL,
    ticket_type_id   uuid NOT NULL,
    amount           bigint NOT NULL,
    created_at       timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    status           reservations.status NOT NULL,
    quantity         integer NOT NULL CHECK (quantity > 0),
    currency         text NOT NULL,
    reason           text,
    idempotency_key  bytea,
    fingerprint      bytea
);

-- One decision per member and key; it also finds a member's reservations and allowance.
CREATE UNIQUE INDEX reservations_one_per_key
    ON reservations.reservations (member_id, idempotency_key);
CREATE INDEX reservations_of_event ON reservations.reservations (event_id, id);
CREATE INDEX reservations_due ON reservations.reservations (expires_at) WHERE status = 'held';

-- What the relay has still to tell the gate. A row lives from the change to the credit.
CREATE TABLE reservations.outbox (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard            smallint NOT NULL,
    ticket_type_id   uuid NOT NULL,
    member_id        uuid,
    quantity         integer NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now()
);

-- A shard has one live writer: the holder of its lease, proved by the fencing number.
CREATE TABLE reservations.shard_leases (
    shard            smallint PRIMARY KEY,
    owner            text NOT NULL DEFAULT '',
    fence            bigint NOT NULL DEFAULT 0,
    expires_at       timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO reservations.shard_leases (shard) SELECT generate_series(0, 15);

CREATE TABLE reservations.workers (
    name             text PRIMARY KEY,
    seen_at          timestamptz NOT NULL
);
