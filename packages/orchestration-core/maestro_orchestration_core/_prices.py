"""What models cost. The core ships no prices: they rot. An unknown price is not 0."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Protocol, final

from ._budget import usd_to_micro
from ._messages import Usage
from .errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens, and per call."""

    input: Decimal | str | float = 0
    output: Decimal | str | float = 0
    cached: Decimal | str | float | None = None
    """For input tokens from the provider's cache; None: the input price."""
    call: Decimal | str | float = 0

    def cost_micro(self, usage: Usage) -> int:
        """Return micro-dollars for a call, rounded up."""
        fresh = usage.input_tokens - usage.cached_tokens
        cached = self.input if self.cached is None else self.cached
        # Dollars per million tokens are micro-dollars per token.
        micro = (
            Decimal(str(self.input)) * fresh
            + Decimal(str(cached)) * usage.cached_tokens
            + Decimal(str(self.output)) * usage.output_tokens
        )
        whole = int(micro.to_integral_value(ROUND_CEILING))
        return whole + usd_to_micro(self.call) * usage.calls


class Prices(Protocol):
    """Where prices come from."""

    def price(self, model: str) -> Price | None:
        """Return the price of a model, None when unknown."""


@final
class PriceTable:
    """Prices by model name, from code or from a file."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

    @classmethod
    def load(cls, path: str | Path) -> "PriceTable":
        """Read a TOML file: one table per model with input, output, cached, call."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls({name: Price(**row) for name, row in data.items()})
        except (ValueError, TypeError, OSError) as error:
            raise SettingsError(
                f"not a price table: {error}", source=str(path)
            ) from error

    @classmethod
    def from_litellm(cls, path: str | Path) -> "PriceTable":
        """Read the JSON price file that LiteLLM publishes (dollars per token)."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise SettingsError(
                f"not a price file: {error}", source=str(path)
            ) from error
        return cls({k: _litellm(v) for k, v in data.items() if _priced(v)})

    def price(self, model: str) -> Price | None:
        """Return the price of a model, None when unknown."""
        return self._prices.get(model)


def _priced(row: Any) -> bool:
    return isinstance(row, dict) and row.get("input_cost_per_token") is not None


def _litellm(row: Mapping[str, Any]) -> Price:
    def million(key: str) -> Decimal:
        return Decimal(str(row.get(key) or 0)) * 1_000_000

    cached = row.get("cache_read_input_token_cost")
    return Price(
        input=million("input_cost_per_token"),
        output=million("output_cost_per_token"),
        cached=million("cache_read_input_token_cost") if cached is not None else None,
    )
