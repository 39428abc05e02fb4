"""The space of words in which tokens of both vocabularies get their vectors: given, aligned, or built from text."""

from __future__ import annotations

from dataclasses import dataclass

from ..resources.word_vectors import WordVectors, read_word_vectors
from .base import FitContext, MethodConfig, Resources

SPACE_NEEDS = (frozenset({"word_vectors"}),)
"""The ``needs`` of a method that uses :func:`shared_space`."""


@dataclass(frozen=True)
class SpaceConfig(MethodConfig):
    """Options of the space that OFA and HyperOFA share."""


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Words of the source and of the target side in one system of coordinates.

    Attributes:
        source: Words that source tokens get their vectors from.
        target: Words that target tokens get their vectors from; the same object where one space serves both.
    """

    source: WordVectors
    target: WordVectors


def check_space(resources: Resources, config: SpaceConfig) -> None:
    """Raise before any work if the space cannot be had from what was given."""


def shared_space(context: FitContext, config: SpaceConfig) -> SharedSpace:
    """Return the space that the resources give."""
    space = read_word_vectors(context.resources.word_vectors)
    return SharedSpace(space, space)
