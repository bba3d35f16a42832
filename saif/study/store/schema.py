"""The tables of a study's store, and the rules that the database itself enforces.

Migrations are appended; of the old ones, no edit may change what a store of any age ends up as.
`PRAGMA user_version` counts those that were applied.
"""

from saif.study.store.allocation import TABLE as CELL_POOL

_FIRST = """
CREATE TABLE study_version(
  version_id TEXT PRIMARY KEY, study_id TEXT NOT NULL, number INTEGER NOT NULL,
  config_json TEXT NOT NULL, opened_at TEXT NOT NULL);

CREATE TABLE setting(name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE participant(
  participant_id TEXT PRIMARY KEY, study_id TEXT NOT NULL, pid_hmac BLOB NOT NULL,
  source TEXT NOT NULL CHECK(source IN ('link', 'prolific', 'mturk', 'lab', 'bot')),
  version_id TEXT NOT NULL REFERENCES study_version, plan_seed TEXT NOT NULL, cell TEXT NOT NULL,
  status TEXT NOT NULL CHECK(status IN
    ('enrolled', 'active', 'complete', 'screened', 'withdrawn', 'erased', 'stale')),
  token_hash BLOB NOT NULL UNIQUE, salt BLOB, created_at TEXT NOT NULL,
  UNIQUE(study_id, pid_hmac));

CREATE TABLE consent(
  participant_id TEXT PRIMARY KEY REFERENCES participant, consent_sha TEXT NOT NULL,
  locale TEXT NOT NULL, given_at TEXT NOT NULL,
  share_text INTEGER NOT NULL CHECK(share_text IN (0, 1)));

CREATE TABLE trial(
  trial_id TEXT PRIMARY KEY, participant_id TEXT NOT NULL REFERENCES participant,
  position INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 1,
  kind TEXT NOT NULL CHECK(kind IN ('practice', 'main', 'attention', 'retest')),
  retest_of INTEGER, check_id TEXT, preset TEXT, prompts_json TEXT NOT NULL,
  left_arm TEXT NOT NULL, right_arm TEXT NOT NULL, gen_seed INTEGER NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('planned', 'running', 'ready', 'voted', 'void')),
  void_reason TEXT, vote_id TEXT UNIQUE, started_at TEXT,
  UNIQUE(participant_id, position, attempt),
  CHECK((state = 'void') = (void_reason IS NOT NULL)));
CREATE UNIQUE INDEX one_attempt_counts ON trial(participant_id, position) WHERE state <> 'void';
CREATE UNIQUE INDEX one_trial_at_a_time ON trial(participant_id)
  WHERE state IN ('running', 'ready');

CREATE TABLE turn(
  turn_id INTEGER PRIMARY KEY, trial_id TEXT NOT NULL REFERENCES trial ON DELETE CASCADE,
  k INTEGER NOT NULL, user_text TEXT NOT NULL, UNIQUE(trial_id, k));

CREATE TABLE generation(
  turn_id INTEGER NOT NULL REFERENCES turn ON DELETE CASCADE, arm TEXT NOT NULL,
  side TEXT NOT NULL CHECK(side IN ('L', 'R')), output_text TEXT NOT NULL,
  n_tokens INTEGER NOT NULL, stop_reason TEXT NOT NULL, ttft_ms REAL, total_ms REAL,
  details_json TEXT NOT NULL, PRIMARY KEY(turn_id, side));

CREATE TABLE vote(
  vote_id TEXT PRIMARY KEY, trial_id TEXT NOT NULL REFERENCES trial, revision INTEGER NOT NULL,
  choice TEXT NOT NULL CHECK(choice IN ('L', 'R', 'tie', 'both_bad', 'skip')), strength INTEGER,
  reason TEXT, shown_ms INTEGER, decided_ms INTEGER, server_at TEXT NOT NULL,
  UNIQUE(trial_id, revision));

CREATE TABLE response(
  participant_id TEXT NOT NULL REFERENCES participant, item_id TEXT NOT NULL,
  revision INTEGER NOT NULL, value_json TEXT NOT NULL, server_at TEXT NOT NULL,
  PRIMARY KEY(participant_id, item_id, revision));

CREATE TABLE event(
  id INTEGER PRIMARY KEY, participant_id TEXT NOT NULL REFERENCES participant, trial_id TEXT,
  t_client_ms REAL, server_at TEXT NOT NULL, kind TEXT NOT NULL);

CREATE TABLE withdrawal(
  participant_id TEXT NOT NULL REFERENCES participant,
  scope TEXT NOT NULL CHECK(scope IN ('analysis', 'erase')), at TEXT NOT NULL, actor TEXT NOT NULL,
  PRIMARY KEY(participant_id, scope));

CREATE TABLE audit(
  seq INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  object TEXT NOT NULL, payload_sha TEXT NOT NULL, prev_sha TEXT NOT NULL, sha TEXT NOT NULL);

CREATE TABLE outbox(
  seq INTEGER PRIMARY KEY, participant_id TEXT, kind TEXT NOT NULL, payload TEXT, acked_at TEXT);

CREATE INDEX outbox_waiting ON outbox(seq) WHERE acked_at IS NULL;
CREATE INDEX outbox_of ON outbox(participant_id);
CREATE INDEX event_of ON event(participant_id);

CREATE TABLE erasing(participant_id TEXT PRIMARY KEY);
"""
"""`erasing` names whom the current transaction erases; it is empty whenever one has ended."""

_ERASED_BY = {
    "vote": "SELECT participant_id FROM trial WHERE trial_id = OLD.trial_id",
    "response": "SELECT OLD.participant_id",
    "audit": "SELECT NULL",
}
_GUARDS = "".join(
    f"""
CREATE TRIGGER {table}_is_never_changed BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, 'a row of {table} is never changed'); END;
CREATE TRIGGER {table}_is_never_deleted BEFORE DELETE ON {table}
WHEN NOT EXISTS(SELECT 1 FROM erasing WHERE participant_id = ({erased}))
BEGIN SELECT RAISE(ABORT, 'a row of {table} is only deleted by an erasure'); END;
"""
    for table, erased in _ERASED_BY.items()
)
"""No vote, answer or audit row is ever changed, and only an erasure deletes one; none an audit
row."""

_VIEW = """
CREATE VIEW last_vote AS
  SELECT vote.* FROM vote JOIN (
    SELECT trial_id, MAX(revision) AS revision FROM vote GROUP BY trial_id
  ) USING(trial_id, revision);
"""

_SECOND = """
ALTER TABLE trial ADD COLUMN void_detail TEXT;
UPDATE trial SET void_detail = (
  SELECT NULLIF(json_extract(payload, '$.detail'), '') FROM outbox
  WHERE kind = 'void' AND json_extract(payload, '$.about') = trial_id) WHERE state = 'void';
"""
"""What was reported of a trial, which only the outbox knew, moves to the trial."""

_THIRD = """
DROP TRIGGER IF EXISTS a_turn_is_copied;
DROP TRIGGER IF EXISTS an_event_is_copied;
DROP TRIGGER IF EXISTS a_reopened_vote_is_copied;
DROP TABLE outbox;
"""
"""The remote copy is of the whole store: nobody asks any more whose rows have changed. The triggers
are of stores that were migrated when the second step still made them."""

MIGRATIONS = (_FIRST + CELL_POOL + _GUARDS + _VIEW, _SECOND, _THIRD)

IDENTITIES = """
CREATE TABLE IF NOT EXISTS identity(
  pid_hmac BLOB PRIMARY KEY, provider TEXT NOT NULL, pid TEXT NOT NULL, study TEXT NOT NULL,
  session TEXT);
"""
