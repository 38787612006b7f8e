"""Forward passes for many examples at once: each requests coalitions, which fill batches of one length."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hf_langimb.measures.attribution.examples import Example, mask_ids

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 65536  # of a forward pass

Inputs = tuple[np.ndarray, np.ndarray | None]  # token ids and token types of one sequence
Masker = Callable[[Example, Sequence[int]], list[Inputs]]


def id_masker(mask_id: int) -> Masker:
    """Masks token ids: the length stays, special tokens stay."""

    def mask(example: Example, coalitions: Sequence[int]) -> list[Inputs]:
        return [(row, example.types) for row in mask_ids(example, coalitions, mask_id)]

    return mask


def string_masker(tokenizer: Any, texts: Sequence[str], max_length: int | None = None, first: int = 0) -> Masker:
    """Masks the text and tokenizes it again, as shap's default does; single texts only.

    Args:
        tokenizer: of the model.
        texts: of the examples.
        max_length: in tokens; of a longer text, only the part that the model reads is masked.
        first: the index of the first text's example.
    """
    from shap.maskers import Text

    masker = Text(tokenizer)

    def mask(example: Example, coalitions: Sequence[int]) -> list[Inputs]:
        text = texts[example.index - first]
        if example.truncated:
            text = text[: max(example.ends)]
        written = [[bool(bits >> i & 1) for i in range(len(example))] for bits in coalitions]
        masked = tokenizer(
            [masker(np.array(row), text)[0][0] for row in written], truncation=True, max_length=max_length
        )
        types = masked.get("token_type_ids") or [None] * len(written)
        return [
            (np.array(ids), None if kinds is None else np.array(kinds))
            for ids, kinds in zip(masked["input_ids"], types, strict=True)
        ]

    return mask


class Forward:
    """Probabilities of a sequence classifier for sequences of one length, in batches of a number of tokens.

    Args:
        model: any `AutoModelForSequenceClassification`; copied if its type is not `dtype`.
        dtype: float32, float64 or bfloat16.
        batch_tokens: of a forward pass; None depends on the device. Halved if memory runs out.
    """

    def __init__(self, model: Any, dtype: str = "float32", batch_tokens: int | None = None) -> None:
        wanted = getattr(torch, dtype)
        kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        self.model = model if kinds == {wanted} else copy.deepcopy(model).to(wanted)
        self.device = next(model.parameters()).device
        self.batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)
        config = model.config
        single = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        self.activation = torch.sigmoid if single else (lambda logits: torch.softmax(logits, dim=-1))

    def __call__(self, ids: np.ndarray, types: np.ndarray | None) -> np.ndarray:
        """float64[n, C] of n sequences of one length."""
        try:
            inputs = {"input_ids": torch.from_numpy(ids).to(self.device)}
            if types is not None:
                inputs["token_type_ids"] = torch.from_numpy(types).to(self.device)
            with torch.inference_mode():
                logits = self.model(**inputs).logits.double()
                return self.activation(logits).cpu().numpy()
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
            torch.cuda.empty_cache()
            self.batch_tokens = max(self.batch_tokens // 2, ids.shape[1])
        except ValueError:  # a model that takes no such batch: without padding token, or of unequal numbers of <eos>
            if len(ids) == 1:
                raise
        half = len(ids) // 2
        parts = [
            (ids[:half], types if types is None else types[:half]),
            (ids[half:], types if types is None else types[half:]),
        ]
        return np.concatenate([self(*part) for part in parts])


@dataclass
class _Explained:
    """An example in flight: the coalitions that it requested, and the known ones."""

    example: Example
    generator: Generator[list[int], np.ndarray, dict[str, Any]]
    asked: list[int] = field(default_factory=list)
    known: dict[int, np.ndarray] = field(default_factory=dict)  # probabilities by coalition
    missing: int = 0


def explain(
    examples: Sequence[Example],
    generators: Iterable[Generator[list[int], np.ndarray, dict[str, Any]]],
    mask: Masker,
    forward: Forward,
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Run the generators of many examples together; yields each example with its result when it is done.

    The number of examples in flight is what fills a batch. Coalitions that differ only in special tokens are evaluated
    once, and so are sequences that several examples share (the fully masked one). The order depends on the examples
    only, so that results are reproducible.

    Args:
        examples: neighbours of the same length fill batches best.
        generators: one per example, created when it starts.
        mask: gives the sequence of an example's coalition.
        forward: the model.

    Raises:
        ValueError: the model gives a probability that is not finite.
    """
    queues: dict[int, list[Inputs]] = defaultdict(list)  # sequences to evaluate, by length
    waiting: dict[bytes, list[tuple[_Explained, int]]] = {}  # who waits for a sequence
    seen: dict[bytes, np.ndarray] = {}  # probabilities of sequences that examples may share
    done: list[tuple[Example, dict[str, Any]]] = []

    def advance(state: _Explained, answer: np.ndarray | None) -> None:
        """Send an answer and queue the next request; continue while all requested coalitions are known."""
        while True:
            try:
                asked = state.generator.send(answer)  # type: ignore[arg-type]
            except StopIteration as stop:
                done.append((state.example, stop.value | {"forwards": len(state.known)}))
                return
            state.asked = [bits & state.example.content for bits in asked]
            new = [bits for bits in dict.fromkeys(state.asked) if bits not in state.known]
            state.missing = len(new)
            for bits, inputs in zip(new, mask(state.example, new) if new else (), strict=True):
                key = _key(inputs)
                if bits == 0 and key in seen:
                    state.known[bits] = seen[key]
                    state.missing -= 1
                elif key in waiting:
                    waiting[key].append((state, bits))
                else:
                    waiting[key] = [(state, bits)]
                    queues[len(inputs[0])].append(inputs)
            if state.missing:
                return
            answer = _answer(state)

    def longest_queue() -> tuple[int, int]:
        """Number of tokens in the longest queue, and the length of its sequences."""
        return max(((length * len(queue), length) for length, queue in queues.items()), default=(0, 0))

    starting = zip(examples, generators, strict=True)
    while True:
        while longest_queue()[0] < forward.batch_tokens and (started := next(starting, None)):
            advance(_Explained(*started), None)
        yield from done
        done.clear()
        if not queues:
            return
        length = longest_queue()[1]
        size = max(forward.batch_tokens // length, 1)
        batch, rest = queues[length][:size], queues[length][size:]
        if rest:
            queues[length] = rest
        else:
            del queues[length]
        types = None if batch[0][1] is None else np.stack([kinds for _, kinds in batch if kinds is not None])
        found = forward(np.stack([ids for ids, _ in batch]), types)
        ready: list[_Explained] = []
        for inputs, row in zip(batch, found, strict=True):
            key = _key(inputs)
            for state, bits in waiting.pop(key):
                if not np.isfinite(row).all():
                    raise ValueError(
                        "The model returns probabilities that are not finite: check its weights, or its type "
                        "(bfloat16, float16)."
                    )
                state.known[bits] = row
                state.missing -= 1
                if bits == 0:
                    seen[key] = row
                if not state.missing:
                    ready.append(state)
        for state in ready:
            advance(state, _answer(state))


def _key(inputs: Inputs) -> bytes:
    ids, types = inputs
    return ids.tobytes() if types is None else ids.tobytes() + types.tobytes()


def _answer(state: _Explained) -> np.ndarray:
    return np.stack([state.known[bits] for bits in state.asked])
