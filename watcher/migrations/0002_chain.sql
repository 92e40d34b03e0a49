-- What following the chain through everything needs beside the first schema.

ALTER TABLE chain_state
  ADD node_height int,                                -- the node's own tip, as of the last question
  ADD prune_height int;                               -- the first block that the node still has; NULL: all of them

-- A block of which only unspent outputs are known (it was pruned before we read it) gives no raw transaction.
ALTER TABLE tx ALTER raw DROP NOT NULL;

CREATE TABLE chain_gap (                              -- blocks that an operator decided to go on without
  first_height int PRIMARY KEY CHECK (first_height >= 0),
  last_height int NOT NULL CHECK (last_height >= first_height),
  accepted_at timestamptz NOT NULL,
  reason text NOT NULL CHECK (reason <> '')
);

CREATE TABLE operator_action (                        -- what operators did to the facts, and why; append-only
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  happened_at timestamptz NOT NULL,
  action text NOT NULL CHECK (action ~ '^[a-z_]+$'),
  reason text NOT NULL CHECK (reason <> ''),
  detail jsonb NOT NULL
);

-- Money on an address that no invoice has (any more) is booked as well: by its script.
ALTER TABLE ledger_entry
  ALTER invoice_id DROP NOT NULL,
  ADD script_pubkey bytea REFERENCES address,
  ADD CHECK ((invoice_id IS NULL) = (script_pubkey IS NOT NULL));
CREATE INDEX ledger_of_script ON ledger_entry (script_pubkey) WHERE script_pubkey IS NOT NULL;
CREATE INDEX payment_unassigned ON payment (script_pubkey) WHERE invoice_id IS NULL;
CREATE INDEX payment_anomaly ON payment (id) WHERE anomaly IS NOT NULL OR invoice_id IS NULL;

-- Those that are held back while the node's view of the mempool is not to be trusted.
CREATE INDEX invoice_held_back ON invoice (id) WHERE status = 'UNCONFIRMED' AND required_confirmations = 0;
