"""Erasing language from features: an affine map after which no linear classifier tells languages apart, and controls.

If language causes errors of a model, erasing it from what the last layer reads and fitting this layer again restores
more accuracy than fitting it again alone, and more than erasing as many random directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_langimb.measures.refit import Head

Floats = NDArray[np.float64]
INSTALL = (
    "Erasing language needs the package concept-erasure: in a clone, pip install -c constraints.txt -e '.[erasure]'."
)


class Eraser(NamedTuple):
    """features - (features - mean) @ projection; the rank of the projection is that of what is erased."""

    projection: Floats  # [H, H]
    mean: Floats  # [H]

    def apply(self, features: Any) -> Floats:
        """Features without what is erased, float64[N, H]."""
        table = np.asarray(features, dtype=np.float64)
        return np.asarray(table - (table - self.mean) @ self.projection)

    def before(self, head: Head) -> Head:
        """The layer that gives for features what `head` gives for erased ones."""
        weight = head.weight - head.weight @ self.projection.T
        return Head(weight, head.bias + self.mean @ self.projection @ head.weight.T, head.C)


def language_eraser(features: Any, languages: Any, *, centered: bool = True) -> Eraser:
    """LEACE (Belrose et al. 2023): the smallest change of features after which all languages have the same mean.

    Fit it on rows whose labels do not depend on language; otherwise it also erases information about the labels.

    Args:
        features: [N, H].
        languages: positions of the rows' languages, int[N].
        centered: whether the mean of the features stays; else the map is linear.

    Raises:
        ValueError: the library is not installed, or more languages than features.
    """
    table, known = np.asarray(features, dtype=np.float64), np.unique(languages)
    check_rank(len(known) - 1, table.shape[1])
    try:
        from concept_erasure import LeaceEraser
    except ImportError:
        raise ValueError(INSTALL) from None
    import torch

    indicators = torch.from_numpy((np.asarray(languages)[:, None] == known).astype(np.float64))
    options: Any = {"affine": centered, "svd_tol": 1e-6, "constrain_cov_trace": False}
    fitted = LeaceEraser.fit(torch.from_numpy(table), indicators, **options)
    mean = table.mean(axis=0) if centered else np.zeros(table.shape[1])
    return Eraser((fitted.proj_left @ fitted.proj_right).T.numpy(), mean)


def random_eraser(features: Any, rank: int, *, centered: bool = True, seed: int = 0) -> Eraser:
    """A control that erases random directions of standardized features, as many as `rank`.

    Raises:
        ValueError: as many directions as features or more.
    """
    table = np.asarray(features, dtype=np.float64)
    check_rank(rank, table.shape[1])
    scale = table.std(axis=0)
    scale[scale == 0] = 1.0
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(table.shape[1], rank)))[0]
    projection = directions @ directions.T / scale[:, None] * scale
    return Eraser(projection, table.mean(axis=0) if centered else np.zeros(table.shape[1]))


def check_rank(rank: int, features: int) -> None:
    """Refuse to erase as many directions as there are features or more.

    Raises:
        ValueError: names both numbers.
    """
    if rank >= features:
        raise ValueError(
            f"Erasing {rank + 1} languages removes {rank} directions, which must be fewer than the {features} "
            "features: use rows of fewer languages, or a model with more features."
        )
