-- An invoice keeps the terms that it was made with: a project's new policy is for new invoices.

ALTER TABLE invoice
  ADD anomaly_confirmations int NOT NULL DEFAULT 2 CHECK (anomaly_confirmations >= 1),
  ADD eviction_limit_hours int NOT NULL DEFAULT 72 CHECK (eviction_limit_hours >= 1),
  ADD unconfirmed_cap_sat bigint CHECK (unconfirmed_cap_sat >= 0);  -- of the project's accepted unconfirmed money; NULL: none
UPDATE invoice i SET
  anomaly_confirmations = greatest((p.policy->>'anomalyConfirmations')::int, 1),
  eviction_limit_hours = (p.policy->>'evictionLimitHours')::int
FROM project p WHERE p.id = i.project_id;
UPDATE project SET policy = policy || jsonb_build_object('unconfirmedCap', CASE currency WHEN 'BTC' THEN '0.02' ELSE '1000' END)
  || '{"tolerance": {"underSat": 0, "underPercent": "0", "overSat": 0, "overPercent": "0"}}';
