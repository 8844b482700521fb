"""Which of several media types a client likes best (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from fastapi import Request

from services.api.problems import NotAcceptableError


def preferred(request: Request, offers: list[str]) -> str:
    """The offer that the Accept header ranks highest, the first among equals. Raises
    NotAcceptableError."""
    ranges = [_range(part) for part in request.headers.get("accept", "*/*").split(",") if part.strip()]
    ranked = [
        (max((q for kind, q in ranges if kind == best), default=0.0), -number, offer)
        for number, offer in enumerate(offers)
        for best in [_most_specific(offer, [kind for kind, _ in ranges])]
    ]
    quality, _, offer = max(ranked)
    if quality <= 0:
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


def _most_specific(offer: str, kinds: list[str]) -> str | None:
    """The range that decides about an offer: the media type itself before type/* before */*."""
    group = offer.split("/", maxsplit=1)[0] + "/*"
    return next((kind for kind in (offer, group, "*/*") if kind in kinds), None)
