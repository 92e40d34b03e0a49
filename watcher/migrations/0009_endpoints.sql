-- Endpoints that fail for days or come back, and deliveries that end without an answer.

ALTER TABLE endpoint
  ADD failing_since timestamptz,                      -- the first failure after the last success; NULL: none
  ADD warned boolean NOT NULL DEFAULT false CHECK (NOT warned OR failing_since IS NOT NULL),  -- it was told that it fails
  ADD ramp int CHECK (ramp >= 1),                     -- the cap for now, since it was away; NULL: max_in_flight
  ADD CONSTRAINT endpoint_disabled_reason_check
    CHECK (disabled_reason IN ('gone', 'failing', 'blocked_target', 'operator', 'paused', 'retired'));
CREATE INDEX endpoint_of_project ON endpoint (project_id, id);
CREATE INDEX endpoint_disabled ON endpoint (id) WHERE status = 'disabled';
CREATE INDEX endpoint_failing ON endpoint (failing_since) WHERE failing_since IS NOT NULL;

ALTER TABLE delivery
  ADD crash_count int NOT NULL DEFAULT 0 CHECK (crash_count >= 0),  -- leases in a row that ended without an answer
  ADD cancel_reason text,                             -- why an operator took it back
  DROP CONSTRAINT delivery_state_check,
  ADD CONSTRAINT delivery_state_check CHECK (state IN ('pending', 'in_flight', 'delivered', 'dead', 'cancelled')),
  ADD CONSTRAINT delivery_cancelled_check CHECK ((state = 'cancelled') = (cancel_reason IS NOT NULL));

-- Suspects: what was in flight when a notifier ended, three times in a row. One of them is sent at a time, over all
-- notifiers, so that the one that ends notifiers is found alone. The 3 stands in notifier.store and notifier.rules, too.
CREATE UNIQUE INDEX delivery_one_suspect_in_flight ON delivery ((true)) WHERE state = 'in_flight' AND crash_count >= 3;
CREATE INDEX delivery_suspect ON delivery (endpoint_id, next_attempt_at) WHERE state = 'pending' AND crash_count >= 3;
