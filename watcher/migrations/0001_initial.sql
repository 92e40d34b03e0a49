-- The first schema. Facts are stored, statuses are judged; CHECKs make illegal rows impossible.
-- Amounts are satoshi, times timestamptz, hashes and txids bytes in internal order.

-- The chain as we have processed it -------------------------------------------------------------------

CREATE TABLE block (                                  -- the stored best chain; the newest row is the tip
  height int PRIMARY KEY CHECK (height >= 0),
  hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
  mined_at timestamptz NOT NULL                       -- the header's time
);

CREATE TABLE chain_state (                            -- one row: tip, fence and health of the active watcher
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  network text NOT NULL,
  genesis_hash bytea NOT NULL CHECK (octet_length(genesis_hash) = 32),
  tip_height int NOT NULL CHECK (tip_height >= 0),
  tip_hash bytea NOT NULL CHECK (octet_length(tip_hash) = 32),
  epoch bigint NOT NULL DEFAULT 0,                    -- grows with every new active watcher
  lease_until timestamptz NOT NULL DEFAULT '-infinity',
  lease_holder text,                                  -- application_name of the active watcher's connections
  looked_at timestamptz,                              -- when the last complete look at the node began
  health text NOT NULL DEFAULT 'starting',
  health_detail text NOT NULL DEFAULT ''
);

-- Who may ask -----------------------------------------------------------------------------------------

CREATE TABLE descriptor (                             -- a ranged public descriptor; the counter belongs to it
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  descriptor text NOT NULL UNIQUE,
  next_index int NOT NULL DEFAULT 0 CHECK (next_index >= 0),
  derived_count int NOT NULL DEFAULT 0,               -- addresses 0 .. derived_count-1 are in `address`
  CHECK (next_index <= derived_count)
);

CREATE TABLE address (                                -- every script ever derived; never deleted
  script_pubkey bytea PRIMARY KEY CHECK (octet_length(script_pubkey) BETWEEN 1 AND 100),
  descriptor_id bigint NOT NULL REFERENCES descriptor,
  index int NOT NULL CHECK (index >= 0),
  address text NOT NULL,
  UNIQUE (descriptor_id, index)
);

CREATE TABLE endpoint (                               -- where events go; one per project, one per URL that an invoice names
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  project_id text NOT NULL,
  url text NOT NULL CHECK (url <> ''),
  is_default boolean NOT NULL,                        -- the project's own notificationUrl
  status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
  disabled_reason text CHECK ((status = 'disabled') = (disabled_reason IS NOT NULL)),
  max_in_flight int NOT NULL DEFAULT 4 CHECK (max_in_flight BETWEEN 1 AND 64),
  blocked_until timestamptz NOT NULL DEFAULT '-infinity',
  consecutive_failures int NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX endpoint_default ON endpoint (project_id) WHERE is_default;
CREATE UNIQUE INDEX endpoint_named ON endpoint (project_id, url) WHERE NOT is_default;

CREATE TABLE project (
  id text PRIMARY KEY CHECK (id ~ '^prj_[0-9A-HJKMNP-TV-Z]{26}$'),
  name text NOT NULL CHECK (name <> ''),
  mode text NOT NULL DEFAULT 'test' CHECK (mode IN ('test', 'live')),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  descriptor_id bigint NOT NULL REFERENCES descriptor,
  policy jsonb NOT NULL,                              -- watcher.rules.policy.Policy
  feed_position bigint NOT NULL DEFAULT 0,            -- position of the project's newest event
  created_at timestamptz NOT NULL
);
ALTER TABLE endpoint ADD FOREIGN KEY (project_id) REFERENCES project;

CREATE TABLE project_secret (                         -- webhook signing secrets, the current one without expiry
  project_id text NOT NULL REFERENCES project,
  key_number int NOT NULL,
  secret text NOT NULL CHECK (secret LIKE 'whsec\_%'),
  expires_at timestamptz,
  PRIMARY KEY (project_id, key_number)
);

CREATE TABLE api_key (
  id text PRIMARY KEY CHECK (id ~ '^key_[0-9A-HJKMNP-TV-Z]{26}$'),
  project_id text REFERENCES project,                 -- NULL: an operator key
  secret_hash bytea NOT NULL UNIQUE CHECK (octet_length(secret_hash) = 32),
  created_at timestamptz NOT NULL,
  revoked_at timestamptz
);

CREATE TABLE idempotency (                            -- answers to POSTs, for 24 hours
  api_key_id text NOT NULL REFERENCES api_key,
  path text NOT NULL,
  idempotency_key text NOT NULL,
  request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
  status int,                                         -- NULL while the first request runs
  body bytea,
  created_at timestamptz NOT NULL,
  CHECK ((status IS NULL) = (body IS NULL)),
  PRIMARY KEY (api_key_id, path, idempotency_key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

-- Invoices and money ----------------------------------------------------------------------------------

CREATE TABLE quote (                                  -- every rate that was ever used, kept for valuing late money
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  rate numeric NOT NULL CHECK (rate > 0),             -- units of currency for one bitcoin
  source text NOT NULL,
  quoted_at timestamptz NOT NULL
);
CREATE INDEX quote_history ON quote (currency, quoted_at);

CREATE TABLE invoice (
  id text PRIMARY KEY CHECK (id ~ '^inv_[0-9A-HJKMNP-TV-Z]{26}$'),
  project_id text NOT NULL REFERENCES project,
  -- what was asked for
  test boolean NOT NULL,
  amount numeric NOT NULL CHECK (amount > 0),         -- in `currency`
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  amount_due_sat bigint NOT NULL CHECK (amount_due_sat BETWEEN 1 AND 2100000000000000),
  quote_id bigint REFERENCES quote CHECK ((quote_id IS NULL) = (currency = 'BTC')),
  script_pubkey bytea NOT NULL UNIQUE REFERENCES address,
  reference text,
  description text,
  redirect_url text,
  metadata jsonb NOT NULL DEFAULT '{}',
  endpoint_id bigint REFERENCES endpoint,             -- the URL that it names; NULL: the project's
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL CHECK (expires_at = date_trunc('second', expires_at)),
  required_confirmations int NOT NULL CHECK (required_confirmations >= 0),
  required_reasons jsonb NOT NULL DEFAULT '[]',       -- sentences, in order
  tolerance_under_sat bigint NOT NULL DEFAULT 0 CHECK (tolerance_under_sat BETWEEN 0 AND amount_due_sat - 1),
  tolerance_over_sat bigint NOT NULL DEFAULT 0 CHECK (tolerance_over_sat >= 0),
  -- what was judged, and told
  status text NOT NULL DEFAULT 'NEW'
    CHECK (status IN ('NEW', 'UNDERPAID', 'UNCONFIRMED', 'CONFIRMED', 'EXPIRED', 'INVALID')),
  reason text NOT NULL DEFAULT 'created',
  paid_sat bigint NOT NULL DEFAULT 0 CHECK (paid_sat >= 0),
  reached_due boolean NOT NULL DEFAULT false,         -- it was UNCONFIRMED or CONFIRMED once
  set_closed boolean NOT NULL DEFAULT false,          -- CONFIRMED once, or final: later payments do not count
  confirmed_without_payment boolean NOT NULL DEFAULT false CHECK (NOT confirmed_without_payment OR test),
  labels text[] NOT NULL DEFAULT '{}',
  last_sequence int NOT NULL DEFAULT 0,
  confirmed_at timestamptz,
  -- when to judge again
  judge_pending boolean NOT NULL DEFAULT false,       -- facts came that were not judged yet
  judge_at timestamptz,                               -- time alone may change the judgement from here on
  judge_at_height int,                                -- a tip of this height may change the judgement
  CHECK (status NOT IN ('NEW', 'EXPIRED') OR paid_sat = 0),
  CHECK (status NOT IN ('UNDERPAID', 'UNCONFIRMED', 'CONFIRMED') OR paid_sat > 0),
  CHECK (status <> 'UNDERPAID' OR paid_sat < amount_due_sat),
  CHECK (status NOT IN ('UNCONFIRMED', 'CONFIRMED') OR (reached_due AND paid_sat >= amount_due_sat - tolerance_under_sat)),
  CHECK (status <> 'CONFIRMED' OR (set_closed AND confirmed_at IS NOT NULL)),
  CHECK (status NOT IN ('EXPIRED', 'INVALID') OR set_closed),
  CHECK (status NOT IN ('NEW', 'UNDERPAID') OR judge_at IS NOT NULL)
);
CREATE INDEX invoice_of_project ON invoice (project_id, id);
CREATE INDEX invoice_reference ON invoice (project_id, reference, id) WHERE reference IS NOT NULL;
CREATE INDEX invoice_judge_pending ON invoice (id) WHERE judge_pending;
CREATE INDEX invoice_judge_at ON invoice (judge_at) WHERE judge_at IS NOT NULL;
CREATE INDEX invoice_judge_at_height ON invoice (judge_at_height) WHERE judge_at_height IS NOT NULL;

CREATE TABLE tx (                                     -- transactions that pay us, and their unconfirmed ancestors
  txid bytea PRIMARY KEY CHECK (octet_length(txid) = 32),
  raw bytea NOT NULL,
  state text NOT NULL CHECK (state IN ('mempool', 'anchored', 'replaced', 'conflicted', 'evicted')),
  anchor_height int,
  anchor_hash bytea CHECK (octet_length(anchor_hash) = 32),
  gone_by bytea CHECK (octet_length(gone_by) = 32),   -- the transaction that replaced it or conflicts with it
  conflict_height int,                                -- the block that holds the conflict
  evicted_at timestamptz,
  CHECK ((state = 'anchored') = (anchor_height IS NOT NULL)),
  CHECK ((state = 'anchored') = (anchor_hash IS NOT NULL)),
  CHECK ((state IN ('replaced', 'conflicted')) = (gone_by IS NOT NULL)),
  CHECK ((state = 'conflicted') = (conflict_height IS NOT NULL)),
  CHECK ((state = 'evicted') = (evicted_at IS NOT NULL))
);
CREATE INDEX tx_open ON tx (txid) WHERE state IN ('mempool', 'replaced', 'evicted');
CREATE INDEX tx_anchor ON tx (anchor_height) WHERE anchor_height IS NOT NULL;
CREATE INDEX tx_conflict ON tx (conflict_height) WHERE conflict_height IS NOT NULL;

CREATE TABLE tx_input (                               -- the watched outpoints: what tracked transactions spend
  txid bytea NOT NULL REFERENCES tx,
  outpoint bytea NOT NULL CHECK (octet_length(outpoint) = 36),
  PRIMARY KEY (txid, outpoint)
);
CREATE INDEX tx_input_outpoint ON tx_input (outpoint);

CREATE TABLE payment (                                -- one output that pays a script of ours
  id bigint GENERATED ALWAYS AS IDENTITY,             -- the order in which we learnt of them
  txid bytea NOT NULL REFERENCES tx,
  vout int NOT NULL CHECK (vout >= 0),
  invoice_id text REFERENCES invoice,                 -- NULL: paid before any invoice had the address
  script_pubkey bytea NOT NULL REFERENCES address,
  amount_sat bigint NOT NULL CHECK (amount_sat > 0),
  coinbase boolean NOT NULL,
  first_seen_at timestamptz NOT NULL,                 -- a fee bump inherits it
  rate numeric CHECK (rate > 0),                      -- of the moment it was received; NULL: none known or a BTC invoice
  judged boolean NOT NULL DEFAULT false,              -- part of the judged past
  counted boolean NOT NULL DEFAULT false,             -- in the invoice's paid_sat
  in_closed_set boolean NOT NULL DEFAULT false,
  confirmed_anchor_hash bytea,                        -- its anchor when its invoice was last found CONFIRMED
  anomaly text,                                       -- what was reported
  report_at_height int,                               -- an anomaly to report when the tip gets there
  CHECK (NOT (counted AND NOT judged)),
  CHECK (anomaly IS NULL OR report_at_height IS NULL),
  PRIMARY KEY (txid, vout)
);
CREATE INDEX payment_of_invoice ON payment (invoice_id);
CREATE INDEX payment_of_script ON payment (script_pubkey);
CREATE INDEX payment_report ON payment (report_at_height) WHERE report_at_height IS NOT NULL;

CREATE TABLE ledger_entry (                           -- double entry, immutable: the entries of a posting sum to zero
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  posting bigint NOT NULL,
  project_id text NOT NULL REFERENCES project,
  invoice_id text NOT NULL REFERENCES invoice,
  account text NOT NULL CHECK (account IN ('chain', 'pending', 'confirmed', 'held', 'test')),
  amount_sat bigint NOT NULL CHECK (amount_sat <> 0),
  posted_at timestamptz NOT NULL
);
CREATE SEQUENCE ledger_posting;
CREATE INDEX ledger_balance ON ledger_entry (project_id, account) INCLUDE (amount_sat);
CREATE INDEX ledger_of_invoice ON ledger_entry (invoice_id);

CREATE TABLE timeline (                               -- everything that happened to an invoice, and why
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  invoice_id text NOT NULL REFERENCES invoice,
  happened_at timestamptz NOT NULL,
  kind text NOT NULL,
  detail jsonb NOT NULL
);
CREATE INDEX timeline_of_invoice ON timeline (invoice_id, id);

-- What merchants are told -----------------------------------------------------------------------------

CREATE TABLE event (                                  -- the outbox; immutable
  id text PRIMARY KEY CHECK (id ~ '^evt_[0-9A-HJKMNP-TV-Z]{26}$'),
  project_id text NOT NULL REFERENCES project,
  invoice_id text NOT NULL REFERENCES invoice,
  type text NOT NULL CHECK (type ~ '^[a-z_]+(\.[a-z_]+)*$'),
  sequence int NOT NULL CHECK (sequence >= 1),
  feed_position bigint NOT NULL,
  body bytea NOT NULL CHECK (octet_length(body) <= 65536),
  created_at timestamptz NOT NULL,
  UNIQUE (invoice_id, sequence),
  UNIQUE (project_id, feed_position)
);

CREATE TABLE delivery (                               -- one event to one endpoint
  id text PRIMARY KEY CHECK (id ~ '^dlv_[0-9A-HJKMNP-TV-Z]{26}$'),
  event_id text NOT NULL REFERENCES event,
  endpoint_id bigint NOT NULL REFERENCES endpoint,
  invoice_id text NOT NULL,                           -- the order key
  sequence int NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'in_flight', 'delivered', 'dead')),
  attempts int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_attempt_at timestamptz NOT NULL,
  lease_token uuid,
  lease_until timestamptz,
  overtake_after timestamptz,                         -- followers may pass from here on; set at the first failure
  replay_of text REFERENCES delivery,
  created_at timestamptz NOT NULL,
  delivered_at timestamptz,
  dead_reason text,
  CHECK ((state = 'in_flight') = (lease_token IS NOT NULL)),
  CHECK ((state = 'in_flight') = (lease_until IS NOT NULL)),
  CHECK ((state = 'delivered') = (delivered_at IS NOT NULL)),
  CHECK ((state = 'dead') = (dead_reason IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE UNIQUE INDEX delivery_once ON delivery (event_id, endpoint_id) WHERE replay_of IS NULL;
CREATE INDEX delivery_of_event ON delivery (event_id);
CREATE INDEX delivery_of_invoice ON delivery (invoice_id, id);
CREATE INDEX delivery_due ON delivery (endpoint_id, next_attempt_at, id) WHERE state = 'pending';
CREATE INDEX delivery_open ON delivery (endpoint_id, invoice_id, sequence) WHERE state IN ('pending', 'in_flight');
CREATE INDEX delivery_lease ON delivery (lease_until) WHERE state = 'in_flight';
CREATE UNIQUE INDEX delivery_one_in_flight ON delivery (endpoint_id, invoice_id) WHERE state = 'in_flight';

CREATE TABLE attempt (                                -- the log of POSTs; append-only
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  delivery_id text NOT NULL REFERENCES delivery,
  number int NOT NULL,
  started_at timestamptz NOT NULL,
  duration_ms int NOT NULL CHECK (duration_ms >= 0),
  outcome text NOT NULL,                              -- notifier.rules.delivery.Outcome
  http_status int,
  error text,
  response_head bytea CHECK (octet_length(response_head) <= 4096),
  late boolean NOT NULL DEFAULT false                 -- the lease was lost before the answer came
);
CREATE INDEX attempt_of_delivery ON attempt (delivery_id, id);

CREATE TABLE test_confirmation (                      -- "Confirm invoice without payment": its own small machine
  invoice_id text PRIMARY KEY REFERENCES invoice,
  event_id text NOT NULL UNIQUE CHECK (event_id ~ '^evt_[0-9A-HJKMNP-TV-Z]{26}$'),
  sequence int NOT NULL CHECK (sequence >= 1),
  body bytea NOT NULL CHECK (octet_length(body) <= 65536),   -- frozen by the first click
  state text NOT NULL CHECK (state IN ('idle', 'requested', 'sending', 'answered', 'done')),
  click int NOT NULL DEFAULT 1 CHECK (click >= 1),
  url text NOT NULL,                                  -- of the moment of the click
  requested_at timestamptz NOT NULL,
  lease_token uuid,
  lease_until timestamptz,
  response jsonb,                                     -- the endpoint's answer to the newest answered click
  delivered boolean,
  CHECK ((state = 'sending') = (lease_token IS NOT NULL)),
  CHECK ((state = 'sending') = (lease_until IS NOT NULL)),
  CHECK (state NOT IN ('answered', 'done') OR (response IS NOT NULL AND delivered IS NOT NULL)),
  CHECK (state <> 'done' OR delivered)
);
CREATE INDEX test_confirmation_under_way ON test_confirmation (requested_at) WHERE state IN ('requested', 'sending', 'answered');
