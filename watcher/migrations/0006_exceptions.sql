-- What operators decide about invoices and money, and a log of it in which no change can hide.

-- The log of what operators did: every row holds a hash of itself and of the row before it -----------------

ALTER TABLE operator_action
  ALTER id DROP IDENTITY,                             -- given by the trigger below: 1, 2, 3 ... from here on
  ADD actor text NOT NULL DEFAULT 'command line' CHECK (actor <> ''),  -- id of an API key, or the command line
  ADD previous_hash bytea CHECK (octet_length(previous_hash) = 32),
  ADD hash bytea CHECK (octet_length(hash) = 32);
ALTER TABLE operator_action ALTER actor DROP DEFAULT;

CREATE TABLE operator_log (                           -- one row: the end of the log; its lock puts writers in a line
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  last_id bigint NOT NULL,
  last_hash bytea NOT NULL CHECK (octet_length(last_hash) = 32)
);
INSERT INTO operator_log (last_id, last_hash) VALUES (0, decode(repeat('00', 32), 'hex'));

CREATE FUNCTION operator_action_hash(a operator_action) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT sha256(a.previous_hash || convert_to(jsonb_build_array(
    a.id, (extract(epoch FROM a.happened_at) * 1000000)::bigint, a.actor, a.action, a.reason, a.detail
  )::text, 'UTF8'))
$$;

CREATE FUNCTION chain_operator_action() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  log operator_log;
BEGIN
  SELECT * INTO STRICT log FROM operator_log FOR UPDATE;
  NEW.id := log.last_id + 1;
  NEW.previous_hash := log.last_hash;
  NEW.hash := operator_action_hash(NEW);
  UPDATE operator_log SET last_id = NEW.id, last_hash = NEW.hash;
  RETURN NEW;
END
$$;

DO $$                                                 -- what was written before is the beginning of the chain
DECLARE
  old operator_action;
  last bytea := decode(repeat('00', 32), 'hex');
BEGIN
  FOR old IN SELECT * FROM operator_action ORDER BY id LOOP
    old.previous_hash := last;
    last := operator_action_hash(old);
    UPDATE operator_action SET previous_hash = old.previous_hash, hash = last WHERE id = old.id;
    UPDATE operator_log SET last_id = old.id, last_hash = last;
  END LOOP;
END
$$;

ALTER TABLE operator_action ALTER previous_hash SET NOT NULL, ALTER hash SET NOT NULL;

CREATE TRIGGER operator_action_chain BEFORE INSERT ON operator_action
  FOR EACH ROW EXECUTE FUNCTION chain_operator_action();

-- What is written stays ------------------------------------------------------------------------------------

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is immutable', CASE TG_TABLE_NAME WHEN 'ledger_entry' THEN 'ledger' ELSE TG_TABLE_NAME::text END
    USING ERRCODE = 'integrity_constraint_violation', HINT = 'what is wrong is put right by a new entry';
END
$$;

CREATE TRIGGER ledger_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entry
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER operator_action_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_action
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER operator_log_stays BEFORE INSERT OR DELETE OR TRUNCATE ON operator_log
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER operator_log_follows BEFORE UPDATE ON operator_log  -- only with a row of operator_action
  FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION refuse_change();

-- Exceptions: money that is held until an operator decides -------------------------------------------------

ALTER TABLE payment
  ADD resolution text CHECK (resolution IN ('accepted', 'refunded', 'ignored')),  -- NULL: nobody has decided
  ADD resolved_by bigint REFERENCES operator_action,  -- why, when and by whom
  ADD CHECK ((resolution IS NULL) = (resolved_by IS NULL));
DROP INDEX payment_anomaly;
CREATE INDEX payment_anomaly ON payment (id) WHERE anomaly IS NOT NULL OR invoice_id IS NULL OR resolution IS NOT NULL;
CREATE INDEX invoice_invalid ON invoice (id) WHERE status = 'INVALID';

ALTER TABLE ledger_entry
  DROP CONSTRAINT ledger_entry_account_check,
  ADD CONSTRAINT ledger_entry_account_check
    CHECK (account IN ('chain', 'pending', 'confirmed', 'held', 'refunded', 'ignored', 'test'));

-- A NEW invoice may be cancelled: a fact that is judged like all others ------------------------------------

ALTER TABLE invoice
  ADD cancelled_at timestamptz,
  ADD CHECK (reason <> 'cancelled' OR (status = 'EXPIRED' AND cancelled_at IS NOT NULL));
