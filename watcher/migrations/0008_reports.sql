-- Reports: what was booked to a project's confirmed money, by the time of booking.

CREATE INDEX ledger_report ON ledger_entry (project_id, posted_at, id) WHERE account = 'confirmed';
