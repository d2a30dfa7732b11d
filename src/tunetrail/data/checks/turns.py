"""Turns of a conversation: whether they come in an order that a chat template can follow. Changes nothing."""

from collections.abc import Mapping, Sequence


def disorder(messages: Sequence[Mapping[str, str]]) -> str | None:
    """Return what is out of order in a conversation, or None.

    A system turn comes first or not at all, then the user begins; user and assistant take turns, and tool turns stand
    behind an assistant's or another tool's. (Some models' templates refuse anything else.)
    """
    previous = "system"
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "system":
            if number:
                return f"turn {number + 1} is the system's"
            continue
        allowed = {
            "system": ("user",),
            "user": ("assistant",),
            "assistant": ("user", "tool"),
            "tool": ("assistant", "tool"),
        }[previous]
        if role not in allowed:
            return (
                f"turn {number + 1} is the {role}'s behind the {previous}'s"
                if number
                else f"turn 1 is the {role}'s"
            )
        previous = role
    return None
