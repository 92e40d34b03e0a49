-- Every judgement is written down with what went into it, so that it can be made again; and labels are given.

CREATE TABLE judgement (                              -- append-only
  id bigint GENERATED ALWAYS AS IDENTITY,             -- the order in which they were made
  invoice_id text NOT NULL REFERENCES invoice,
  judged_at timestamptz NOT NULL,
  kind text NOT NULL CHECK (kind IN ('judged', 'begun', 'frozen', 'confirmed', 'healed', 'resolved')),
  input jsonb NOT NULL,                               -- watcher.rules.judgements
  PRIMARY KEY (invoice_id, id)
);

CREATE TRIGGER judgement_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON judgement
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Digests of the facts that were written down last; NULL: never, or what was judged of it was set otherwise since.
ALTER TABLE invoice ADD noted bytea CHECK (octet_length(noted) = 16);
ALTER TABLE payment ADD noted bytea CHECK (octet_length(noted) = 16);

ALTER TABLE tx ADD reorged boolean NOT NULL DEFAULT false;  -- a block that held it has left the chain

CREATE INDEX invoice_labelled ON invoice (project_id, id) WHERE labels <> '{}';
UPDATE invoice i SET labels = array_remove(ARRAY[
  CASE WHEN test THEN 'test' END,
  CASE WHEN EXISTS (SELECT FROM payment y WHERE y.invoice_id = i.id AND y.anomaly = 'paid_late') THEN 'late' END,
  CASE WHEN reason = 'overpaid' OR (status = 'CONFIRMED' AND paid_sat > amount_due_sat) THEN 'overpaid' END,
  CASE WHEN reason = 'underpaid' OR (status = 'CONFIRMED' AND paid_sat < amount_due_sat) THEN 'underpaid' END,
  CASE WHEN reason = 'double_spent' THEN 'double_spent' END,
  CASE WHEN reason = 'vanished' THEN 'vanished' END,
  CASE WHEN EXISTS (SELECT FROM payment y WHERE y.invoice_id = i.id AND y.anomaly = 'paid_after_final') THEN 'after_final' END
], NULL);
