CREATE FUNCTION public.chain_operator_action() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
CREATE FUNCTION public.delivery_project() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  SELECT project_id INTO NEW.project_id FROM endpoint WHERE id = NEW.endpoint_id;
  RETURN NEW;
END
$$;
CREATE TABLE public.operator_action (
    id bigint NOT NULL,
    happened_at timestamp with time zone NOT NULL,
    action text NOT NULL,
    reason text NOT NULL,
    detail jsonb NOT NULL,
    actor text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT operator_action_action_check CHECK ((action ~ '^[a-z_]+$'::text)),
    CONSTRAINT operator_action_actor_check CHECK ((actor <> ''::text)),
    CONSTRAINT operator_action_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT operator_action_previous_hash_check CHECK ((octet_length(previous_hash) = 32)),
    CONSTRAINT operator_action_reason_check CHECK ((reason <> ''::text))
);
CREATE FUNCTION public.operator_action_hash(a public.operator_action) RETURNS bytea
    LANGUAGE sql STABLE
    AS $$
  SELECT sha256(a.previous_hash || convert_to(jsonb_build_array(
    a.id, (extract(epoch FROM a.happened_at) * 1000000)::bigint, a.actor, a.action, a.reason, a.detail
  )::text, 'UTF8'))
$$;
CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
  RAISE EXCEPTION '% is immutable', CASE TG_TABLE_NAME WHEN 'ledger_entry' THEN 'ledger' ELSE TG_TABLE_NAME::text END
    USING ERRCODE = 'integrity_constraint_violation', HINT = 'what is wrong is put right by a new entry';
END
$$;
CREATE TABLE public.account (
    id text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    is_operator boolean NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT account_id_check CHECK ((id ~ '^acc_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT account_name_check CHECK ((name ~ '^[^[:space:][:cntrl:]]{1,100}$'::text)),
    CONSTRAINT account_password_hash_check CHECK ((password_hash ~~ '$argon2id$%'::text))
);
CREATE TABLE public.account_project (
    account_id text NOT NULL,
    project_id text NOT NULL
);
CREATE TABLE public.address (
    script_pubkey bytea NOT NULL,
    descriptor_id bigint NOT NULL,
    index integer NOT NULL,
    address text NOT NULL,
    CONSTRAINT address_index_check CHECK ((index >= 0)),
    CONSTRAINT address_script_pubkey_check CHECK (((octet_length(script_pubkey) >= 1) AND (octet_length(script_pubkey) <= 100)))
);
CREATE TABLE public.api_key (
    id text NOT NULL,
    project_id text,
    secret_hash bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    revoked_at timestamp with time zone,
    CONSTRAINT api_key_id_check CHECK ((id ~ '^key_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT api_key_secret_hash_check CHECK ((octet_length(secret_hash) = 32))
);
CREATE TABLE public.attempt (
    id bigint NOT NULL,
    delivery_id text NOT NULL,
    number integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    duration_ms integer NOT NULL,
    outcome text NOT NULL,
    http_status integer,
    error text,
    response_head bytea,
    late boolean DEFAULT false NOT NULL,
    CONSTRAINT attempt_duration_ms_check CHECK ((duration_ms >= 0)),
    CONSTRAINT attempt_response_head_check CHECK ((octet_length(response_head) <= 4096))
);
ALTER TABLE public.attempt ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.attempt_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.block (
    height integer NOT NULL,
    hash bytea NOT NULL,
    mined_at timestamp with time zone NOT NULL,
    CONSTRAINT block_hash_check CHECK ((octet_length(hash) = 32)),
    CONSTRAINT block_height_check CHECK ((height >= 0))
);
CREATE TABLE public.chain_gap (
    first_height integer NOT NULL,
    last_height integer NOT NULL,
    accepted_at timestamp with time zone NOT NULL,
    reason text NOT NULL,
    CONSTRAINT chain_gap_check CHECK ((last_height >= first_height)),
    CONSTRAINT chain_gap_first_height_check CHECK ((first_height >= 0)),
    CONSTRAINT chain_gap_reason_check CHECK ((reason <> ''::text))
);
CREATE TABLE public.chain_state (
    singleton boolean DEFAULT true NOT NULL,
    network text NOT NULL,
    genesis_hash bytea NOT NULL,
    tip_height integer NOT NULL,
    tip_hash bytea NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    lease_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    lease_holder text,
    looked_at timestamp with time zone,
    health text DEFAULT 'starting'::text NOT NULL,
    health_detail text DEFAULT ''::text NOT NULL,
    node_height integer,
    prune_height integer,
    CONSTRAINT chain_state_genesis_hash_check CHECK ((octet_length(genesis_hash) = 32)),
    CONSTRAINT chain_state_singleton_check CHECK (singleton),
    CONSTRAINT chain_state_tip_hash_check CHECK ((octet_length(tip_hash) = 32)),
    CONSTRAINT chain_state_tip_height_check CHECK ((tip_height >= 0))
);
CREATE TABLE public.delivery (
    id text NOT NULL,
    event_id text NOT NULL,
    endpoint_id bigint NOT NULL,
    invoice_id text NOT NULL,
    sequence integer NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    next_attempt_at timestamp with time zone NOT NULL,
    lease_token uuid,
    lease_until timestamp with time zone,
    overtake_after timestamp with time zone,
    replay_of text,
    created_at timestamp with time zone NOT NULL,
    delivered_at timestamp with time zone,
    dead_reason text,
    crash_count integer DEFAULT 0 NOT NULL,
    cancel_reason text,
    project_id text NOT NULL,
    CONSTRAINT delivery_attempts_check CHECK ((attempts >= 0)),
    CONSTRAINT delivery_cancelled_check CHECK (((state = 'cancelled'::text) = (cancel_reason IS NOT NULL))),
    CONSTRAINT delivery_check CHECK (((state = 'in_flight'::text) = (lease_token IS NOT NULL))),
    CONSTRAINT delivery_check1 CHECK (((state = 'in_flight'::text) = (lease_until IS NOT NULL))),
    CONSTRAINT delivery_check2 CHECK (((state = 'delivered'::text) = (delivered_at IS NOT NULL))),
    CONSTRAINT delivery_check3 CHECK (((state = 'dead'::text) = (dead_reason IS NOT NULL))),
    CONSTRAINT delivery_crash_count_check CHECK ((crash_count >= 0)),
    CONSTRAINT delivery_id_check CHECK ((id ~ '^dlv_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT delivery_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'in_flight'::text, 'delivered'::text, 'dead'::text, 'cancelled'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='2000');
CREATE TABLE public.descriptor (
    id bigint NOT NULL,
    descriptor text NOT NULL,
    next_index integer DEFAULT 0 NOT NULL,
    derived_count integer DEFAULT 0 NOT NULL,
    CONSTRAINT descriptor_check CHECK ((next_index <= derived_count)),
    CONSTRAINT descriptor_next_index_check CHECK ((next_index >= 0))
);
ALTER TABLE public.descriptor ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.descriptor_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.endpoint (
    id bigint NOT NULL,
    project_id text NOT NULL,
    url text NOT NULL,
    is_default boolean NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    disabled_reason text,
    max_in_flight integer DEFAULT 4 NOT NULL,
    blocked_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    consecutive_failures integer DEFAULT 0 NOT NULL,
    failing_since timestamp with time zone,
    warned boolean DEFAULT false NOT NULL,
    ramp integer,
    CONSTRAINT endpoint_check CHECK (((status = 'disabled'::text) = (disabled_reason IS NOT NULL))),
    CONSTRAINT endpoint_check1 CHECK (((NOT warned) OR (failing_since IS NOT NULL))),
    CONSTRAINT endpoint_consecutive_failures_check CHECK ((consecutive_failures >= 0)),
    CONSTRAINT endpoint_disabled_reason_check CHECK ((disabled_reason = ANY (ARRAY['gone'::text, 'failing'::text, 'blocked_target'::text, 'operator'::text, 'paused'::text, 'retired'::text]))),
    CONSTRAINT endpoint_max_in_flight_check CHECK (((max_in_flight >= 1) AND (max_in_flight <= 64))),
    CONSTRAINT endpoint_ramp_check CHECK ((ramp >= 1)),
    CONSTRAINT endpoint_status_check CHECK ((status = ANY (ARRAY['active'::text, 'disabled'::text]))),
    CONSTRAINT endpoint_url_check CHECK ((url <> ''::text))
)
WITH (fillfactor='70');
ALTER TABLE public.endpoint ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.endpoint_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.event (
    id text NOT NULL,
    project_id text NOT NULL,
    invoice_id text NOT NULL,
    type text NOT NULL,
    sequence integer NOT NULL,
    feed_position bigint NOT NULL,
    body bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT event_body_check CHECK ((octet_length(body) <= 65536)),
    CONSTRAINT event_id_check CHECK ((id ~ '^evt_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT event_sequence_check CHECK ((sequence >= 1)),
    CONSTRAINT event_type_check CHECK ((type ~ '^[a-z_]+(\.[a-z_]+)*$'::text))
);
CREATE TABLE public.idempotency (
    api_key_id text NOT NULL,
    path text NOT NULL,
    idempotency_key text NOT NULL,
    request_hash bytea NOT NULL,
    status integer,
    body bytea,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_check CHECK (((status IS NULL) = (body IS NULL))),
    CONSTRAINT idempotency_request_hash_check CHECK ((octet_length(request_hash) = 32))
);
CREATE TABLE public.invitation (
    token_hash bytea NOT NULL,
    account_id text,
    is_operator boolean NOT NULL,
    project_id text,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT invitation_token_hash_check CHECK ((octet_length(token_hash) = 32))
);
CREATE TABLE public.invoice (
    id text NOT NULL,
    project_id text NOT NULL,
    test boolean NOT NULL,
    amount numeric NOT NULL,
    currency text NOT NULL,
    amount_due_sat bigint NOT NULL,
    quote_id bigint,
    script_pubkey bytea NOT NULL,
    reference text,
    description text,
    redirect_url text,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    endpoint_id bigint,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    required_confirmations integer NOT NULL,
    required_reasons jsonb DEFAULT '[]'::jsonb NOT NULL,
    tolerance_under_sat bigint DEFAULT 0 NOT NULL,
    tolerance_over_sat bigint DEFAULT 0 NOT NULL,
    status text DEFAULT 'NEW'::text NOT NULL,
    reason text DEFAULT 'created'::text NOT NULL,
    paid_sat bigint DEFAULT 0 NOT NULL,
    reached_due boolean DEFAULT false NOT NULL,
    set_closed boolean DEFAULT false NOT NULL,
    confirmed_without_payment boolean DEFAULT false NOT NULL,
    labels text[] DEFAULT '{}'::text[] NOT NULL,
    last_sequence integer DEFAULT 0 NOT NULL,
    confirmed_at timestamp with time zone,
    judge_pending boolean DEFAULT false NOT NULL,
    judge_at timestamp with time zone,
    judge_at_height integer,
    anomaly_confirmations integer DEFAULT 2 NOT NULL,
    eviction_limit_hours integer DEFAULT 72 NOT NULL,
    unconfirmed_cap_sat bigint,
    raised_to integer DEFAULT 0 NOT NULL,
    conflict_seen boolean DEFAULT false NOT NULL,
    risk_factors jsonb DEFAULT '[]'::jsonb NOT NULL,
    exposed_sat bigint DEFAULT 0 NOT NULL,
    cancelled_at timestamp with time zone,
    noted bytea,
    simulated jsonb,
    CONSTRAINT invoice_amount_check CHECK ((amount > (0)::numeric)),
    CONSTRAINT invoice_amount_due_sat_check CHECK (((amount_due_sat >= 1) AND (amount_due_sat <= '2100000000000000'::bigint))),
    CONSTRAINT invoice_anomaly_confirmations_check CHECK ((anomaly_confirmations >= 1)),
    CONSTRAINT invoice_check CHECK (((quote_id IS NULL) = (currency = 'BTC'::text))),
    CONSTRAINT invoice_check1 CHECK (((tolerance_under_sat >= 0) AND (tolerance_under_sat <= (amount_due_sat - 1)))),
    CONSTRAINT invoice_check10 CHECK (((reason <> 'cancelled'::text) OR ((status = 'EXPIRED'::text) AND (cancelled_at IS NOT NULL)))),
    CONSTRAINT invoice_check2 CHECK (((NOT confirmed_without_payment) OR test)),
    CONSTRAINT invoice_check3 CHECK (((status <> ALL (ARRAY['NEW'::text, 'EXPIRED'::text])) OR (paid_sat = 0))),
    CONSTRAINT invoice_check4 CHECK (((status <> ALL (ARRAY['UNDERPAID'::text, 'UNCONFIRMED'::text, 'CONFIRMED'::text])) OR (paid_sat > 0))),
    CONSTRAINT invoice_check5 CHECK (((status <> 'UNDERPAID'::text) OR (paid_sat < amount_due_sat))),
    CONSTRAINT invoice_check6 CHECK (((status <> ALL (ARRAY['UNCONFIRMED'::text, 'CONFIRMED'::text])) OR (reached_due AND (paid_sat >= (amount_due_sat - tolerance_under_sat))))),
    CONSTRAINT invoice_check7 CHECK (((status <> 'CONFIRMED'::text) OR (set_closed AND (confirmed_at IS NOT NULL)))),
    CONSTRAINT invoice_check8 CHECK (((status <> ALL (ARRAY['EXPIRED'::text, 'INVALID'::text])) OR set_closed)),
    CONSTRAINT invoice_check9 CHECK (((status <> ALL (ARRAY['NEW'::text, 'UNDERPAID'::text])) OR (judge_at IS NOT NULL))),
    CONSTRAINT invoice_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT invoice_eviction_limit_hours_check CHECK ((eviction_limit_hours >= 1)),
    CONSTRAINT invoice_expires_at_check CHECK ((expires_at = date_trunc('second'::text, expires_at))),
    CONSTRAINT invoice_exposed_sat_check CHECK ((exposed_sat >= 0)),
    CONSTRAINT invoice_id_check CHECK ((id ~ '^inv_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT invoice_noted_check CHECK ((octet_length(noted) = 16)),
    CONSTRAINT invoice_paid_sat_check CHECK ((paid_sat >= 0)),
    CONSTRAINT invoice_raised_by_risk CHECK (((raised_to = 0) OR (required_confirmations = 0))),
    CONSTRAINT invoice_raised_to_check CHECK ((raised_to >= 0)),
    CONSTRAINT invoice_required_confirmations_check CHECK ((required_confirmations >= 0)),
    CONSTRAINT invoice_simulated_in_test CHECK (((simulated IS NULL) OR test)),
    CONSTRAINT invoice_status_check CHECK ((status = ANY (ARRAY['NEW'::text, 'UNDERPAID'::text, 'UNCONFIRMED'::text, 'CONFIRMED'::text, 'EXPIRED'::text, 'INVALID'::text]))),
    CONSTRAINT invoice_tolerance_over_sat_check CHECK ((tolerance_over_sat >= 0)),
    CONSTRAINT invoice_unconfirmed_cap_sat_check CHECK ((unconfirmed_cap_sat >= 0))
);
CREATE TABLE public.judgement (
    id bigint NOT NULL,
    invoice_id text NOT NULL,
    judged_at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    input jsonb NOT NULL,
    CONSTRAINT judgement_kind_check CHECK ((kind = ANY (ARRAY['judged'::text, 'begun'::text, 'frozen'::text, 'confirmed'::text, 'healed'::text, 'resolved'::text])))
);
ALTER TABLE public.judgement ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.judgement_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ledger_entry (
    id bigint NOT NULL,
    posting bigint NOT NULL,
    project_id text NOT NULL,
    invoice_id text,
    account text NOT NULL,
    amount_sat bigint NOT NULL,
    posted_at timestamp with time zone NOT NULL,
    script_pubkey bytea,
    CONSTRAINT ledger_entry_account_check CHECK ((account = ANY (ARRAY['chain'::text, 'pending'::text, 'confirmed'::text, 'held'::text, 'refunded'::text, 'ignored'::text, 'test'::text]))),
    CONSTRAINT ledger_entry_amount_sat_check CHECK ((amount_sat <> 0)),
    CONSTRAINT ledger_entry_check CHECK (((invoice_id IS NULL) = (script_pubkey IS NOT NULL)))
);
ALTER TABLE public.ledger_entry ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ledger_entry_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE SEQUENCE public.ledger_posting
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.operator_log (
    singleton boolean DEFAULT true NOT NULL,
    last_id bigint NOT NULL,
    last_hash bytea NOT NULL,
    CONSTRAINT operator_log_last_hash_check CHECK ((octet_length(last_hash) = 32)),
    CONSTRAINT operator_log_singleton_check CHECK (singleton)
);
CREATE TABLE public.payment (
    id bigint NOT NULL,
    txid bytea NOT NULL,
    vout integer NOT NULL,
    invoice_id text,
    script_pubkey bytea NOT NULL,
    amount_sat bigint NOT NULL,
    coinbase boolean NOT NULL,
    first_seen_at timestamp with time zone NOT NULL,
    rate numeric,
    judged boolean DEFAULT false NOT NULL,
    counted boolean DEFAULT false NOT NULL,
    in_closed_set boolean DEFAULT false NOT NULL,
    confirmed_anchor_hash bytea,
    anomaly text,
    report_at_height integer,
    resolution text,
    resolved_by bigint,
    noted bytea,
    CONSTRAINT payment_amount_sat_check CHECK ((amount_sat > 0)),
    CONSTRAINT payment_check CHECK ((NOT (counted AND (NOT judged)))),
    CONSTRAINT payment_check1 CHECK (((anomaly IS NULL) OR (report_at_height IS NULL))),
    CONSTRAINT payment_check2 CHECK (((resolution IS NULL) = (resolved_by IS NULL))),
    CONSTRAINT payment_noted_check CHECK ((octet_length(noted) = 16)),
    CONSTRAINT payment_rate_check CHECK ((rate > (0)::numeric)),
    CONSTRAINT payment_resolution_check CHECK ((resolution = ANY (ARRAY['accepted'::text, 'refunded'::text, 'ignored'::text]))),
    CONSTRAINT payment_vout_check CHECK ((vout >= 0))
);
ALTER TABLE public.payment ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.payment_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.project (
    id text NOT NULL,
    name text NOT NULL,
    mode text DEFAULT 'test'::text NOT NULL,
    currency text NOT NULL,
    descriptor_id bigint NOT NULL,
    policy jsonb NOT NULL,
    feed_position bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT project_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT project_id_check CHECK ((id ~ '^prj_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT project_mode_check CHECK ((mode = ANY (ARRAY['test'::text, 'live'::text]))),
    CONSTRAINT project_name_check CHECK ((name <> ''::text))
);
CREATE TABLE public.project_secret (
    project_id text NOT NULL,
    key_number integer NOT NULL,
    secret text,
    expires_at timestamp with time zone,
    id text NOT NULL,
    sealed bytea,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT project_secret_id_check CHECK ((id ~ '^sec_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT project_secret_one_form CHECK ((num_nonnulls(secret, sealed) = 1)),
    CONSTRAINT project_secret_sealed_check CHECK ((octet_length(sealed) > 32))
);
CREATE TABLE public.quote (
    id bigint NOT NULL,
    currency text NOT NULL,
    rate numeric NOT NULL,
    source text NOT NULL,
    quoted_at timestamp with time zone NOT NULL,
    held_until timestamp with time zone,
    evidence jsonb DEFAULT '[]'::jsonb NOT NULL,
    CONSTRAINT quote_check CHECK ((held_until >= quoted_at)),
    CONSTRAINT quote_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT quote_rate_check CHECK ((rate > (0)::numeric))
);
ALTER TABLE public.quote ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.quote_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.rate (
    currency text NOT NULL,
    quote_id bigint,
    reason text NOT NULL,
    checked_at timestamp with time zone NOT NULL,
    evidence jsonb NOT NULL,
    seen jsonb NOT NULL,
    CONSTRAINT rate_check CHECK (((quote_id IS NULL) = (reason <> ''::text))),
    CONSTRAINT rate_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text))
);
CREATE TABLE public.schema_migration (
    number integer NOT NULL,
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.session (
    token_hash bytea NOT NULL,
    account_id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT session_token_hash_check CHECK ((octet_length(token_hash) = 32))
);
CREATE TABLE public.sign_in_failure (
    subject text NOT NULL,
    failures integer NOT NULL,
    last_at timestamp with time zone NOT NULL,
    CONSTRAINT sign_in_failure_failures_check CHECK ((failures >= 1))
);
CREATE TABLE public.test_confirmation (
    invoice_id text NOT NULL,
    event_id text NOT NULL,
    sequence integer NOT NULL,
    body bytea NOT NULL,
    state text NOT NULL,
    click integer DEFAULT 1 NOT NULL,
    url text NOT NULL,
    requested_at timestamp with time zone NOT NULL,
    lease_token uuid,
    lease_until timestamp with time zone,
    response jsonb,
    delivered boolean,
    CONSTRAINT test_confirmation_body_check CHECK ((octet_length(body) <= 65536)),
    CONSTRAINT test_confirmation_check CHECK (((state = 'sending'::text) = (lease_token IS NOT NULL))),
    CONSTRAINT test_confirmation_check1 CHECK (((state = 'sending'::text) = (lease_until IS NOT NULL))),
    CONSTRAINT test_confirmation_check2 CHECK (((state <> ALL (ARRAY['answered'::text, 'done'::text])) OR ((response IS NOT NULL) AND (delivered IS NOT NULL)))),
    CONSTRAINT test_confirmation_check3 CHECK (((state <> 'done'::text) OR delivered)),
    CONSTRAINT test_confirmation_click_check CHECK ((click >= 1)),
    CONSTRAINT test_confirmation_event_id_check CHECK ((event_id ~ '^evt_[0-9A-HJKMNP-TV-Z]{26}$'::text)),
    CONSTRAINT test_confirmation_sequence_check CHECK ((sequence >= 1)),
    CONSTRAINT test_confirmation_state_check CHECK ((state = ANY (ARRAY['idle'::text, 'requested'::text, 'sending'::text, 'answered'::text, 'done'::text])))
);
CREATE TABLE public.timeline (
    id bigint NOT NULL,
    invoice_id text NOT NULL,
    happened_at timestamp with time zone NOT NULL,
    kind text NOT NULL,
    detail jsonb NOT NULL
);
ALTER TABLE public.timeline ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.timeline_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.tx (
    txid bytea NOT NULL,
    raw bytea,
    state text NOT NULL,
    anchor_height integer,
    anchor_hash bytea,
    gone_by bytea,
    conflict_height integer,
    evicted_at timestamp with time zone,
    risk jsonb,
    reorged boolean DEFAULT false NOT NULL,
    CONSTRAINT tx_anchor_hash_check CHECK ((octet_length(anchor_hash) = 32)),
    CONSTRAINT tx_check CHECK (((state = 'anchored'::text) = (anchor_height IS NOT NULL))),
    CONSTRAINT tx_check1 CHECK (((state = 'anchored'::text) = (anchor_hash IS NOT NULL))),
    CONSTRAINT tx_check2 CHECK (((state = ANY (ARRAY['replaced'::text, 'conflicted'::text])) = (gone_by IS NOT NULL))),
    CONSTRAINT tx_check3 CHECK (((state = 'conflicted'::text) = (conflict_height IS NOT NULL))),
    CONSTRAINT tx_check4 CHECK (((state = 'evicted'::text) = (evicted_at IS NOT NULL))),
    CONSTRAINT tx_gone_by_check CHECK ((octet_length(gone_by) = 32)),
    CONSTRAINT tx_state_check CHECK ((state = ANY (ARRAY['mempool'::text, 'anchored'::text, 'replaced'::text, 'conflicted'::text, 'evicted'::text]))),
    CONSTRAINT tx_txid_check CHECK ((octet_length(txid) = 32))
);
CREATE TABLE public.tx_input (
    txid bytea NOT NULL,
    outpoint bytea NOT NULL,
    CONSTRAINT tx_input_outpoint_check CHECK ((octet_length(outpoint) = 36))
);
ALTER TABLE ONLY public.account
    ADD CONSTRAINT account_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.account_project
    ADD CONSTRAINT account_project_pkey PRIMARY KEY (account_id, project_id);
ALTER TABLE ONLY public.address
    ADD CONSTRAINT address_descriptor_id_index_key UNIQUE (descriptor_id, index);
ALTER TABLE ONLY public.address
    ADD CONSTRAINT address_pkey PRIMARY KEY (script_pubkey);
ALTER TABLE ONLY public.api_key
    ADD CONSTRAINT api_key_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.api_key
    ADD CONSTRAINT api_key_secret_hash_key UNIQUE (secret_hash);
ALTER TABLE ONLY public.attempt
    ADD CONSTRAINT attempt_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.block
    ADD CONSTRAINT block_hash_key UNIQUE (hash);
ALTER TABLE ONLY public.block
    ADD CONSTRAINT block_pkey PRIMARY KEY (height);
ALTER TABLE ONLY public.chain_gap
    ADD CONSTRAINT chain_gap_pkey PRIMARY KEY (first_height);
ALTER TABLE ONLY public.chain_state
    ADD CONSTRAINT chain_state_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT delivery_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.descriptor
    ADD CONSTRAINT descriptor_descriptor_key UNIQUE (descriptor);
ALTER TABLE ONLY public.descriptor
    ADD CONSTRAINT descriptor_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.endpoint
    ADD CONSTRAINT endpoint_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_invoice_id_sequence_key UNIQUE (invoice_id, sequence);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_project_id_feed_position_key UNIQUE (project_id, feed_position);
ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (api_key_id, path, idempotency_key);
ALTER TABLE ONLY public.invitation
    ADD CONSTRAINT invitation_pkey PRIMARY KEY (token_hash);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_script_pubkey_key UNIQUE (script_pubkey);
ALTER TABLE ONLY public.judgement
    ADD CONSTRAINT judgement_pkey PRIMARY KEY (invoice_id, id);
ALTER TABLE ONLY public.ledger_entry
    ADD CONSTRAINT ledger_entry_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.operator_action
    ADD CONSTRAINT operator_action_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.operator_log
    ADD CONSTRAINT operator_log_pkey PRIMARY KEY (singleton);
ALTER TABLE ONLY public.payment
    ADD CONSTRAINT payment_pkey PRIMARY KEY (txid, vout);
ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.project_secret
    ADD CONSTRAINT project_secret_id_key UNIQUE (id);
ALTER TABLE public.project_secret
    ADD CONSTRAINT project_secret_is_sealed CHECK ((secret IS NULL)) NOT VALID;
ALTER TABLE ONLY public.project_secret
    ADD CONSTRAINT project_secret_pkey PRIMARY KEY (project_id, key_number);
ALTER TABLE ONLY public.quote
    ADD CONSTRAINT quote_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.rate
    ADD CONSTRAINT rate_pkey PRIMARY KEY (currency);
ALTER TABLE ONLY public.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.session
    ADD CONSTRAINT session_pkey PRIMARY KEY (token_hash);
ALTER TABLE ONLY public.sign_in_failure
    ADD CONSTRAINT sign_in_failure_pkey PRIMARY KEY (subject);
ALTER TABLE ONLY public.test_confirmation
    ADD CONSTRAINT test_confirmation_event_id_key UNIQUE (event_id);
ALTER TABLE ONLY public.test_confirmation
    ADD CONSTRAINT test_confirmation_pkey PRIMARY KEY (invoice_id);
ALTER TABLE ONLY public.timeline
    ADD CONSTRAINT timeline_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.tx_input
    ADD CONSTRAINT tx_input_pkey PRIMARY KEY (txid, outpoint);
ALTER TABLE ONLY public.tx
    ADD CONSTRAINT tx_pkey PRIMARY KEY (txid);
CREATE UNIQUE INDEX account_name ON public.account USING btree (lower(name));
CREATE INDEX address_text ON public.address USING btree (address);
CREATE INDEX attempt_of_delivery ON public.attempt USING btree (delivery_id, id);
CREATE INDEX delivery_due ON public.delivery USING btree (endpoint_id, next_attempt_at, id) WHERE (state = 'pending'::text);
CREATE INDEX delivery_given_up ON public.delivery USING btree (id) WHERE (state <> ALL (ARRAY['pending'::text, 'in_flight'::text, 'delivered'::text]));
CREATE INDEX delivery_lease ON public.delivery USING btree (lease_until) WHERE (state = 'in_flight'::text);
CREATE INDEX delivery_of_invoice ON public.delivery USING btree (invoice_id, id);
CREATE INDEX delivery_of_project ON public.delivery USING btree (project_id, id);
CREATE UNIQUE INDEX delivery_once ON public.delivery USING btree (event_id, endpoint_id) WHERE (replay_of IS NULL);
CREATE UNIQUE INDEX delivery_one_in_flight ON public.delivery USING btree (endpoint_id, invoice_id) WHERE (state = 'in_flight'::text);
CREATE UNIQUE INDEX delivery_one_open_replay ON public.delivery USING btree (event_id, endpoint_id) WHERE ((replay_of IS NOT NULL) AND (state = ANY (ARRAY['pending'::text, 'in_flight'::text])));
CREATE UNIQUE INDEX delivery_one_suspect_in_flight ON public.delivery USING btree ((true)) WHERE ((state = 'in_flight'::text) AND (crash_count >= 3));
CREATE INDEX delivery_open ON public.delivery USING btree (endpoint_id, invoice_id, sequence) WHERE (state = ANY (ARRAY['pending'::text, 'in_flight'::text]));
CREATE INDEX delivery_replays ON public.delivery USING btree (event_id, id) WHERE (replay_of IS NOT NULL);
CREATE INDEX delivery_suspect ON public.delivery USING btree (endpoint_id, next_attempt_at) WHERE ((state = 'pending'::text) AND (crash_count >= 3));
CREATE UNIQUE INDEX endpoint_default ON public.endpoint USING btree (project_id) WHERE is_default;
CREATE INDEX endpoint_disabled ON public.endpoint USING btree (id) WHERE (status = 'disabled'::text);
CREATE INDEX endpoint_failing ON public.endpoint USING btree (failing_since) WHERE (failing_since IS NOT NULL);
CREATE UNIQUE INDEX endpoint_named ON public.endpoint USING btree (project_id, url) WHERE (NOT is_default);
CREATE INDEX endpoint_of_project ON public.endpoint USING btree (project_id, id);
CREATE INDEX idempotency_age ON public.idempotency USING btree (created_at);
CREATE INDEX invoice_by_kind ON public.invoice USING btree (project_id, test, id);
CREATE INDEX invoice_by_status ON public.invoice USING btree (project_id, status, id);
CREATE INDEX invoice_exposed ON public.invoice USING btree (project_id, test) INCLUDE (id, exposed_sat) WHERE (exposed_sat > 0);
CREATE INDEX invoice_held_back ON public.invoice USING btree (id) WHERE ((status = 'UNCONFIRMED'::text) AND (required_confirmations = 0) AND (raised_to = 0));
CREATE INDEX invoice_invalid ON public.invoice USING btree (id) WHERE (status = 'INVALID'::text);
CREATE INDEX invoice_judge_at ON public.invoice USING btree (judge_at) WHERE (judge_at IS NOT NULL);
CREATE INDEX invoice_judge_at_height ON public.invoice USING btree (judge_at_height) WHERE (judge_at_height IS NOT NULL);
CREATE INDEX invoice_judge_pending ON public.invoice USING btree (id) WHERE judge_pending;
CREATE INDEX invoice_labelled ON public.invoice USING btree (project_id, id) WHERE (labels <> '{}'::text[]);
CREATE INDEX invoice_of_project ON public.invoice USING btree (project_id, id);
CREATE INDEX invoice_reference ON public.invoice USING btree (project_id, reference, id) WHERE (reference IS NOT NULL);
CREATE INDEX ledger_balance ON public.ledger_entry USING btree (project_id, account) INCLUDE (amount_sat);
CREATE INDEX ledger_of_invoice ON public.ledger_entry USING btree (invoice_id);
CREATE INDEX ledger_of_script ON public.ledger_entry USING btree (script_pubkey) WHERE (script_pubkey IS NOT NULL);
CREATE INDEX ledger_report ON public.ledger_entry USING btree (project_id, posted_at, id) WHERE (account = 'confirmed'::text);
CREATE INDEX payment_anomaly ON public.payment USING btree (id) WHERE ((anomaly IS NOT NULL) OR (invoice_id IS NULL) OR (resolution IS NOT NULL));
CREATE INDEX payment_of_invoice ON public.payment USING btree (invoice_id);
CREATE INDEX payment_of_script ON public.payment USING btree (script_pubkey);
CREATE INDEX payment_report ON public.payment USING btree (report_at_height) WHERE (report_at_height IS NOT NULL);
CREATE INDEX payment_unassigned ON public.payment USING btree (script_pubkey) WHERE (invoice_id IS NULL);
CREATE INDEX quote_history ON public.quote USING btree (currency, quoted_at);
CREATE INDEX session_expiry ON public.session USING btree (expires_at);
CREATE INDEX session_of_account ON public.session USING btree (account_id);
CREATE INDEX test_confirmation_under_way ON public.test_confirmation USING btree (requested_at) WHERE (state = ANY (ARRAY['requested'::text, 'sending'::text, 'answered'::text]));
CREATE INDEX timeline_of_invoice ON public.timeline USING btree (invoice_id, id);
CREATE INDEX tx_anchor ON public.tx USING btree (anchor_height) WHERE (anchor_height IS NOT NULL);
CREATE INDEX tx_conflict ON public.tx USING btree (conflict_height) WHERE (conflict_height IS NOT NULL);
CREATE INDEX tx_input_outpoint ON public.tx_input USING btree (outpoint);
CREATE INDEX tx_open ON public.tx USING btree (txid) WHERE (state = ANY (ARRAY['mempool'::text, 'replaced'::text, 'evicted'::text]));
CREATE TRIGGER delivery_has_project BEFORE INSERT ON public.delivery FOR EACH ROW EXECUTE FUNCTION public.delivery_project();
CREATE TRIGGER judgement_is_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.judgement FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER ledger_is_immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.ledger_entry FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER operator_action_chain BEFORE INSERT ON public.operator_action FOR EACH ROW EXECUTE FUNCTION public.chain_operator_action();
CREATE TRIGGER operator_action_is_immutable BEFORE DELETE OR UPDATE OR TRUNCATE ON public.operator_action FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER operator_log_follows BEFORE UPDATE ON public.operator_log FOR EACH STATEMENT WHEN ((pg_trigger_depth() = 0)) EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER operator_log_stays BEFORE INSERT OR DELETE OR TRUNCATE ON public.operator_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
ALTER TABLE ONLY public.account_project
    ADD CONSTRAINT account_project_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.account(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.account_project
    ADD CONSTRAINT account_project_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.address
    ADD CONSTRAINT address_descriptor_id_fkey FOREIGN KEY (descriptor_id) REFERENCES public.descriptor(id);
ALTER TABLE ONLY public.api_key
    ADD CONSTRAINT api_key_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.attempt
    ADD CONSTRAINT attempt_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES public.delivery(id);
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT delivery_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.endpoint(id);
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT delivery_event_id_fkey FOREIGN KEY (event_id) REFERENCES public.event(id);
ALTER TABLE ONLY public.delivery
    ADD CONSTRAINT delivery_replay_of_fkey FOREIGN KEY (replay_of) REFERENCES public.delivery(id);
ALTER TABLE ONLY public.endpoint
    ADD CONSTRAINT endpoint_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.idempotency
    ADD CONSTRAINT idempotency_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES public.api_key(id);
ALTER TABLE ONLY public.invitation
    ADD CONSTRAINT invitation_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.account(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.invitation
    ADD CONSTRAINT invitation_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.endpoint(id);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_quote_id_fkey FOREIGN KEY (quote_id) REFERENCES public.quote(id);
ALTER TABLE ONLY public.invoice
    ADD CONSTRAINT invoice_script_pubkey_fkey FOREIGN KEY (script_pubkey) REFERENCES public.address(script_pubkey);
ALTER TABLE ONLY public.judgement
    ADD CONSTRAINT judgement_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.ledger_entry
    ADD CONSTRAINT ledger_entry_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.ledger_entry
    ADD CONSTRAINT ledger_entry_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.ledger_entry
    ADD CONSTRAINT ledger_entry_script_pubkey_fkey FOREIGN KEY (script_pubkey) REFERENCES public.address(script_pubkey);
ALTER TABLE ONLY public.payment
    ADD CONSTRAINT payment_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.payment
    ADD CONSTRAINT payment_resolved_by_fkey FOREIGN KEY (resolved_by) REFERENCES public.operator_action(id);
ALTER TABLE ONLY public.payment
    ADD CONSTRAINT payment_script_pubkey_fkey FOREIGN KEY (script_pubkey) REFERENCES public.address(script_pubkey);
ALTER TABLE ONLY public.payment
    ADD CONSTRAINT payment_txid_fkey FOREIGN KEY (txid) REFERENCES public.tx(txid);
ALTER TABLE ONLY public.project
    ADD CONSTRAINT project_descriptor_id_fkey FOREIGN KEY (descriptor_id) REFERENCES public.descriptor(id);
ALTER TABLE ONLY public.project_secret
    ADD CONSTRAINT project_secret_project_id_fkey FOREIGN KEY (project_id) REFERENCES public.project(id);
ALTER TABLE ONLY public.rate
    ADD CONSTRAINT rate_quote_id_fkey FOREIGN KEY (quote_id) REFERENCES public.quote(id);
ALTER TABLE ONLY public.session
    ADD CONSTRAINT session_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.account(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.test_confirmation
    ADD CONSTRAINT test_confirmation_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.timeline
    ADD CONSTRAINT timeline_invoice_id_fkey FOREIGN KEY (invoice_id) REFERENCES public.invoice(id);
ALTER TABLE ONLY public.tx_input
    ADD CONSTRAINT tx_input_txid_fkey FOREIGN KEY (txid) REFERENCES public.tx(txid);
