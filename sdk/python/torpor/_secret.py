"""Secrets that this portion's manifest declares."""

from __future__ import annotations

from torpor._errors import NotInGuest, UnknownSecret

_values: dict[str, str] | None = None


def secret(name: str) -> str:
    """The value of a secret that this portion's manifest declares (Torpor's docs/secrets.md).

    It comes with the execution's input, so there is none while the task's code is being imported: ask in the handler. Raises
    :class:`UnknownSecret`, which is a :class:`KeyError`, for one that is not declared.
    """
    if _values is None:
        raise NotInGuest("there are no secrets here: they come with an execution's input, so ask in the handler")
    try:
        return _values[name]
    except KeyError:
        raise UnknownSecret(f"secret {name!r} is not declared; add it to `secrets` in the [policy] of this portion") from None


def _give(secrets) -> None:
    """What came with ``Start``; none: this is not an execution."""
    global _values
    _values = None if secrets is None else {each["name"]: each["value"] for each in secrets}
