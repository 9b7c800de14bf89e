"""Noise in the words, before the text encoder reads them: a transcript in, another out.

A word is what stands between spaces and has a letter or a digit. Each has a number of its own,
drawn from 0..1, and is hit where the strength is above it: a strength is the share of words hit on
average, more or fewer in a short transcript, and what it hits is hit at every greater one, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np

from taemi_lib.data.noise.strengths import checked
from taemi_lib.errors import ChoiceError

_TOKEN = re.compile(r"\s*\S+")
_WORD = re.compile(r"[^\W_](?:\S*[^\W_])?")  # of a token, from its first letter to its last


def words_of(transcript: str) -> list[str]:
    """The words of a transcript, without the marks around them."""
    found = (_WORD.search(token) for token in _TOKEN.findall(transcript))
    return [word[0] for word in found if word is not None]


def substituted(
    transcript: str, strength: float, rng: np.random.Generator, vocabulary: Collection[str]
) -> str:
    """Words misheard: other ones of the vocabulary in their place; strength: the share of words.

    Any word of the vocabulary is as likely as any other, but never the one that was said, in
    whatever case. Punctuation stays where it is, and a capital letter at the start stays one.
    Raises ChoiceError for a bad strength, and when the vocabulary has no other word.
    """
    share = checked("substituted", strength)
    said, known = _TOKEN.findall(transcript), sorted(set(vocabulary))
    fates, draws = rng.random((2, len(said)))
    for index in np.flatnonzero(fates < share):
        if (found := _WORD.search(said[index])) is None:
            continue
        word = found[0]
        others = [other for other in known if other.casefold() != word.casefold()]
        if not others:
            raise ChoiceError(f"substituted: the vocabulary has no other word than {word!r}")
        other = others[int(draws[index] * len(others))]
        other = other[:1].upper() + other[1:] if word[0].isupper() else other
        said[index] = said[index][: found.start()] + other + said[index][found.end() :]
    return "".join(said) + transcript[len(transcript.rstrip()) :]


def deleted(transcript: str, strength: float, rng: np.random.Generator) -> str:
    """Words not heard; strength: the share of words. Each takes its punctuation along, also marks
    that stand alone behind it; "" where no word is left."""
    share = checked("deleted", strength)
    said = _TOKEN.findall(transcript)
    is_word = [_WORD.search(token) is not None for token in said]
    if not any(is_word):
        return transcript
    lost = rng.random(sum(is_word)) < share
    belongs_to = (np.cumsum(is_word) - 1).clip(0)  # marks before the first word are its own
    kept = [token for token, word in zip(said, belongs_to) if not lost[word]]
    return "".join(kept).lstrip() if lost.any() else transcript
