-- Webhook signing secrets are sealed with a key that the database does not know, and have ids.

ALTER TABLE project_secret
  ALTER secret DROP NOT NULL,                         -- in clear: rows of before, until `paywatch db upgrade` seals them
  ADD id text CHECK (id ~ '^sec_[0-9A-HJKMNP-TV-Z]{26}$'),
  ADD sealed bytea CHECK (octet_length(sealed) > 32), -- 4 bytes of key id, 12 of nonce, ciphertext, 16 of tag
  ADD created_at timestamptz;

UPDATE project_secret s SET                           -- as old as its project, and unlike any other
  id = 'sec_' || substr(p.id, 5, 10) || left(upper(md5(p.id || ' ' || s.key_number)), 16),
  created_at = p.created_at
FROM project p WHERE p.id = s.project_id;

ALTER TABLE project_secret
  ALTER id SET NOT NULL,
  ALTER created_at SET NOT NULL,
  ADD UNIQUE (id),
  DROP CONSTRAINT project_secret_secret_check,        -- of the text in clear
  ADD CONSTRAINT project_secret_one_form CHECK (num_nonnulls(secret, sealed) = 1),
  ADD CONSTRAINT project_secret_is_sealed CHECK (secret IS NULL) NOT VALID;  -- holds for whatever is written from now on
