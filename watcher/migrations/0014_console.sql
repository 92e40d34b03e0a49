-- Who may use the console, and what makes its lists quick.

CREATE TABLE account (
  id text PRIMARY KEY CHECK (id ~ '^acc_[0-9A-HJKMNP-TV-Z]{26}$'),
  name text NOT NULL CHECK (name ~ '^[^[:space:][:cntrl:]]{1,100}$'),   -- what one signs in with
  password_hash text NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
  is_operator boolean NOT NULL,                       -- sees and does everything; others have projects
  created_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX account_name ON account (lower(name));

CREATE TABLE account_project (                        -- whose a project is
  account_id text NOT NULL REFERENCES account ON DELETE CASCADE,
  project_id text NOT NULL REFERENCES project,
  PRIMARY KEY (account_id, project_id)
);

CREATE TABLE session (                                -- signed in until it expires or is deleted
  token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
  account_id text NOT NULL REFERENCES account ON DELETE CASCADE,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX session_of_account ON session (account_id);
CREATE INDEX session_expiry ON session (expires_at);

CREATE TABLE invitation (                             -- a link that works once: a new account, or a new password of one
  token_hash bytea PRIMARY KEY CHECK (octet_length(token_hash) = 32),
  account_id text REFERENCES account ON DELETE CASCADE,
  is_operator boolean NOT NULL,
  project_id text REFERENCES project,                 -- the project that a new account gets
  expires_at timestamptz NOT NULL
);

CREATE TABLE sign_in_failure (                        -- by name and by address; a success forgets the name's
  subject text PRIMARY KEY,
  failures int NOT NULL CHECK (failures >= 1),
  last_at timestamptz NOT NULL
);

-- Lists of the console: by status, with or without test invoices, and the search for an address.
CREATE INDEX invoice_by_status ON invoice (project_id, status, id);
CREATE INDEX invoice_by_kind ON invoice (project_id, test, id);
CREATE INDEX address_text ON address (address);
