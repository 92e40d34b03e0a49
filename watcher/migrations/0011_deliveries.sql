-- The log of deliveries is read by project, and an event is sent again once at a time.

-- Whose delivery it is: the endpoint's project. A list of one project must not look at the others' deliveries, and
-- PostgreSQL indexes no column of another table; so it is copied, by a trigger, and cannot be wrong.
ALTER TABLE delivery ADD project_id text;
UPDATE delivery d SET project_id = e.project_id FROM endpoint e WHERE e.id = d.endpoint_id;
ALTER TABLE delivery ALTER project_id SET NOT NULL;

CREATE FUNCTION delivery_project() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT project_id INTO NEW.project_id FROM endpoint WHERE id = NEW.endpoint_id;
  RETURN NEW;
END
$$;
CREATE TRIGGER delivery_has_project BEFORE INSERT ON delivery FOR EACH ROW EXECUTE FUNCTION delivery_project();

-- An index that holds every delivery is written at its insert, its claim and its record. So the new one takes the
-- place of another: first deliveries are found by their event through delivery_once, replays through an index of
-- their own. The other new ones hold what is rare, and cost an ordinary delivery nothing.
DROP INDEX delivery_of_event;
CREATE INDEX delivery_of_project ON delivery (project_id, id);
CREATE INDEX delivery_replays ON delivery (event_id, id) WHERE replay_of IS NOT NULL;
CREATE INDEX delivery_given_up ON delivery (id) WHERE state NOT IN ('pending', 'in_flight', 'delivered');

-- However many ask for it at once, an event waits to be sent again to an endpoint once.
UPDATE delivery d SET state = 'dead', dead_reason = 'replayed_twice', lease_token = NULL, lease_until = NULL
WHERE replay_of IS NOT NULL AND state IN ('pending', 'in_flight') AND EXISTS (
  SELECT FROM delivery o WHERE o.event_id = d.event_id AND o.endpoint_id = d.endpoint_id AND o.replay_of IS NOT NULL
    AND o.state IN ('pending', 'in_flight') AND o.id > d.id);
CREATE UNIQUE INDEX delivery_one_open_replay ON delivery (event_id, endpoint_id)
  WHERE replay_of IS NOT NULL AND state IN ('pending', 'in_flight');
