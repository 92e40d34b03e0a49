"""What is asked and answered about the keys by which a project asks."""

from typing import Annotated

from pydantic import Field

from watcher.api.schemas.base import ID, Listing, Model, ProjectId, Text, Time
from watcher.api.schemas.requests import Why


class KeyChange(Model):
    """Why a key is made or revoked."""

    reason: Why | None = None


class ApiKey(Model):
    """What is known of a key; never the key itself."""

    id: Annotated[Text, Field(pattern=f"^key_{ID}$")]
    project_id: ProjectId
    created_at: Time


class CreatedApiKey(ApiKey):
    """A new key. It is shown this once; a replay by Idempotency-Key leaves it out."""

    api_key: Text = Field(default_factory=str, json_schema_extra={"examples": ["pw_project_…"]})


class ApiKeyList(Listing[ApiKey]):
    """A project's keys that can be used, the oldest first, on one page."""
