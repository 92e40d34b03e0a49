-- Payments that a simulated scenario has made up stand with their invoice, and in no table of the chain's: so nothing
-- that follows the chain, audits it or counts money ever sees one.

ALTER TABLE invoice
  ADD simulated jsonb,                                -- watcher.store.records: its made-up payments; NULL: none
  ADD CONSTRAINT invoice_simulated_in_test CHECK (simulated IS NULL OR test);
