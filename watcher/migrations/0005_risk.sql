-- What speaks against accepting money unconfirmed, and how much of it is accepted.

ALTER TABLE tx ADD risk jsonb;                        -- watcher.rules.risk.Measurement, of when it was first seen in the mempool; NULL: not measured

ALTER TABLE invoice
  ADD raised_to int NOT NULL DEFAULT 0 CHECK (raised_to >= 0),  -- confirmations that risk asks for; it never falls
  ADD conflict_seen boolean NOT NULL DEFAULT false,   -- a payment of it was replaced or double-spent before it was accepted
  ADD risk_factors jsonb NOT NULL DEFAULT '[]',       -- watcher.rules.risk.Factor, as they were weighed last
  ADD exposed_sat bigint NOT NULL DEFAULT 0 CHECK (exposed_sat >= 0),  -- of a CONFIRMED one: its money that is in no block
  ADD CONSTRAINT invoice_raised_by_risk CHECK (raised_to = 0 OR required_confirmations = 0);

UPDATE invoice SET conflict_seen = true
WHERE required_confirmations = 0 AND status IN ('NEW', 'UNDERPAID', 'UNCONFIRMED') AND id IN (
  SELECT invoice_id FROM payment JOIN tx USING (txid) WHERE state IN ('replaced', 'conflicted')
);
UPDATE invoice i SET exposed_sat = p.amount_sat
FROM (
  SELECT invoice_id, sum(amount_sat) AS amount_sat FROM payment JOIN tx USING (txid)
  WHERE counted AND anchor_hash IS NULL GROUP BY invoice_id
) p
WHERE p.invoice_id = i.id AND i.status = 'CONFIRMED';
CREATE INDEX invoice_exposed ON invoice (project_id, test) INCLUDE (id, exposed_sat) WHERE exposed_sat > 0;

-- What risk has raised waits for a block, and not for the node.
DROP INDEX invoice_held_back;
CREATE INDEX invoice_held_back ON invoice (id) WHERE status = 'UNCONFIRMED' AND required_confirmations = 0 AND raised_to = 0;
