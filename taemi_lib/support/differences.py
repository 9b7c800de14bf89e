"""What differs between two settings, in words: the one place that says so."""

from __future__ import annotations

from collections.abc import Mapping

_ABSENT = object()


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    """Nested mappings as one: {"training": {"epochs": 2}} -> {"training.epochs": 2}."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        name: leaf
        for key, branch in tree.items()
        for name, leaf in flat(branch, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def changes(there: Mapping, asked: Mapping) -> dict[str, object]:
    """{dotted name: asked value} of what `asked` has otherwise than `there`, in asked's order."""
    before, now = flat(there), flat(asked)
    return {name: value for name, value in now.items() if _other(before.get(name, _ABSENT), value)}


def differences(there: Mapping, asked: Mapping) -> list[str]:
    """One line for each leaf that differs: "training.batch_size is 8 there, 32 now"."""
    before, now = flat(there), flat(asked)
    return [
        f"{name} is {_shown(before.get(name, _ABSENT))} there, {_shown(now.get(name, _ABSENT))} now"
        for name in sorted(before.keys() | now.keys())
        if _other(before.get(name, _ABSENT), now.get(name, _ABSENT))
    ]


def _other(one: object, two: object) -> bool:
    """Lists and tuples of the same values are equal: JSON knows lists only."""
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return list(one) != list(two)
    return one is not two and one != two


def _shown(value: object) -> str:
    return "absent" if value is _ABSENT else repr(value)
