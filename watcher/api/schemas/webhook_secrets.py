"""What is asked and answered about the secrets that notifications are signed with."""

from typing import Annotated

from pydantic import Field

from watcher.api.schemas.base import ID, Listing, Model, Number, ProjectId, Text, Time
from watcher.api.schemas.requests import Why

GRACE_SECONDS = 86_400
GRACE_SECONDS_MAX = 30 * 86_400


class NewWebhookSecret(Model):
    """How the secret before goes on."""

    grace_seconds: Annotated[Number, Field(ge=0, le=GRACE_SECONDS_MAX)] = Field(
        GRACE_SECONDS,
        description="How long notifications are signed with the one before as well, so that receivers can change over. "
        "0: it ends at once, as it should when somebody else may know it.",
    )
    reason: Why | None = None


class Revocation(Model):
    """Why a secret is revoked."""

    reason: Why | None = None


class WebhookSecret(Model):
    """What is known of a secret that notifications are signed with; never the secret itself."""

    id: Annotated[Text, Field(pattern=f"^sec_{ID}$")]
    project_id: ProjectId
    created_at: Time
    expires_at: Time | None = Field(description="From when on nothing is signed with it; null: the current one.")


class CreatedWebhookSecret(WebhookSecret):
    """A new secret. It is shown this once; a replay by Idempotency-Key leaves it out."""

    webhook_secret: Text = Field(default_factory=str, json_schema_extra={"examples": ["whsec_…"]})


class WebhookSecretList(Listing[WebhookSecret]):
    """Those that notifications are signed with now, the current one first: five at the most, so on one page."""
