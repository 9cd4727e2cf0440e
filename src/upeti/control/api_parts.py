"""What the parts of the control API share: who may ask, who signs, how a wrong word is answered."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from upeti.control.rights import Document, checked_document
from upeti.control.store import Store, StoreError
from upeti.core.config import Config
from upeti.core.errors import ConfigError

_bearer = HTTPBearer(auto_error=False, description="The token in `{data_dir}/run/admin-token`.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
Authorize = Callable[[HTTPAuthorizationCredentials | None], None]


class Keeper(Protocol):
    """What most parts need of the keeper."""

    store: Store

    @property
    def config(self) -> Config: ...

    def refresh(self) -> None: ...


class Signed(BaseModel):
    """Who decides, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(description="Who decides: a person's name.")
    why: str = Field(description="Why; it is journaled and shown.")


@contextmanager
def refusals() -> Iterator[None]:
    """A wrong word is 422, a thing that is not there 404."""
    try:
        yield
    except ConfigError as error:
        raise HTTPException(422, str(error)) from None
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def document_in(name: str, text: str) -> Document:
    """Return a document that came as base64. Raises ``ConfigError``."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ConfigError(f"{name} is not base64; send the document's bytes so encoded") from None
    return checked_document(name, data)


def shown(value: Any) -> dict[str, Any]:
    """Return a struct as JSON shows it."""
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found
