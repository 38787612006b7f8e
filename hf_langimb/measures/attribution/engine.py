"""Forward passes for many examples at once: each asks for coalitions, which fill batches of one length."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_langimb.measures.attribution.examples import SPECIAL, Attribution, Example, Floats
from hf_langimb.measures.attribution.methods import Method
from hf_langimb.models.inputs import class_logits, logits_of, token_types_of

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 65536  # of a forward pass

Ids = NDArray[np.int64]
Inputs = tuple[Ids, Ids | None]  # token ids and token types of one sequence
Masker = Callable[[Example, Sequence[int]], list[Inputs]]


def id_masker(mask_id: int) -> Masker:
    """Masks token ids: the length and the special tokens stay."""

    def mask(example: Example, coalitions: Sequence[int]) -> list[Inputs]:
        """Inputs of one length."""
        width = (len(example) + 7) // 8
        raw = b"".join(bits.to_bytes(width, "little") for bits in coalitions)
        written = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(-1, width), 1, len(example), "little")
        kept = written.astype(bool) | (example.segments == SPECIAL)
        return [(row, example.types) for row in np.where(kept, example.ids, mask_id)]

    return mask


def string_masker(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> Masker:
    """Masks the text and tokenizes it again, as shap's default does; single texts only.

    Of a longer text than `max_length` tokens, what the model reads is masked.
    """
    from shap.maskers import Text

    masker = Text(tokenizer)

    def mask(example: Example, coalitions: Sequence[int]) -> list[Inputs]:
        """Inputs of different lengths."""
        text = texts[example.index][: max(example.ends) if example.truncated else None]
        written = [np.array([bool(bits >> i & 1) for i in range(len(example))]) for bits in coalitions]
        masked = tokenizer([masker(row, text)[0][0] for row in written], truncation=True, max_length=max_length)
        types = map(np.array, masked["token_type_ids"]) if "token_type_ids" in masked else [None] * len(written)
        return list(zip(map(np.array, masked["input_ids"]), types, strict=True))

    return mask


class Forward:
    """Probabilities of a sequence classifier for sequences of one length, in batches of a number of tokens.

    The model is used as it is, or copied if its type is not `dtype`; the batch is halved when memory runs out.
    """

    def __init__(self, model: Any, dtype: str = "float32", batch_tokens: int | None = None) -> None:
        wanted = getattr(torch, dtype)
        kinds = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
        self.model = model if kinds == {wanted} else copy.deepcopy(model).to(wanted)
        self.device = next(model.parameters()).device
        self.batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if self.device.type == "cpu" else GPU_BATCH_TOKENS)
        self.name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        self.types = token_types_of(model)
        self.several = model.config.problem_type == "multi_label_classification"

    def __call__(self, ids: Ids, types: Ids | None) -> Floats:
        """float64[n, C] of n sequences of one length."""
        can_split = (torch.OutOfMemoryError, ValueError) if len(ids) > 1 else ()
        try:
            inputs = {"input_ids": torch.from_numpy(ids).to(self.device)}
            if types is not None and types.max() < self.types:
                inputs["token_type_ids"] = torch.from_numpy(types).to(self.device)
            with torch.inference_mode():
                logits = logits_of(self.model(**inputs)).double()
                by_class = self.several and logits.shape[-1] > 1
                found = torch.sigmoid(logits) if by_class else torch.softmax(class_logits(logits), dim=-1)
                return np.asarray(found.cpu().numpy())
        except can_split as error:  # ValueError: BART takes no batch of rows with different numbers of </s>
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
                self.batch_tokens = max(self.batch_tokens // 2, ids.shape[1])
        half = len(ids) // 2
        parts = (slice(None, half), slice(half, None))
        return np.concatenate([self(ids[part], None if types is None else types[part]) for part in parts])


@dataclass
class _Explained:
    """An example in flight: what it asked for and what is known of it."""

    example: Example
    generator: Method
    asked: list[int] = field(default_factory=list)
    known: dict[int, Floats] = field(default_factory=dict)  # probabilities by coalition
    missing: int = 0  # coalitions that it asked for and that are not known yet


def explain(
    examples: Sequence[Example], generators: Iterable[Method], mask: Masker, forward: Forward
) -> Iterator[tuple[Example, Attribution]]:
    """Run the generators of many examples together; yields each example with its result when it is done.

    As many examples are in flight as it takes to fill a batch; neighbors of one length fill it best. Coalitions that
    differ only in special tokens are one; sequences that several examples share (the fully masked one) are evaluated
    once. The order, and so every digit, depends on the examples alone. Generators are made when their turn comes.

    Raises:
        ValueError: the model gives a probability that is not finite.
    """
    queues: dict[int, dict[bytes, tuple[Inputs, list[tuple[_Explained, int]]]]] = defaultdict(dict)  # by length
    shared: dict[bytes, Floats] = {}  # probabilities of sequences that other examples may have

    def advance(state: _Explained) -> Iterator[tuple[Example, Attribution]]:
        """Send an example its answers and queue what it asks next until that is not known; yields it when done."""
        try:
            while not state.missing:
                answer: Any = np.stack([state.known[bits] for bits in state.asked]) if state.asked else None
                state.asked = [bits & state.example.content for bits in state.generator.send(answer)]
                new = [bits for bits in dict.fromkeys(state.asked) if bits not in state.known]
                for bits, inputs in zip(new, mask(state.example, new) if new else (), strict=True):
                    key = b"".join(part.tobytes() for part in inputs if part is not None)
                    if bits == 0 and key in shared:
                        state.known[bits] = shared[key]
                    else:
                        queues[len(inputs[0])].setdefault(key, (inputs, []))[1].append((state, bits))
                        state.missing += 1
        except StopIteration as stop:
            yield state.example, replace(stop.value, forwards=len(state.known))

    starting = zip(examples, generators, strict=True)
    while True:
        tokens, length = max(((length * len(queue), length) for length, queue in queues.items()), default=(0, 0))
        if tokens < forward.batch_tokens and (started := next(starting, None)):
            yield from advance(_Explained(*started))
            continue
        if not queues:
            return
        queue, size = queues[length], max(forward.batch_tokens // length, 1)
        batch = {key: queue.pop(key) for key in list(islice(queue, size))}
        if not queue:
            del queues[length]
        ids, types = zip(*(inputs for inputs, _ in batch.values()), strict=True)
        found = forward(np.stack(ids), None if types[0] is None else np.stack(types))
        if not np.isfinite(found).all():
            advice = "check its weights and its type (bfloat16, float16)"
            raise ValueError(f"The model {forward.name} returns probabilities that are not finite: {advice}.")
        ready = []
        for (key, (_, waiting)), row in zip(batch.items(), found, strict=True):
            for state, bits in waiting:
                state.known[bits] = row
                state.missing -= 1
                if bits == 0:
                    shared[key] = row
                if not state.missing:
                    ready.append(state)
        for state in ready:
            yield from advance(state)
