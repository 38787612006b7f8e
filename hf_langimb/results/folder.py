"""What a run folder looks like, and whether a run may be continued in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_langimb.files import write_text
from hf_langimb.models.loading import START

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"


@dataclass(frozen=True)
class RunFolder:
    """The places of everything in a run folder.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def start(self) -> Path:
        """The model that all setups start from, where the run pre-trains one."""
        return self.path / START

    @property
    def environment(self) -> Path:
        """Versions, host, times and command."""
        return self.path / ENVIRONMENT

    def model(self, setup: str, seed: int) -> Path:
        """A trained model with its tokenizer, `langimb.json` and predictions."""
        return self.path / setup / f"seed-{seed}"

    def store(self, setup: str, seed: int) -> Path:
        """The attributions of a trained model."""
        return self.path / "attributions" / f"{setup}-seed-{seed}"

    def claim(self, config: Mapping[str, Any], free: Collection[str] = ()) -> None:
        """Make the folder, or continue the run that it contains, and record the configuration.

        Args:
            config: everything that the results depend on.
            free: keys that may differ from those of the run that is continued.

        Raises:
            ValueError: the folder contains other files, or a run with another configuration (names what differs).
        """
        config = json.loads(json.dumps(config, default=str))  # as it is read back
        path = self.path / CONFIG
        others = [file for file in self.path.iterdir() if file != path] if self.path.is_dir() else []
        choose = "choose another --output_dir"
        if path.is_file():
            before = self._recorded()
            keys = sorted({*before, *config} - {*free})
            changed = [key for key in keys if before.get(key) != config.get(key)]
            if changed and others:  # more was done than to record a configuration
                values = "; ".join(
                    f"{key} was {_short(before.get(key))}, is {_short(config.get(key))}" for key in changed
                )
                raise ValueError(
                    f"{self.path} contains a run with another configuration ({values}): {choose}, or remove the folder."
                )
        elif others or self.path.is_file():
            raise ValueError(f"{self.path} contains files but no run (no {CONFIG}): {choose}, or empty it.")
        write_text(path, yaml.safe_dump(config, sort_keys=True, allow_unicode=True))

    def _recorded(self) -> dict[str, Any]:
        """The configuration of the run that the folder contains."""
        try:
            return {**yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))}
        except (yaml.YAMLError, TypeError, UnicodeDecodeError):
            raise ValueError(
                f"{self.path / CONFIG} is damaged: choose another --output_dir, or remove {self.path}."
            ) from None


def _short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
