"""Rows as the JSON that calls answer; `schemas.answers` describes it. Invoices are made by `rules.payloads`."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from watcher.rules.deliveries import (
    Ahead,
    Latest,
    Plan,
    Queued,
    Replay,
    told_dead_reason,
    told_disabled_reason,
    told_failure,
    waiting,
)
from watcher.rules.ledger import CONFIRMED, HELD, PENDING, TEST
from watcher.rules.money import BTC, btc_text, fiat_text, signed_btc_text, signed_fiat_text, value_at
from watcher.rules.payloads import time_text
from watcher.rules.policy import Policy, Tolerance, tiers_of
from watcher.rules.report import Line
from watcher.rules.timeline import sentence
from watcher.rules.types import TxState
from watcher.runtime.db import Row
from watcher.runtime.ids import numbered_id
from watcher.store.api_keys import ApiKey
from watcher.store.projects import Project
from watcher.store.webhook_secrets import WebhookSecret


def listing(items: Sequence[dict[str, Any]], limit: int, cursor: str = "id") -> dict[str, Any]:
    """A page; a full one is followed by another, at the cursor in its last item."""
    return {"items": items, "nextCursor": items[-1][cursor] if len(items) == limit else None}


def project(project: Project, *, to_operator: bool) -> dict[str, Any]:
    """A project; its descriptor is for operators, since projects may share one."""
    return {
        "id": project.id,
        "name": project.name,
        "mode": project.mode,
        "currency": project.currency,
        "notificationUrl": project.notification_url,
        "notificationUrlStatus": project.endpoint_status,
        "notificationUrlDisabledReason": told_disabled_reason(
            project.endpoint_disabled_reason, to_operator=to_operator
        ),
        "descriptor": project.descriptor if to_operator else None,
        "confirmationPolicy": _policy(project.policy, project.currency),
        "tolerance": _tolerance(project.policy.tolerance),
        "anomalyConfirmations": project.policy.anomaly_confirmations,
        "evictionLimitHours": int(project.policy.eviction_limit.total_seconds() // 3600),
        "createdAt": time_text(project.created_at),
    }


def _policy(policy: Policy, currency: str) -> dict[str, Any]:
    cap = policy.unconfirmed_cap
    return {
        "tiers": [
            {"upTo": fiat_text(tier.up_to, currency), "confirmations": tier.confirmations}
            for tier in tiers_of(policy, currency)
        ],
        "above": policy.confirmations_above,
        "unconfirmedCap": None if cap is None else fiat_text(cap, currency),
    }


def _tolerance(tolerance: Tolerance) -> dict[str, Any]:
    return {
        "underSat": tolerance.under_sat,
        "underPercent": f"{tolerance.under_percent.normalize():f}",
        "overSat": tolerance.over_sat,
        "overPercent": f"{tolerance.over_percent.normalize():f}",
    }


def balance(accounts: Mapping[str, int]) -> dict[str, Any]:
    """The accounts that merchants see, in BTC."""
    return {account: btc_text(accounts.get(account, 0)) for account in (CONFIRMED, PENDING, HELD, TEST)}


def report_line(line: Line) -> dict[str, Any]:
    """A line of a report."""
    booking, basis = line.booking, line.booking.basis
    return {
        "id": str(booking.id),
        "at": time_text(booking.at),
        "kind": line.kind,
        "invoiceId": basis.id if basis else None,
        "reference": basis.reference if basis else None,
        "btc": signed_btc_text(booking.amount_sat),
        "currency": line.currency,
        "amount": _worth(line.amount, line.currency),
        "rate": f"{line.rate.normalize():f}" if line.rate is not None else None,
        "txids": list(line.txids),
    }


def report_totals(totals: Mapping[str | None, tuple[Decimal, int]]) -> dict[str, Any]:
    """The sums of a report by currency: the amount, and satoshi."""
    return {
        "btc": signed_btc_text(sum(amount_sat for _, amount_sat in totals.values())),
        "currencies": [
            {"currency": currency, "amount": _worth(amount, currency), "btc": signed_btc_text(amount_sat)}
            for currency, (amount, amount_sat) in sorted(totals.items(), key=lambda item: item[0] or "~")
        ],
    }


def _worth(amount: Decimal | None, currency: str | None) -> str | None:
    return None if amount is None or currency is None else signed_fiat_text(amount, currency)


def event(row: Row) -> dict[str, Any]:
    """An event as it was posted, with its id and its place in the feed."""
    return {"id": row["id"], "cursor": str(row["feed_position"]), **json.loads(row["body"])}


def timeline_line(row: Row, *, to_operator: bool) -> dict[str, Any]:
    """A line of a timeline; a project's key is not told why no connection was made."""
    detail = row["detail"]
    if row["kind"] == "confirmation_failed":
        answered = detail["response"]
        detail = detail | {"response": answered | endpoint_answer(answered, to_operator=to_operator)}
        if not to_operator:
            detail["response"].pop("outcome", None)
    return {
        "id": str(row["id"]),
        "at": time_text(row["happened_at"]),
        "kind": row["kind"],
        "text": sentence(row["kind"], detail),
        "detail": detail,
    }


def anomaly(row: Row, tip_height: int) -> dict[str, Any]:
    """An exception, and what was decided about it."""
    txid, anchor_height, payment_state = row["txid"][::-1].hex(), row["anchor_height"], row["payment_state"]
    return {
        "id": f"{txid}:{row['vout']}",
        "state": row["state"],
        "type": row["type"],
        "projectId": row["project_id"],
        "invoiceId": row["invoice_id"],
        "address": row["address"],
        "descriptorIndex": row["index"],
        "txid": txid,
        "vout": row["vout"],
        "btc": btc_text(row["amount_sat"]),
        "confirmations": 0 if anchor_height is None else tip_height - anchor_height + 1,
        "firstSeenAt": time_text(row["first_seen_at"]),
        "paymentState": "confirmed" if payment_state == TxState.ANCHORED else payment_state,
        "test": row["test"],
        "currency": row["currency"],
        "rate": f"{row['rate'].normalize():f}" if row["rate"] else None,
        "paidAmount": _worth_when_received(row),
        "resolution": row["resolution"],
        "reason": row["reason"],
        "resolvedAt": time_text(row["resolved_at"]) if row["resolved_at"] else None,
        "resolvedBy": row["actor"],
    }


def _worth_when_received(row: Row) -> str | None:
    amount_sat, currency, rate = row["amount_sat"], row["currency"], row["rate"]
    if currency == BTC:
        return btc_text(amount_sat)
    return fiat_text(value_at(amount_sat, currency, rate), currency) if currency and rate else None


def action(row: Row) -> dict[str, Any]:
    """A row of the log of actions."""
    return {
        "id": str(row["id"]),
        "at": time_text(row["happened_at"]),
        "actor": row["actor"],
        "action": row["action"],
        "reason": row["reason"],
        "detail": row["detail"],
        "previousHash": row["previous_hash"].hex(),
        "hash": row["hash"].hex(),
    }


def api_key(key: ApiKey) -> dict[str, Any]:
    """What is known of a project's key."""
    return {"id": key.id, "projectId": key.project_id, "createdAt": time_text(key.created_at)}


def webhook_secret(secret: WebhookSecret) -> dict[str, Any]:
    """What is known of a secret that notifications are signed with."""
    return {
        "id": secret.id,
        "projectId": secret.project_id,
        "createdAt": time_text(secret.created_at),
        "expiresAt": time_text(secret.expires_at) if secret.expires_at else None,
    }


def delivery(row: Row, attempts: Sequence[Row], *, to_operator: bool) -> dict[str, Any]:
    """A delivery with its attempts; a project's key is not told why no connection was made."""
    is_pending = row["state"] == "pending"
    return {
        "id": row["id"],
        "eventId": row["event_id"],
        "eventType": row["type"],
        "projectId": row["project_id"],
        "invoiceId": row["invoice_id"],
        "sequence": row["sequence"],
        "endpointId": numbered_id("end", row["endpoint_id"]),
        "url": row["url"],
        "state": row["state"],
        "held": is_pending and row["endpoint_status"] == "disabled",
        "waitingFor": _waiting_for(row, to_operator=to_operator) if is_pending else None,
        "attemptCount": row["attempts"],
        "attempts": [_attempt(attempt, to_operator=to_operator) for attempt in attempts],
        "nextAttemptAt": time_text(row["next_attempt_at"]) if is_pending else None,
        "createdAt": time_text(row["created_at"]),
        "deliveredAt": time_text(row["delivered_at"]) if row["delivered_at"] else None,
        "deadReason": told_dead_reason(row["dead_reason"], to_operator=to_operator),
        "cancelReason": row["cancel_reason"],
        "replayOf": row["replay_of"],
    }


def _waiting_for(row: Row, *, to_operator: bool) -> dict[str, Any]:
    is_disabled = row["endpoint_status"] == "disabled"
    ahead = Ahead(row["ahead_id"], row["ahead_sequence"], row["ahead_overtake_after"]) if row["ahead_id"] else None
    found = waiting(
        Queued(
            row["attempts"], row["next_attempt_at"], row["blocked_until"],
            told_disabled_reason(row["disabled_reason"], to_operator=to_operator) if is_disabled else None, ahead,
        ), row["now"],
    )  # fmt: skip
    return {
        "kind": found.kind,
        "text": found.text,
        "until": time_text(found.until) if found.until else None,
        "deliveryId": found.delivery_id,
    }


def _attempt(row: Row, *, to_operator: bool) -> dict[str, Any]:
    outcome, error = told_failure(row["outcome"], row["error"], to_operator=to_operator)
    head = row["response_head"]
    return {
        "id": str(row["id"]),
        "number": row["number"],
        "startedAt": time_text(row["started_at"]),
        "durationMs": row["duration_ms"],
        "outcome": outcome,
        "status": row["http_status"],
        "error": error,
        "body": head.decode(errors="replace") if head is not None else None,
        "late": row["late"],
    }


def replay(planned: Plan, *, dry_run: bool) -> dict[str, Any]:
    """What is, or would be, sent again."""
    sent = planned.sent
    return {
        "dryRun": dry_run,
        "queued": len(sent),
        "held": sum(latest.is_endpoint_disabled for latest in sent),
        "inFlight": len(planned.ids(Replay.UNDER_WAY)),
        "types": dict(sorted(Counter(latest.event_type for latest in sent).items())),
        "first": _told(sent[0]) if sent else None,
        "last": _told(sent[-1]) if sent else None,
    }


def _told(latest: Latest) -> dict[str, Any]:
    return {"id": latest.event_id, "type": latest.event_type, "cursor": str(latest.position)}


def endpoint_answer(response: Mapping[str, Any], *, to_operator: bool) -> dict[str, Any]:
    """What a notification URL answered to a click, as the asker may see it."""
    _, error = told_failure(response.get("outcome", ""), response["error"], to_operator=to_operator)
    return {name: response[name] for name in ("status", "durationMs", "body")} | {"error": error}


def endpoint(row: Row, *, to_operator: bool) -> dict[str, Any]:
    """An endpoint."""
    return {
        "id": numbered_id("end", row["id"]),
        "projectId": row["project_id"],
        "url": row["url"],
        "default": row["is_default"],
        "status": row["status"],
        "disabledReason": told_disabled_reason(row["disabled_reason"], to_operator=to_operator),
        "failingSince": time_text(row["failing_since"]) if row["failing_since"] else None,
        "pausedUntil": time_text(row["paused_until"]) if row["paused_until"] else None,
        "consecutiveFailures": row["consecutive_failures"],
        "maxInFlight": row["max_in_flight"],
        "waiting": row["waiting"],
        "held": row["status"] == "disabled" and row["waiting"] > 0,
    }
