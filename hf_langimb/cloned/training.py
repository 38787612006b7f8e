"""Train and measure one model of a setup."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback

from hf_langimb.cloned.alignment import embedding_alignment, gradient_alignment, hidden_alignment
from hf_langimb.cloned.arguments import ClonedArguments, Setup
from hf_langimb.cloned.decoder import make_decoder
from hf_langimb.cloned.downstream import transfer
from hf_langimb.cloned.perplexity import perplexities
from hf_langimb.cloned.results import OF_PAIR
from hf_langimb.cloned.schedule import all_languages
from hf_langimb.cloned.texts import CorpusTexts, MarkovTexts, Texts
from hf_langimb.cloned.vocabulary import FILE, Vocabulary
from hf_langimb.cloned.windows import TrainingWindows, cut
from hf_langimb.console import on_main
from hf_langimb.files import AGAIN, is_done, read_json, record, write_json
from hf_langimb.runs.checkpoints import facts_of, train_into

logger = logging.getLogger(__name__)

MEASURES = "measures.json"  # of a trained model
DEFINITION = "setup.json"  # of its setup, in the YAML
SECOND_TOKENIZER = "tokenizer_1"  # folder in that of a model of a real pair, whose own one is that of language 0
LOGGED_WINDOWS = 200  # of each language, in the log of the training
STATES, LOGGED_STATES = 4096, 512  # tokens whose states are compared; retrieval compares each with all
LOGGED = ("perplexity_", "tokens_", "cosine_")  # by `LanguageLog`


class LanguageLog(TrainerCallback):
    """Logs what a training has reached in each language, every `eval_steps` (default: a tenth of the steps).

    `perplexity_K` and `tokens_K` so far of language K; and, of languages 0 and 1, `cosine_WHAT` with its chance level
    `cosine_WHAT_chance`, where WHAT is `layer_I` (hidden states), `gradient` or `embedding`.

    Args:
        trainer: that logs.
        windows: of the training.
        tests: held-out text of each language, int[M] each, in ids of its tokenizer.
        rows: windows of an optimizer step.
        window, stride: of `perplexity`.
        aligned: whether languages 0 and 1 are clones.
        shown: what the model is called in a line of its own for each log; none if empty.
    """

    def __init__(
        self,
        trainer: Trainer,
        windows: TrainingWindows,
        tests: Sequence[Any],
        *,
        rows: int,
        window: int,
        stride: int,
        aligned: bool,
        shown: str = "",
    ) -> None:
        self.trainer, self.windows, self.rows, self.shown = trainer, windows, rows, shown
        self.options = {"window": window, "stride": stride}
        self.tests = [text[: window + (LOGGED_WINDOWS - 1) * stride] for text in tests]
        self.versions = _versions(self.tests[0], window, LOGGED_STATES) if aligned else None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure and log, at the end too."""
        every = args.eval_steps or 0.1
        every = math.ceil(state.max_steps * every) if every < 1 else int(every)
        if state.global_step % every and state.global_step != state.max_steps:
            return
        vocabulary = self.windows.vocabulary
        found = perplexities(model, vocabulary, self.tests, **self.options)
        logged = {f"perplexity_{k}": value for k, value in enumerate(found)}
        if self.versions is not None:
            parts = alignments_of(model, vocabulary, self.versions)
            parts |= {f"layer_{i}": layer for i, layer in enumerate(parts.pop("hidden"), 1)}
            logged |= {f"cosine_{what}": of["cosine"] for what, of in parts.items()}
            logged |= {f"cosine_{what}_chance": of["cosine_chance"] for what, of in parts.items()}
        read = self.windows.tokens(state.global_step * self.rows)
        logged |= {f"tokens_{k}": float(count) for k, count in enumerate(read)}
        model.train()
        self.trainer.log(logged)
        if self.shown:
            of = ", ".join(f"{value:.2f}" for value in found)
            logger.info("%s: step %d of %d, perplexity %s", self.shown, state.global_step, state.max_steps, of)


def train(
    place: Path, setup: Setup, seed: int, source: MarkovTexts | CorpusTexts, data: ClonedArguments, shown: str = ""
) -> tuple[dict[str, Any], Texts | None]:
    """Train the model of a setup into a folder with its vocabulary; a killed run resumes from its last checkpoint.

    If `shown` is given, the log has lines that begin with it instead of the Trainer's, so that several models can be
    trained at once.

    Returns:
        Facts of the training, and its texts if they were read.
    """
    facts = facts_of(place)
    on_main(lambda: _check_definition(place, setup))
    if facts is not None:
        return facts, None
    state, steps = PartialState(), setup.training.max_steps
    rows, of = setup.rows(state.num_processes), setup.of
    texts = source.of(of, steps * rows, seed)
    languages = all_languages(of.schedule, rows=rows, total_steps=steps, seed=seed, languages=of.languages)
    options: dict[str, Any] = {"padding_id": texts.padding_id, "seed": seed, "parallel": of.relation not in OF_PAIR}
    windows = TrainingWindows(texts.vocabulary, texts.train, languages, **options)
    model = untrained_decoder(texts.vocabulary, data, seed)
    own: dict[str, Any] = {"output_dir": str(place), "seed": seed}
    own |= {"disable_tqdm": True} if shown else {}
    arguments = replace(setup.training, **own)
    on_main(lambda: _check_started(place, texts.vocabulary))
    if state.is_main_process:
        texts.vocabulary.save(place)
        if texts.tokenizer is not None:
            texts.tokenizer.save_pretrained(place)
    trainer = Trainer(model, arguments, train_dataset=windows)
    aligned = _aligned(setup, texts.vocabulary)
    measured: dict[str, Any] = {"window": data.context, "stride": data.stride, "aligned": aligned, "shown": shown}
    if shown:
        trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LanguageLog(trainer, windows, texts.test, rows=rows, **measured))
    return train_into(place, trainer, lambda end: _facts(end, windows, aligned)), texts


def _check_definition(place: Path, setup: Setup) -> None:
    """Record the definition of a setup before its training, or refuse to continue one that was defined otherwise.

    Raises:
        ValueError: names both definitions.
    """
    path, now = place / DEFINITION, dict(setup.definition)
    if not path.is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_json(path, now)
    elif (before := read_json(path, AGAIN)) != now:
        raise ValueError(
            f"{place} has a model of this setup with {before}, but it now has {now}: restore that, or choose another "
            "--output_dir."
        )


def _check_started(place: Path, vocabulary: Vocabulary) -> None:
    """Refuse to continue a training of another vocabulary.

    Raises:
        ValueError: names both.
    """
    found = Vocabulary.load(place) if (place / FILE).is_file() else vocabulary
    if found != vocabulary:
        of = "{} ids in {} language(s), {} of them shared"
        before, now = (of.format(one.model_vocabulary_size, one.languages, one.shared) for one in (found, vocabulary))
        raise ValueError(f"{place} has a model of {before}, the setup has {now}: choose another --output_dir.")


def _facts(state: Any, windows: TrainingWindows, clones: bool) -> dict[str, Any]:
    """Tokens of each language, the share of texts that clones read in several, and what was measured on the way."""
    history = [
        {key: entry[key] for key in sorted(entry) if key == "step" or key.startswith(LOGGED)}
        for entry in state.log_history
        if "perplexity_0" in entry
    ]
    return {
        "tokens": windows.tokens().tolist(),
        "seen_in_several": windows.seen_in_several() if clones else None,
        "history": history,
    }


def measure(
    place: Path, setup: Setup, seed: int, source: MarkovTexts | CorpusTexts, data: ClonedArguments, texts: Texts | None
) -> dict[str, Any]:
    """Perplexity of a trained model in each language, and its alignment; `texts` are read where they are None."""
    path = place / MEASURES
    if not on_main(lambda: _is_measured(place)):
        texts = texts or source.of(setup.of, 1, seed)
        model = load_decoder(place).to(PartialState().device)
        found = measures(model, data, texts, aligned=_aligned(setup, texts.vocabulary), seed=seed)
        if data.downstream_items and setup.of.relation == "clones":  # all processes train it together
            options = {"items": data.downstream_items, "seed": seed, "use_cpu": setup.training.use_cpu}
            found["downstream"] = transfer(place, texts.vocabulary, texts.tokenizer, **options)
        if PartialState().is_main_process:
            write_json(path, found)
            if texts.second_tokenizer is not None:
                texts.second_tokenizer.save_pretrained(place / SECOND_TOKENIZER)
            second = [f"{SECOND_TOKENIZER}/{file.name}" for file in sorted((place / SECOND_TOKENIZER).glob("*"))]
            record(place, MEASURES, [MEASURES, *second])
        PartialState().wait_for_everyone()
    return dict(read_json(path, AGAIN))


def _is_measured(place: Path) -> bool:
    """Whether the measures of a model are there, with the untrained ones that earlier versions did not have."""
    if not is_done(place, MEASURES):
        return False
    found = read_json(place / MEASURES, AGAIN).get("alignment")
    return found is None or "untrained" in found


def measures(model: Any, data: ClonedArguments, texts: Texts, *, aligned: bool, seed: int) -> dict[str, Any]:
    """Perplexity in each language, and how much languages 0 and 1 share, if they are clones.

    The alignment of hidden states is also that of the model before its training (`untrained`): CKA is above its chance
    level in any model of clones.
    """
    options = {"window": data.context, "stride": data.stride}
    found: dict[str, Any] = {"perplexity": perplexities(model, texts.vocabulary, texts.test, **options)}
    if aligned:
        versions = _versions(texts.test[0], data.context, STATES)
        untrained = untrained_decoder(texts.vocabulary, data, seed).to(model.device)
        found["alignment"] = alignments_of(model, texts.vocabulary, versions)
        found["alignment"]["untrained"] = hidden_alignment(untrained, texts.vocabulary, versions)
    return found


def alignments_of(model: Any, vocabulary: Vocabulary, versions: Any) -> dict[str, Any]:
    """How much languages 0 and 1 share in each block, in gradients and in embeddings, each with its chance level."""
    return {
        "hidden": hidden_alignment(model, vocabulary, versions),
        "gradient": gradient_alignment(model, vocabulary, versions),
        "embedding": embedding_alignment(model, vocabulary),
    }


def untrained_decoder(vocabulary: Vocabulary, data: ClonedArguments, seed: int) -> GPT2LMHeadModel:
    """The decoder with which the training of a seed begins."""
    shape = {"layers": data.layers, "width": data.width, "heads": data.heads}
    return make_decoder(vocabulary.model_vocabulary_size, context=data.context, seed=seed, **shape)


def _versions(text: Any, window: int, states: int) -> Any:
    """Windows of held-out text that are compared in both languages, two or more."""
    return cut(text, window)[: max(states // window, 2)]


def load_decoder(place: Path) -> GPT2LMHeadModel:
    """A trained decoder, to measure or to train further."""
    model: Any = GPT2LMHeadModel.from_pretrained(place)
    return model


def _aligned(setup: Setup, vocabulary: Vocabulary) -> bool:
    """Whether languages 0 and 1 are clones, with ids that differ."""
    tables = vocabulary.tables
    return setup.of.relation == "clones" and len(tables) > 1 and bool((tables[0] != tables[1]).any())
