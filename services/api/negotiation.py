"""Which of several media types a client likes best (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from fastapi import Request

from services.api.problems import NotAcceptableError


def preferred(request: Request, offers: list[str]) -> str:
    """The offer that the Accept header ranks highest, the first among equals. Raises
    NotAcceptableError."""
    accepted: dict[str, float] = {}
    for part in request.headers.get("accept", "*/*").split(","):
        if part.strip():
            kind, quality = _range(part)
            accepted[kind] = max(quality, accepted.get(kind, 0.0))
    offer = max(offers, key=lambda offer: _quality(offer, accepted))  # the first of equals
    if _quality(offer, accepted) <= 0:
        raise NotAcceptableError(
            "Accept",
            f"{request.headers.get('accept', '')[:200]!r} is not to be had",
            f"Ask for {', '.join(offers)}",
        )
    return offer


def _range(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, min(1.0, max(0.0, float(value)))
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _quality(offer: str, accepted: dict[str, float]) -> float:
    """How much an offer is wanted: by its own media type before type/* before */*."""
    group = offer.split("/", maxsplit=1)[0] + "/*"
    return next((accepted[kind] for kind in (offer, group, "*/*") if kind in accepted), 0.0)
