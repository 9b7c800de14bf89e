"""Token ids in somebody else's file -> token sequences, by the profile's text encoder, where the
ids are of its vocabulary."""

from __future__ import annotations

import numpy as np
import torch

from taemi_lib.features.text import TextEncoder


class TokenIds:
    """A loaded `TextEncoder` that encodes ids which somebody else's file holds.

    Ids of another vocabulary are numbers like any others: they would be encoded to nonsense without
    an error. So they are compared with what the encoder's own tokenizer makes of the words.
    """

    def __init__(self, encoder: TextEncoder):
        self._text = encoder
        self.identity, self.dim = encoder.identity, encoder.dim
        self.vocabulary = encoder.model.get_input_embeddings().num_embeddings

    def fits(self, ids: np.ndarray, transcript: str | None) -> str | None:
        """Why these ids (T,) are not of this vocabulary, or None.

        Without words only the range, and the first and last token, can be compared.
        """
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            return f"id {ids.max()}, and the encoder has {self.vocabulary:,}"
        tokenizer = self._text.tokenizer
        words = transcript if transcript and transcript.strip() else "a"
        own = tokenizer(words, max_length=len(ids), truncation=True)["input_ids"]
        if words == transcript:
            if list(own) != ids.tolist():
                return f"{words[:40]!r} has the ids {ids[:6].tolist()}, here {list(own)[:6]}"
        elif (own[0], own[-1]) != (ids[0], ids[-1]):
            return f"a text begins and ends with {ids[0]} and {ids[-1]}, here {own[0]}, {own[-1]}"
        return None

    @torch.inference_mode()
    def encode(self, ids: np.ndarray) -> np.ndarray:
        """(T, D) float32 of ids (T,)."""
        given = torch.as_tensor(ids, dtype=torch.long, device=self._text.device)[None]
        hidden = self._text.model(input_ids=given).last_hidden_state[0]
        return hidden.float().cpu().numpy()
