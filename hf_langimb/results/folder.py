"""What a run folder looks like, and whether a run may be continued in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_langimb import files
from hf_langimb.console import on_main
from hf_langimb.files import AGAIN, MODEL, RECORD, read_json
from hf_langimb.models.loading import START

logger = logging.getLogger(__name__)

PAGE, STORES, FIGURES = "report.html", "attributions", "figures"
EVALUATED = "model", 0  # setup and seed of an evaluation
OWN_FOLDERS = (START, STORES, FIGURES)  # names that no setup can have
CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
PREDICTIONS, PROBE, TRAINING = "predictions.parquet", "probe.json", "training.json"  # in the folder of a trained model
TIME = "time.json"  # of the training, which differs between two runs of the same numbers
VALIDATION = "validation.parquet"  # predictions that the recommendation is chosen on
BEGUN = ("processes", "total_batch")  # of the trainings: in config.yaml, kept where a run is continued
SETTINGS, DEFINITIONS = "setup_settings", "setup_definitions"  # in config.yaml, the second as the YAML file has them
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class RunFolder:
    """The places of everything in a run folder."""

    path: Path

    @property
    def start(self) -> Path:
        """The model that all setups start from, where the run pretrains one."""
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

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work in the folder, which the main process locks; errors of the disk name the file.

        Raises:
            ValueError: the folder contains other files, or another process is working in it.
            OSError: the disk is full or damaged.
        """
        advice = "wait until it ends, or choose another --output_dir"

        def lock() -> None:
            """Nothing is written to a folder that is not a run's."""
            self.refuse_foreign()
            held.enter_context(files.locked(self.path, advice))

        with files.names_the_file(self.path), ExitStack() as held:
            on_main(lock)
            yield

    def claim(self, config: Mapping[str, Any], free: Collection[str] = ()) -> dict[str, Any]:
        """Begin a run in the folder, or continue the one that it contains, and record the configuration.

        What killed processes left is removed. The finished steps of a run by a version without records are recorded.

        Args:
            config: everything that the results depend on, and `BEGUN`.
            free: keys that may differ from those of the run that is continued.

        Returns:
            The recorded configuration, with `BEGUN` of the run that is continued.

        Raises:
            ValueError: the folder contains other files, or a run with another configuration (names what differs).
        """
        config = dict(json.loads(json.dumps(config, default=str)))  # as it is read back
        self._refuse(self._foreign() or self._conflict(config, {*free, *BEGUN}))
        files.remove_parts(self.path)
        path = self.path / CONFIG
        if self._others() not in ([], [path]):  # more was done than to record a configuration
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            if BEGUN[0] not in before:
                self._record_all()
            config |= {key: before[key] for key in BEGUN if key in before}
            if SETTINGS in config:  # also of setups that are left out now, whose models are kept
                config[SETTINGS] = before.get(SETTINGS, {}) | config[SETTINGS]
        files.write_text(path, yaml.safe_dump(config, sort_keys=True, allow_unicode=True))
        return config

    def refuse_foreign(self) -> None:
        """Raise ValueError if the folder contains files, but no run."""
        self._refuse(self._foreign())

    def _refuse(self, problem: str | None) -> None:
        """Raise ValueError if the folder has a problem."""
        if problem:
            raise ValueError(f"{self.path} {problem}: choose another --output_dir, or empty the folder.")

    def _others(self) -> list[Path]:
        """What is in the folder, without the lock and what killed processes left."""
        return [path for path in self.path.iterdir() if not files.is_own_part(path)] if self.path.is_dir() else []

    def _foreign(self) -> str | None:
        """Why the folder is not a run's."""
        if not next(place for place in (self.path, *self.path.absolute().parents) if place.exists()).is_dir():
            return "is not a folder, or lies in a file"
        if self._others() and not (self.path / CONFIG).is_file():
            return f"contains files but no run (no {CONFIG})"
        return None

    def _conflict(self, config: Mapping[str, Any], free: Collection[str]) -> str | None:
        """Why the run in the folder cannot be continued with this configuration."""
        path, others = self.path / CONFIG, self._others()
        try:
            before = {**yaml.safe_load(path.read_text(encoding="utf-8"))} if others else {}
        except (yaml.YAMLError, TypeError, UnicodeDecodeError):
            return f"contains a run whose {CONFIG} is damaged"
        keys = {*before, *config} - {*free, SETTINGS, *([DEFINITIONS] if SETTINGS in before else [])}
        pairs = {key: (before.get(key), config.get(key)) for key in sorted(keys)}
        old, now = (of.get(SETTINGS, {}) for of in (before, config))  # none in a run of an earlier version
        pairs |= {f"the setup {name}": (old[name], now[name]) for name in sorted(old.keys() & now.keys())}
        differing = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        changed = [f"{key} was {_shown(*pair)}, is {_shown(*pair[::-1])}" for key, pair in differing.items()]
        if changed and others not in ([], [path]):
            more = [f"and {len(changed) - 4} more"] if len(changed) > 4 else []
            return f"contains a run with another configuration ({'; '.join(changed[:4] + more)})"
        return None

    def _record_all(self) -> None:
        """Record the finished steps of a run that an earlier version began, which did not."""
        trained = [path.parent for path in self.path.glob(f"*/seed-*/{TRAINING}")]
        models = [*trained, self.model(*EVALUATED), self.start]
        for place in (path for path in models if path.is_dir() and not (path / RECORD).exists()):
            files.record(place, MODEL, model_files(place))
            for step in (PREDICTIONS, PROBE):
                if (place / step).is_file():
                    files.record(place, step, [step])
        for state in self.path.glob("*/seed-*/checkpoint-*/trainer_state.json"):  # written last
            with suppress(ValueError):
                read_json(state, AGAIN)
                files.record(state.parent, MODEL, model_files(state.parent))
        logger.warning("%s was started by an earlier version: its finished steps are kept and now recorded.", self.path)


def _shown(value: Any, other: Any) -> str:
    """A value in a message, without the entries and the beginning that it shares with another one."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: of for key, of in value.items() if key not in other or other[key] != of}
        other = {key: of for key, of in other.items() if key in value}
    text, pairs = repr(value), enumerate(zip(repr(value), repr(other), strict=False))
    first = max(next((i for i, (one, two) in pairs if one != two), 0) - SHOWN // 2, 0) if len(text) > SHOWN else 0
    return "..." * (first > 0) + text[first : first + SHOWN] + "..." * (len(text) > first + SHOWN)


def model_files(place: Path) -> list[str]:
    """Names of the files in the folder of a trained model that later steps read, and of its facts."""
    names = [path.name for path in place.iterdir() if path.is_file() and not files.is_own_part(path)]
    return [name for name in names if name not in (PROBE, RECORD, TIME, "README.md") and not name.endswith(".parquet")]
