"""Labels of a source: each as the string by which its class is counted, or the reason why its row is refused."""

from __future__ import annotations

from typing import Any

from augmill.tasks.recipe_sections import Labels


def label_text(value: Any) -> str:
    """A label as the string by which classes are counted: true and false in lower case, integers plainly."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class LabelReader:
    """Maps a source label to its class, or says why its row is refused."""

    def __init__(self, rules: Labels) -> None:
        self.rules = rules
        self.declared = {label_text(value) for value in rules.declared}
        self.retired = {label_text(value) for value in rules.retired}
        self.aliases = {old: label_text(new) for old, new in rules.aliases.items()}
        self.values: dict[str, Any] = {}
        self.coerced = 0

    def read(self, value: Any) -> tuple[str | None, str, str | None]:
        """(class or None, reason why it is refused or "", what the source calls it: None where that is no label)."""
        if value is None or value == "":
            return None, "no_label", None
        if isinstance(value, float):
            if not value.is_integer():  # NaN and infinities too
                return None, "fractional_label", None
            value, self.coerced = int(value), self.coerced + 1
        if not isinstance(value, str | int | bool):
            return None, "label_type", None
        said = name = label_text(value)
        if name in self.aliases:
            name = self.aliases[name]
            value = next((v for v in self.rules.aliases.values() if label_text(v) == name), name)
        if name in self.retired:
            return None, "retired_label", said
        if self.declared and name not in self.declared and self.rules.unknown != "admit":
            return None, "unknown_label", said
        self.values.setdefault(name, value)
        return name, "", said
