"""Where an element is: a lazy, strict description that both back ends understand."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

Text = str | re.Pattern[str]
"""A text to look for: a string (normalised white space) or a regular expression."""

Step = Mapping[str, Any]
T = TypeVar("T")

_KINDS = (
    "css",
    "xpath",
    "role",
    "label",
    "text",
    "testid",
    "placeholder",
    "title",
    "alt",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The steps from the page, through frames, to elements."""

    frames: tuple[tuple[Step, ...], ...] = ()
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> "Target":
        """Return the target that takes one more step."""
        return replace(self, steps=(*self.steps, step))

    def inside(self) -> "Target":
        """Return the document inside the frame that this target is."""
        return Target(frames=(*self.frames, self.steps))

    def __str__(self) -> str:
        parts = [
            ".".join(_show(step) for step in frame) + ".frame" for frame in self.frames
        ]
        parts += [_show(step) for step in self.steps]
        return ".".join(parts)


def _show(step: Step) -> str:
    kind = step["kind"]
    if kind == "nth":
        return f"nth({step['value']})"
    words = [f"{kind}={_show_text(step['value'])}"] if kind != "filter" else []
    words += [
        f"{key}={_show_text(step[key])}"
        for key in ("name", "exact", "has_text", "visible")
        if step.get(key) not in (None, False)
    ]
    return f"{'filter' if kind == 'filter' else 'get'}({', '.join(words)})"


def _show_text(value: object) -> str:
    if isinstance(value, Mapping):
        return f"re.compile({value['re']!r})"
    return repr(value)


def to_page(value: object) -> object:
    """Return a value as the page's script takes it: patterns as source and flags."""
    if isinstance(value, re.Pattern):
        flags = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s"}
        return {
            "re": value.pattern,
            "flags": "".join(
                word for flag, word in flags.items() if value.flags & flag
            ),
        }
    if isinstance(value, Mapping):
        return {key: to_page(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_page(inner) for inner in value]
    return value


class Finds(ABC, Generic[T]):
    """Whatever elements can be looked for in: a page, a frame, another element."""

    _target: Target

    @abstractmethod
    def _made(self, target: Target) -> T:
        """Return the locator of a target."""

    def get(
        self,
        *,
        role: str | None = None,
        name: Text | None = None,
        label: Text | None = None,
        text: Text | None = None,
        testid: str | None = None,
        css: str | None = None,
        xpath: str | None = None,
        placeholder: Text | None = None,
        title: Text | None = None,
        alt: Text | None = None,
        exact: bool = False,
        has_text: Text | None = None,
        visible: bool | None = None,
        nth: int | None = None,
    ) -> T:
        """Return a lazy locator; nothing is looked up before a verb is used.

        Give exactly one of role, label, text, testid, css, xpath, placeholder, title
        or alt. A verb that needs one element fails if several match.

        Args:
            role: Of ARIA, given or implied by the tag.
            name: With `role`: the accessible name: label, aria-label, content.
            label: Of a form field.
            text: Of the innermost element that has it.
            testid: The whole test id.
            css: A selector.
            xpath: An expression.
            placeholder: Of an input.
            title: The title attribute.
            alt: Of an image.
            exact: Match texts as a whole and with their case, not as parts.
            has_text: Only elements that contain this text.
            visible: Only visible (or only hidden) elements.
            nth: The one at this place, from 0; negative from the end.
        """
        given = {
            "css": css,
            "xpath": xpath,
            "role": role,
            "label": label,
            "text": text,
            "testid": testid,
            "placeholder": placeholder,
            "title": title,
            "alt": alt,
        }
        kinds = [kind for kind, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise TypeError(
                f"get() takes exactly one of {', '.join(_KINDS)}; got "
                f"{', '.join(kinds) or 'none'}"
            )
        kind = kinds[0]
        if name is not None and kind != "role":
            raise TypeError(f"get(name=...) goes with role=, not with {kind}=")
        target = self._target.then(
            {
                "kind": kind,
                "value": to_page(given[kind]),
                "name": to_page(name),
                "exact": exact,
            }
        )
        if has_text is not None or visible is not None:
            target = target.then(
                {"kind": "filter", "has_text": to_page(has_text), "visible": visible}
            )
        if nth is not None:
            target = target.then({"kind": "nth", "value": nth})
        return self._made(target)


class Narrows(Finds[T]):
    """What a locator can be narrowed by, without looking anything up."""

    def nth(self, index: int) -> T:
        """Return the locator of the element at a place, from 0; negative from the end."""
        return self._made(self._target.then({"kind": "nth", "value": index}))

    @property
    def first(self) -> T:
        """The first of the elements."""
        return self.nth(0)

    @property
    def last(self) -> T:
        """The last of the elements."""
        return self.nth(-1)

    def filter(self, *, has_text: Text | None = None, visible: bool | None = None) -> T:
        """Return a locator of only those that contain a text, or are visible."""
        return self._made(
            self._target.then(
                {"kind": "filter", "has_text": to_page(has_text), "visible": visible}
            )
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target}>"
