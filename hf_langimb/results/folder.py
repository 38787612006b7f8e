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

PAGE, STORES, FIGURES = "report.html", "attributions", "figures"
EVALUATED = "model", 0  # setup and seed of an evaluation
OWN_FOLDERS = (START, STORES, FIGURES)  # names that no setup can have
CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
PREDICTIONS, PROBE, TRAINING = "predictions.parquet", "probe.json", "training.json"  # in the folder of a trained model


@dataclass(frozen=True)
class RunFolder:
    """The places of everything in a run folder."""

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
        return self.path / STORES / f"{setup}-seed-{seed}"

    def claim(self, config: Mapping[str, Any], free: Collection[str] = ()) -> None:
        """Make the folder, or continue the run that it contains, and record the configuration.

        Args:
            config: everything that the results depend on.
            free: keys that may differ from those of the run that is continued.

        Raises:
            ValueError: the folder contains other files, or a run with another configuration (names what differs).
        """
        config = json.loads(json.dumps(config, default=str))  # as it is read back
        if problem := self._conflict(config, free):
            raise ValueError(f"{self.path} {problem}: choose another --output_dir, or empty the folder.")
        write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=True, allow_unicode=True))

    def _conflict(self, config: Mapping[str, Any], free: Collection[str]) -> str | None:
        """Why the folder cannot take a run of this configuration."""
        path = self.path / CONFIG
        if self.path.exists() and not self.path.is_dir():
            return "is not a folder"
        others = [file for file in self.path.iterdir() if file != path] if self.path.is_dir() else []
        if not path.is_file():
            return f"contains files but no run (no {CONFIG})" if others else None
        try:
            before = {**yaml.safe_load(path.read_text(encoding="utf-8"))}
        except (yaml.YAMLError, TypeError, UnicodeDecodeError):
            return f"contains a run whose {CONFIG} is damaged"
        keys = [key for key in sorted({*before, *config} - {*free}) if before.get(key) != config.get(key)]
        changed = "; ".join(f"{key} was {before.get(key)!r:.60}, is {config.get(key)!r:.60}" for key in keys[:4])
        changed += f"; and {len(keys) - 4} more" if len(keys) > 4 else ""
        if changed and others:  # more was done than to record a configuration
            return f"contains a run with another configuration ({changed})"
        return None
