"""Codebooks that suit a random network: diverse codes, residuals that shrink, few near ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kaiwa.synth.shapes import MimiSize

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Codebook:
    """One codebook's vectors `[bins, dimension]`, and the codes of the latents it was fitted to."""

    vectors: Array
    codes: NDArray[np.int64]


def fit_group(seen: Array, count: int, size: MimiSize, rng: np.random.Generator) -> list[Codebook]:
    """`count` residual codebooks for the projected latents `seen`, `[frames, dimension]`.

    The first mixes pairs of latents, so that it covers them as clusters would. Each later one is
    drawn with the covariance of what the ones before left over, at the length that takes most
    away.
    """
    books = []
    residual = seen.copy()
    for index in range(count):
        vectors = _mixtures(seen, size.bins, rng) if index == 0 else _scaled(residual, size, rng)
        codes = nearest(residual, vectors)
        residual -= vectors[codes]
        books.append(Codebook(vectors, codes))
    return books


def nearest(points: Array, vectors: Array) -> NDArray[np.int64]:
    """Index of the nearest vector for each point."""
    half = 0.5 * (vectors**2).sum(axis=1)
    codes: NDArray[np.int64] = (half - points @ vectors.T).argmin(axis=1)
    return codes


def _mixtures(seen: Array, bins: int, rng: np.random.Generator) -> Array:
    """Vectors between two random latents, slightly blurred."""
    one, two = rng.integers(0, len(seen), (2, bins))
    share = rng.uniform(0.5, 1.0, (bins, 1)).astype(np.float32)
    spread = float(seen.std(axis=0).mean())
    blur = rng.standard_normal((bins, seen.shape[1]), dtype=np.float32)
    mixed: Array = share * seen[one] + (1 - share) * seen[two] + np.float32(0.1 * spread) * blur
    return mixed


def _scaled(residual: Array, size: MimiSize, rng: np.random.Generator) -> Array:
    """Random vectors with the covariance of `residual`, one length for all."""
    weights = rng.standard_normal((size.bins, len(residual)), dtype=np.float32)
    vectors = weights @ residual
    # Without a floor, directions that the fitted signal never took would have no codes at all.
    floor = 0.2 * float(np.abs(vectors).mean())
    vectors += np.float32(floor) * rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    length = np.float32((residual @ vectors.T).max(axis=1).mean())
    scaled: Array = vectors * max(length, np.float32(1e-4))
    return scaled


def stored(book: Codebook, rng: np.random.Generator) -> tuple[Array, Array]:
    """`embedding_sum` and `cluster_usage`, as a file holds a codebook: their quotient is it."""
    usage = rng.uniform(0.5, 40.0, len(book.vectors)).astype(np.float32)
    return book.vectors * usage[:, None], usage
