-- Rates of several sources: what was accepted, on what evidence, and until when it held.

ALTER TABLE quote
  ADD held_until timestamptz CHECK (held_until >= quoted_at),  -- NULL: until the next one (a fixed rate)
  ADD evidence jsonb NOT NULL DEFAULT '[]';           -- watcher.rules.rates.Evidence of each source; none for a fixed rate

CREATE TABLE rate (                                   -- what the sources gave when they were last asked
  currency text PRIMARY KEY CHECK (currency ~ '^[A-Z]{3}$'),
  quote_id bigint REFERENCES quote,                   -- NULL: no rate
  reason text NOT NULL,                               -- why there is none
  checked_at timestamptz NOT NULL,
  evidence jsonb NOT NULL,
  seen jsonb NOT NULL,                                -- by source: its answer's digest, and since when it is that
  CHECK ((quote_id IS NULL) = (reason <> ''))
);
