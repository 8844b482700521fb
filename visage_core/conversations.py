"""Conversations: the messages that come before a request, read from a column of a prompt set."""

from __future__ import annotations

from dataclasses import dataclass

from visage_core.errors import InputError

COLUMNS = ("messages", "conversation", "conversations")
# The names of a message's fields: as in OpenAI's API, and as in ShareGPT.
LAYOUTS = (("role", "content"), ("from", "value"))
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class ConversationError(InputError):
    """A conversation that cannot be sent to a model."""


@dataclass(frozen=True)
class Message:
    """What one side says. `role` is system, user or assistant."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def read_conversation(value: object, row: str) -> Conversation:
    """The messages of a conversation: a system message or none, then user and assistant in turns, the user
    last. `row` names the row for errors. Raises ConversationError."""
    if not isinstance(value, list) or not value:
        raise _error(f"{row} holds no conversation", "Give a list of messages with role and content")
    found = tuple(_message(one, f"message {number} of {row}") for number, one in enumerate(value, start=1))
    start = int(found[0].role == "system")
    for number, message in enumerate(found[start:]):
        if message.role != ("user", "assistant")[number % 2]:
            raise _error(
                f"message {number + start + 1} of {row} is out of turn: {message.role}",
                "Give a system message or none, and then user and assistant in turns",
            )
    if found[-1].role != "user":
        raise _error(f"{row} ends with a message of the {found[-1].role}", "End it with one of the user")
    return found


def _message(value: object, where: str) -> Message:
    fields = value if isinstance(value, dict) else {}
    layouts = ((fields.get(role), fields.get(content)) for role, content in LAYOUTS if role in fields)
    role, content = next(layouts, (None, None))
    if not isinstance(role, str) or role not in ROLES:
        raise _error(f"{where} has no role of {', '.join(ROLES)}", "Give each message a role and content")
    if not isinstance(content, str):
        raise _error(f"{where} has content that is no text", "Give text alone: no images, no lists of parts")
    if not content.strip():
        raise _error(f"{where} is empty", "Give it a text, or leave it out")
    return Message(ROLES[role], content)


def _error(problem: str, remedy: str) -> ConversationError:
    return ConversationError("prompts.source", problem, remedy)
