"""Plant faults in the rules and see the tests catch each of them: `python -m tests.mutants`, or `make mutants`.

Each mutant is a text of a module in `watcher/rules` or `notifier/rules` and another one in its place. It is planted in
a copy, the tests of the rules run on the copy, and a mutant that they do not notice is a hole in them. A text that is
not there exactly once is an error, so that this list stays true.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = (
    "watcher/__init__.py", "watcher/rules", "tests/watcher/rules", "pyproject.toml",
    "notifier/__init__.py", "notifier/README.md", "notifier/rules", "tests/notifier/rules",
)  # fmt: skip
PACKAGES = ("watcher", "notifier")
SECONDS_MAX = 120
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: `before` in `module` becomes `after`."""

    name: str
    module: str
    before: str
    after: str
    package: str = "watcher"


MUTANTS = (
    Mutant(
        "a project's key hears that the guard refused a target", "deliveries",
        'NO_CONNECTION = frozenset({"blocked", "dns", CONNECT})', 'NO_CONNECTION = frozenset({"dns", CONNECT})',
    ),
    Mutant(
        "a project's key hears the words behind no connection", "deliveries",
        "return CONNECT, NO_CONNECTION_WORDS", "return CONNECT, error",
    ),
    Mutant(
        "operators are told no more than projects", "deliveries",
        "if to_operator or outcome not in NO_CONNECTION:", "if outcome not in NO_CONNECTION:",
    ),
    Mutant(
        "a project's key hears that a delivery was given up as blocked", "deliveries",
        '_PLAIN_REASONS = {"blocked_target": "exhausted"}', "_PLAIN_REASONS: dict[str, str] = {}",
    ),
    Mutant(
        "a pause is told although the retry is later", "deliveries",
        "if queued.paused_until > max(now, queued.next_attempt_at):", "if queued.paused_until > now:",
    ),
    Mutant(
        "an earlier event is told before the disabled endpoint", "deliveries",
        "if queued.disabled_reason is not None:", "if queued.disabled_reason is not None and not queued.ahead:",
    ),
    Mutant(
        "the attempt that comes has the number of the last", "deliveries",
        'f"attempt {queued.attempts + 1} at', 'f"attempt {queued.attempts} at',
    ),
    Mutant(
        "what is being sent is sent again", "deliveries",
        'return Replay.UNDER_WAY if state == "in_flight" else Replay.NEW', "return Replay.NEW",
    ),
    Mutant(
        "what waits is sent a second time", "deliveries",
        "        return Replay.DUE\n", "        return Replay.NEW\n",
    ),
    Mutant(
        "a replay of one state takes all", "deliveries",
        "for one in latest if state is None or one.state == state]", "for one in latest]",
    ),
    Mutant(
        "a price at the limit of its age is too old", "rates",
        "if age <= limits.max_age", "if age < limits.max_age",
    ),
    Mutant("a price as far off as is allowed is too far off", "rates", "off_percent > Fr", "off_percent >= Fr"),
    Mutant("one source less than the least is enough", "rates", "len(used) < limits", "len(used) + 1 < limits"),
    Mutant("what is too old has a say in the median", "rates", " and not _untimely(one, limits, now)]", "]"),
    Mutant(
        "a source that repeats itself is as young as it says", "rates",
        "min(self.changed_at, self.told_at)", "self.told_at",
    ),
    Mutant("a source's own time does not count", "rates", "min(self.changed_at, self.told_at)", "self.changed_at"),
    Mutant("a time ahead of ours is as good as any", "rates", "- now > limits.max_age:", "- now > 9 * limits.max_age:"),
    Mutant(
        "of two in the middle the higher is the median", "rates",
        "ordered[half - 1] + ordered[half]", "2 * ordered[half]",
    ),
    Mutant("a quote holds as long as its youngest reading", "rates", "ends[limits.sources_min - 1]", "ends[0]"),
    Mutant("a quote holds as long as its oldest reading", "rates", "ends[limits.sources_min - 1]", "ends[-1]"),
    Mutant(
        "a price too far off makes a quote hold longer", "rates",
        " for one in fresh if one.source in used)", " for one in fresh)",
    ),
    Mutant("the same answer is always new", "rates", "before.digest != digest", "before.digest == digest"),
    Mutant("an answer's age is of after a clock was set back", "rates", "min(before.since, now)", "before.since"),
    Mutant(
        "the deviation is counted from above only", "rates",
        "abs(Fraction(one.rate) - median)", "(Fraction(one.rate) - median)",
    ),
    Mutant("the last unpaid run is never the longest", "gaps", "max(longest, current)", "longest"),
    Mutant("a paid address ends no unpaid run", "gaps", ", index + 1", ", free_from"),
    Mutant("an address that was not given out ends a run", "gaps", "index < next_index", "index <= next_index"),
    Mutant(
        "expiry is judged in the last second in time", "invoice",
        "EXPIRY_GRACE = timedelta(seconds=1)", "EXPIRY_GRACE = timedelta(seconds=0)",
    ),
    Mutant(
        "expiry goes by the clock, not by what was looked at", "invoice",
        "moment.looked_at is not None and moment.looked_at >= terms.expires_at",
        "moment.now >= terms.expires_at",
    ),
    Mutant(
        "a payment in the last second is late", "invoice",
        "payment.first_seen_at > terms.expires_at", "payment.first_seen_at >= terms.expires_at",
    ),
    Mutant(
        "evicted money counts at the limit", "invoice",
        "moment.now < payment.tx.evicted_at", "moment.now <= payment.tx.evicted_at",
    ),
    Mutant("a coinbase is mature a block early", "invoice", "_BLOCKS = 100", "_BLOCKS = 99"),
    Mutant(
        "the tolerance excludes its edge below", "invoice",
        "paid_sat < terms.amount_due_sat", "paid_sat <= terms.amount_due_sat",
    ),
    Mutant("a node that is cut off may accept unconfirmed money", "invoice", " and not is_held_back:", ":"),
    Mutant(
        "what was accepted unconfirmed falls when the node is cut off", "invoice",
        " and standing.status is not Status.CONFIRMED and not moment", " and not moment",
    ),
    Mutant("money in a block is held back too", "invoice", "is_held_back = confirmations == 0 and ", "is_held_back = "),
    Mutant(
        "the walk trusts a node that is cut off", "invoice",
        "looked_at=None)", "looked_at=None, mempool_is_trusted=True)",
    ),
    Mutant("a closed set can be overpaid", "invoice", " and not standing.set_closed:", ":"),
    Mutant(
        "confirmations begin at 0", "invoice",
        "tip_height - payment.tx.anchor.height + 1", "tip_height - payment.tx.anchor.height",
    ),
    Mutant(
        "one confirmation more than required", "invoice",
        "if confirmations >= needed and", "if confirmations > needed and",
    ),
    Mutant(
        "CONFIRMED holds in whatever block", "invoice",
        " or payment.tx.anchor.hash != payment.confirmed_anchor_hash", "",
    ),
    Mutant(
        "CONFIRMED falls with the tip", "invoice",
        "and not any(_has_lost_anchor(payment) for payment in counted)", "and not counted",
    ),
    Mutant(
        "a closed set lets money in that came in time", "invoice",
        "payment.in_closed_set if standing.set_closed else not is_late", "not is_late",
    ),
    Mutant(
        "a final invoice takes back what returns", "invoice",
        "(not before.set_closed or after.status in FINAL)", "not before.set_closed",
    ),
    Mutant(
        "that due was reached is forgotten", "invoice",
        "reached_due=standing.reached_due or status in", "reached_due=status in",
    ),
    Mutant(
        "a known payment is confirmed before its block", "invoice",
        "payment.tx.anchor is None or payment.tx.anchor.height <= tip_height", "payment.tx.anchor is not None",
    ),
    Mutant(
        "blocks are walked from the top", "invoice",
        "groupby(sorted(anchored, key=arrival_height)", "groupby(sorted(anchored, key=arrival_height, reverse=True)",
    ),
    Mutant(
        "the mempool is walked from its end", "invoice",
        "key=lambda payment: payment.first_seen_at", "reverse=True, key=lambda payment: payment.first_seen_at",
    ),
    Mutant(
        "the mempool comes in with the last block", "invoice",
        "yield tip_height + 1, list(group)", "yield tip_height, list(group)",
    ),
    Mutant(
        "what was evicted unjudged comes with the blocks", "invoice",
        "in (TxState.MEMPOOL, TxState.EVICTED)]", "in (TxState.MEMPOOL,)]",
    ),
    Mutant(
        "a coinbase that counted is immature below", "invoice",
        "(payment.counted or arrival_height(payment) <= moment.tip_height)",
        "arrival_height(payment) <= moment.tip_height",
    ),
    Mutant(
        "an old double-spend explains a new loss", "invoice",
        "if payment.counted and _belongs(terms, standing, payment)]", "if _belongs(terms, standing, payment)]",
    ),
    Mutant("a fall-back has no reason of its own", "invoice", "Reason.REORGED if fell_back else ", ""),
    Mutant("a conflict takes nothing back", "types", "(TxState.REPLACED, TxState.CONFLICTED)", "(TxState.REPLACED,)"),
    Mutant(
        "an anomaly is reported again", "anomalies",
        "if payment.anomaly is not None or confirmations_of", "if confirmations_of",
    ),
    Mutant(
        "an anomaly may be reported unconfirmed", "anomalies",
        "max(1, terms.anomaly_confirmations)", "terms.anomaly_confirmations",
    ),
    Mutant(
        "an anomaly waits for a block too many", "anomalies",
        "payment.tx.anchor.height + _depth(terms) - 1", "payment.tx.anchor.height + _depth(terms)",
    ),
    Mutant(
        "nobody waits for the limit of an eviction", "anomalies",
        "if payment.counted and payment.tx.evicted_at is not None",
        "if not payment.counted and payment.tx.evicted_at is not None",
    ),
    Mutant(
        "nobody waits for the expiry of a partial payment", "anomalies",
        "in (Status.NEW, Status.UNDERPAID)", "is Status.NEW",
    ),
    Mutant(
        "an invoice waits for its oldest block", "anomalies",
        "max(heights) + required", "min(heights) + required",
    ),
    Mutant(
        "nobody waits for a coinbase", "anomalies",
        "if payment.coinbase and payment.tx.anchor is not None", "if False",
    ),
    Mutant(
        "money of an invalid invoice is not held", "ledger",
        "standing.status is Status.INVALID if payment.counted", "False if payment.counted",
    ),
    Mutant("what was decided books nothing", "ledger", "return _AFTER[payment.resolution]", "return HELD"),
    Mutant(
        "what is not held is moved by a decision", "ledger",
        "if _is_held(standing, payment):", "if payment.resolution or _is_held(standing, payment):",
    ),
    Mutant("a refund is balance", "ledger", "Resolution.REFUNDED: REFUNDED", "Resolution.REFUNDED: CONFIRMED"),
    Mutant("accepted test money is balance", "ledger", "TEST if test else _AFTER[resolution]", "_AFTER[resolution]"),
    Mutant(
        "money that is gone is an exception", "ledger",
        "return _is_booked(payment) and _is_held(", "return _is_held(",
    ),
    Mutant(
        "a judgement forgets what was decided", "invoice",
        "payment, judged=True, counted=counted", "payment, judged=True, resolution=None, counted=counted",
    ),
    Mutant("a judgement forgets that it was cancelled", "invoice", ", cancelled_at=standing.cancelled_at", ""),
    Mutant(
        "a cancelled invoice waits for its expiry", "invoice",
        "if standing.cancelled_at is not None:", "if standing.cancelled_at is not None and is_expired(terms, moment):",
    ),
    Mutant("a row of the log is not chained", "action_log", "sha256(previous_hash + text", "sha256(text"),
    Mutant("a row that was altered is believed", "action_log", "if one.hash != hash_of(", "if False and hash_of("),
    Mutant("rows may be gone from the log", "action_log", "if one.previous_hash != last_hash:", "if False:"),
    Mutant("the last rows may be gone", "action_log", "if (last_id, last_hash) != end:", "if False:"),
    Mutant(
        "vanished money stays in the ledger", "ledger",
        " and (payment.counted or payment.tx.evicted_at is None)", "",
    ),
    Mutant("an account that empties is not booked", "ledger", "in before.keys() | after.keys()", "in after.keys()"),
    Mutant("satoshi due are rounded down", "money", "return ceil(", "return floor("),
    Mutant("fiat paid is rounded up", "money", "Decimal(floor(amount", "Decimal(ceil(amount"),
    Mutant("a negative sum is written as it is", "money", "btc_text(abs(amount_sat))", "btc_text(amount_sat)"),
    Mutant("zero has a sign", "money", 'f"-{text}" if amount < 0', 'f"-{text}" if amount <= 0'),
    Mutant(
        "the default tiers hold for a project in BTC", "policy",
        "() if policy.is_default and currency == BTC else policy.tiers", "policy.tiers",
    ),
    Mutant(
        "a tolerance in per cent is rounded up", "policy",
        "floor(Fraction(percent) * amount_due_sat / 100)", "-floor(-Fraction(percent) * amount_due_sat / 100)",
    ),
    Mutant("all of it may be missing", "policy", "amount_due_sat - 1)", "amount_due_sat)"),
    Mutant(
        "the tolerance excludes its edge above", "invoice",
        "paid_sat > terms.amount_due_sat + ", "paid_sat >= terms.amount_due_sat + ",
    ),
    Mutant(
        "what is just tolerated is still asked for", "payloads",
        "missing_sat > terms.tolerance_under_sat", "missing_sat >= terms.tolerance_under_sat",
    ),
    Mutant(
        "accepted money is valued as the invoice's own", "report",
        "found = () if came_by_status else _found(booking, accepted)", "found = ()",
    ),
    Mutant(
        "the reversal of an invoice is taken for that of accepted money", "report",
        "found = () if came_by_status else _found(booking, accepted)", "found = _found(booking, accepted)",
    ),
    Mutant("a reversal names what is left", "report", "change.at < booking.at", "change.at <= booking.at"),
    Mutant(
        "the first of two accepted payments of one sum is told twice", "report",
        "key=lambda one: one.at != booking.at", "key=lambda one: 0",
    ),
    Mutant("money that is taken back has no sign", "report", "return -worth if", "return worth if"),
    Mutant("a tier excludes its limit", "policy", "exact <= Fraction(tier.up_to)", "exact < Fraction(tier.up_to)"),
    Mutant(
        "the fork point leaves too", "chain",
        "facts.anchor.height > fork_height", "facts.anchor.height >= fork_height",
    ),
    Mutant(
        "a payment does not go with its parent", "chain",
        "if parent.is_taken_back:", "if parent.is_taken_back and facts.anchor is not None:",
    ),
    Mutant("every step of an outage is told", "decisions", "if step is last or not setting.tell_net:", "if step:"),
    Mutant(
        "an anomaly has the number of the event before it", "decisions",
        "self.invoice.last_sequence + 1, previous_status", "self.invoice.last_sequence, previous_status",
    ),
    Mutant("all steps are labelled as the last", "decisions", "telling.label(step)", "telling.label(last)"),
    Mutant("a label goes with what it was of", "labels", "{*labels, *found}", "{*found}"),
    Mutant(
        "two outputs of one transaction are multiple", "labels",
        "len(counted) > 1 and len(set(counted)) > 1", "len(counted) > 1",
    ),
    Mutant(
        "every replacement is a double spend", "labels",
        "Label.REPLACED if takes_its_place else Label.DOUBLE_SPENT", "Label.DOUBLE_SPENT",
    ),
    Mutant(
        "what never counted vanishes", "labels",
        "not payment.counted and _had_counted(before, payment)", "not payment.counted",
    ),
    Mutant(
        "times are written without microseconds", "codec",
        "datetime: datetime.isoformat,", 'datetime: lambda at: at.isoformat(timespec="seconds"),',
    ),
    Mutant(
        "a payment is written down once", "judgements",
        "if before != noted.payments[payment.key]:", "if before is None:",
    ),
    Mutant(
        "a past that was not written down is not noticed", "judgements",
        "if has_past and invoice.noted.invoice is None else []", "if False else []",
    ),
    Mutant(
        "made again, payments forget what was judged of them", "replay",
        'if "past" not in facts and payment.key in known:', "if False:",
    ),
    Mutant("bodies may differ in bytes", "replay", "kept.body == made.body", "len(kept.body) == len(made.body)"),
    Mutant(
        "the ledger is not compared", "replay",
        "if again.is_settled and dict(stored.booked) != true:", "if False:",
    ),
    Mutant(
        "a confirmation is promised a block late", "explain",
        "anchor.height for anchor in anchors) + required - 1", "anchor.height for anchor in anchors) + required",
    ),
    Mutant(
        "a flood is judged as if only its last payment had come", "invoice",
        "passed_sat += sum(", "passed_sat = sum(",
    ),
    Mutant(
        "what is too little is left out although every change is told", "invoice",
        "(net and is_too_little", "(is_too_little",
    ),
    Mutant(
        "the oldest payments are shown", "payloads",
        "payments[-MAX_PAYMENTS_SHOWN:]", "payments[:MAX_PAYMENTS_SHOWN]",
    ),
    Mutant(
        "a fee at the mempool's minimum is below it", "risk",
        "* 1000 >= feerate_sat_kvb",
        "* 1000 > feerate_sat_kvb",
    ),
    Mutant(
        "a rich child makes a poor parent good", "risk",
        "return min(Fraction(",
        "return max(Fraction(",
    ),
    Mutant(
        "half a full block is nearly empty", "risk",
        "measured.mempool_vsize < NEARLY",
        "measured.mempool_vsize <= NEARLY",
    ),
    Mutant(
        "no estimate is neutral whatever waits", "risk",
        "return RiskVerdict.UNKNOWN, value,",
        "return RiskVerdict.NEUTRAL, value,",
    ),
    Mutant(
        "the cap excludes its edge", "risk",
        "if total_sat > around.cap_sat",
        "if total_sat >= around.cap_sat",
    ),
    Mutant(
        "the cap forgets what is accepted", "risk",
        "around.accepted_sat + around.unconfirmed_sat",
        "around.unconfirmed_sat",
    ),
    Mutant(
        "of several payments the best is shown", "risk",
        "return max(factors, key",
        "return min(factors, key",
    ),
    Mutant(
        "unknown is safe on a real network", "risk",
        "around.network not in CHAINS",
        "around.network in CHAINS",
    ),
    Mutant(
        "a node that is cut off raises for good", "risk",
        " and name != NODE",
        "",
    ),
    Mutant(
        "a lock time of the tip is not over", "risk",
        "if lock <= (",
        "if lock < (",
    ),
    Mutant(
        "an accepted invoice is weighed again", "invoice",
        "is_open = standing.status is not Status.CONFIRMED and ",
        "is_open = ",
    ),
    Mutant(
        "a conflict is forgotten", "invoice",
        "if may_be_raised(terms, standing) and any(",
        "if standing.paid_sat < 0 and any(",
    ),
    Mutant(
        "what was raised falls again", "invoice",
        "return max(terms.required_confirmations, standing.raised_to)",
        "return terms.required_confirmations",
    ),
    Mutant(
        "money in a block is weighed", "invoice",
        "if confirmations > 0 or not may_be_raised",
        "if not may_be_raised",
    ),
    Mutant(
        "confirmed money is weighed with the rest", "invoice",
        "unconfirmed = [payment for payment in counted if payment.tx.anchor is None]",
        "unconfirmed = list(counted)",
    ),
    Mutant(
        "what is shown is not what is needed", "payloads",
        '"requiredConfirmations": required_confirmations(terms, standing)',
        '"requiredConfirmations": terms.required_confirmations',
    ),
    Mutant(
        "a mined payment is exposed", "exposure",
        " and payment.tx.anchor is None",
        "",
    ),
    Mutant(
        "late money is exposed", "exposure",
        "if payment.counted and ",
        "if ",
    ),
    Mutant(
        "test money takes the live cap", "exposure",
        "return invoice.project_id, invoice.test",
        "return invoice.project_id, False",
    ),
    Mutant(
        "what one was accepted with the next may have", "exposure",
        " + exposed_sat(after.standing, after.payments)",
        "",
    ),
    Mutant(
        "a rival of the parent is no rival", "chain",
        "_with_ancestors(txid, inputs))",
        "{txid})",
    ),
    Mutant(
        "one spender is a rival of itself", "chain",
        "if len(txids) > 1 for txid",
        "if len(txids) > 0 for txid",
    ),
    Mutant(
        "that risk has raised it is noted every time", "decisions",
        "if after > before:",
        "if after > terms.required_confirmations:",
    ),
    Mutant("simulated money is booked", "ledger", "is_there and not payment.simulated", "is_there"),
    Mutant(
        "simulated money takes room of the cap", "exposure",
        "(payment for payment in payments if not payment.simulated)", "payments",
    ),
    Mutant(
        "real payments say that they are not simulated", "payloads",
        'document | {"simulated": True} if payment.simulated else document',
        'document | {"simulated": payment.simulated}',
    ),
    Mutant("a simulated block leaves with the tip", "invoice", "<= tip_height or payment.simulated:", "<= tip_height:"),
    Mutant(
        "confirmations fall below none", "invoice",
        "max(tip_height - payment.tx.anchor.height + 1, 0)", "tip_height - payment.tx.anchor.height + 1",
    ),
    Mutant(
        "a part within the tolerance is too little", "simulation", "self.due_sat - under_sat - 1", "self.due_sat - 1",
    ),
    Mutant(
        "what is just tolerated is too little", "simulation",
        "self.due_sat - under_sat - 1", "self.due_sat - under_sat",
    ),
    Mutant(
        "what is tolerated is too much", "simulation",
        "self.due_sat + self.invoice.terms.tolerance_over_sat + max", "self.due_sat + max",
    ),
    Mutant("nothing more is too much", "simulation", "max(self.due_sat // 2, 1)", "self.due_sat // 2"),
    Mutant("the last second in time is late", "simulation", "terms.expires_at + LATE", "terms.expires_at"),
    Mutant(
        "what is played after the expiry comes after it", "simulation",
        "min(self.moment.now.replace(microsecond=0), self.invoice.terms.expires_at)",
        "self.moment.now.replace(microsecond=0)",
    ),
    Mutant("the cap itself is above the cap", "simulation", "self.due_sat <= terms.unc", "self.due_sat < terms.unc"),
    Mutant("a simulation heeds no cap", "simulation", "== 0 and is_within_cap:", "== 0:"),
    Mutant("what others were accepted with is not known", "simulation", "accepted_sat=0)", "accepted_sat=None)"),
    Mutant("the first block holds no payment", "simulation", "if height < 0:", "if height <= 0:"),
    Mutant("a slow payment is not slow", "simulation", "_SAT_VB = 20, 1, 30", "_SAT_VB = 20, 20, 30"),
    Mutant("a bump inherits nothing", "simulation", "heir = replace(heir, judged=True)", "heir = replace(heir)"),
    Mutant("an act forgets what was judged", "simulation", "for name in PAST} if before", "for name in ()} if before"),
    Mutant("mined again, it is in the old block", "simulation", 'branch="second"', 'branch="first"'),
    Mutant("a returned payment was never in a block", "simulation", "MEMPOOL), reorged=True)", "MEMPOOL))"),
    Mutant("all invoices have the same coins", "simulation", " of {self.invoice.id}", ""),
    Mutant("a late payment has no rate", "simulation", "if invoice.quote else {}", "if not invoice.quote else {}"),
    Mutant(
        "each failure begins the days anew", "delivery",
        "since = endpoint.failing_since or now", "since = now", "notifier",
    ),
    Mutant(
        "a success does not end the days of failing", "delivery",
        "failing_since=None, warned=False", "warned=False", "notifier",
    ),
    Mutant(
        "who was warned of is not warned of again later", "delivery",
        "failing_since=None, warned=False", "failing_since=None", "notifier",
    ),
    Mutant("a day is not enough to warn", "delivery", "since >= WARN_AFTER", "since > WARN_AFTER", "notifier"),
    Mutant("five days are not enough", "delivery", "since >= DISABLE_AFTER", "since > DISABLE_AFTER", "notifier"),
    Mutant(
        "each failure warns", "delivery",
        "if after.warned and not before.warned", "if after.warned", "notifier",
    ),
    Mutant(
        "what is disabled is told again and again", "delivery",
        " and before.disabled_reason is None:", ":", "notifier",
    ),
    Mutant(
        "a new reason to disable hides the first", "delivery",
        "endpoint.disabled_reason or reason", "reason", "notifier",
    ),
    Mutant(
        "a refusal is no failure", "delivery",
        "return _failing(now, present)", "return present", "notifier",
    ),
    Mutant(
        "a blocked target is no failure", "delivery",
        "case Meaning.BLOCKED:\n            return _failing(now, endpoint)",
        "case Meaning.BLOCKED:\n            return endpoint", "notifier",
    ),
    Mutant(
        "a blocked target takes one delivery after the other", "delivery",
        "after = _disabled(after, BLOCKED_TARGET)", "pass", "notifier",
    ),
    Mutant("who was away is sent all at once", "delivery", "now), ramp=1)", "now))", "notifier"),
    Mutant("the ramp never grows", "delivery", "ramp = 2 * endpoint.ramp", "ramp = endpoint.ramp", "notifier"),
    Mutant(
        "the ramp grows beyond the cap", "delivery",
        "ramp if ramp < endpoint.max_in_flight else None", "ramp", "notifier",
    ),
    Mutant("the ramp never ends", "delivery", "if ramp < endpoint", "if ramp <= endpoint", "notifier"),
    Mutant(
        "refusals widen the ramp", "delivery",
        "present = _present(now, endpoint)", "present = _ramped(now, _present(now, endpoint))", "notifier",
    ),
    Mutant(
        "after a pause that was asked for everything goes out at once", "delivery",
        "replace(_paused(present, now, retry_after), ramp=1)", "_paused(present, now, retry_after)", "notifier",
    ),
    Mutant(
        "successes in a pause widen the ramp", "delivery",
        "endpoint.ramp is None or endpoint.blocked_until > now", "endpoint.ramp is None", "notifier",
    ),
    Mutant(
        "any late answer delivers", "delivery",
        "if accepts and state is State.PENDING", "if state is State.PENDING", "notifier",
    ),
    Mutant(
        "a late success revives what has ended", "delivery",
        "if accepts and state is State.PENDING", "if accepts", "notifier",
    ),
    Mutant(
        "410 is tried again like any refusal", "delivery",
        "if outcome is Outcome.HTTP and status == _GONE_STATUS:", "if False:", "notifier",
    ),
    Mutant(
        "the schedule ends an attempt late", "delivery",
        "attempts >= ATTEMPTS_MAX", "attempts > ATTEMPTS_MAX", "notifier",
    ),
    Mutant("the breaker opens late", "schedule", "BREAKER_FAILURES = 5", "BREAKER_FAILURES = 6", "notifier"),
)  # fmt: skip


def planted(mutant: Mutant) -> str:
    """The module with the fault in it. Raises `ValueError` for a mutant whose text is not there exactly once."""
    text = (ROOT / _path(mutant)).read_text()
    if text.count(mutant.before) != 1:
        raise ValueError(f"{mutant.name}: found {text.count(mutant.before)} times in {mutant.module}: {mutant.before}")
    return text.replace(mutant.before, mutant.after)


def _path(mutant: Mutant) -> str:
    return f"{mutant.package}/rules/{mutant.module}.py"


def hunt(mutant: Mutant | None, package: str = "watcher") -> str | None:
    """The first test of its package that fails with the mutant planted, or without any; None when all pass."""
    if mutant is not None:
        package = mutant.package
    with _copy() as copy:
        if mutant is not None:
            (copy / _path(mutant)).write_text(planted(mutant))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
        done = subprocess.run(
            [*command, f"tests/{package}/rules"], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) tests/\w+/rules/(.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failed is None:
        raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
    return failed[1]


@contextmanager
def _copy() -> Iterator[Path]:
    """The rules and their tests, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        for part in PARTS:
            source, target = ROOT / part, Path(name) / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(name)


def main() -> int:
    """Print who caught what; the number of mutants that nobody caught."""
    for mutant in MUTANTS:
        planted(mutant)
    for package in PACKAGES:
        if (failed := hunt(None, package)) is not None:
            sys.stdout.write(f"the tests fail without any mutant: {failed}\n")
            return 1
    with ThreadPoolExecutor(AT_ONCE) as pool:
        catches = list(pool.map(hunt, MUTANTS))
    for mutant, catch in zip(MUTANTS, catches, strict=True):
        sys.stdout.write(f"{'caught' if catch else 'MISSED'}  {mutant.module:10} {mutant.name}  {catch or ''}\n")
    sys.stdout.write(f"{len(MUTANTS)} mutants, {catches.count(None)} missed\n")
    return catches.count(None)


if __name__ == "__main__":
    sys.exit(main())
