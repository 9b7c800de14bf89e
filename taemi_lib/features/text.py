"""Transcript -> token sequence and one vector (docs/paper.md, "text"): at most 128 tokens, CLS or
masked mean."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from taemi_lib.data.media import Unreadable
from taemi_lib.features.loading import check_complete, loading
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import locate


class TextEncoder:
    """One clip's transcript to its tokens and their summary.

    source: folder or hub id of a BERT-like model with its tokenizer. pooling: "cls" (GTE) or "mean"
    (MiniLM), as the model was trained. Raises EncoderError when the model is not there, ValueError
    for another pooling.
    """

    def __init__(
        self, source: str, device: str = "cpu", pooling: str = "cls", max_tokens: int = 128
    ):
        if pooling not in ("cls", "mean"):
            raise ValueError(f"text pooling is {pooling!r}, expected 'cls' or 'mean'")
        self.device, self.pooling, self.max_tokens = torch.device(device), pooling, max_tokens
        place = locate(source, "text")
        with loading(source, "text"):
            self.tokenizer = AutoTokenizer.from_pretrained(place.where, revision=place.revision)
            self.model, info = AutoModel.from_pretrained(
                place.where, revision=place.revision, dtype=torch.float32, output_loading_info=True
            )
            check_complete(info, source, "text", optional=("pooler.",))  # the pooler is not used
        self.model.to(self.device).eval()
        self.dim = self.model.config.hidden_size
        self.identity = place.identity

    @torch.inference_mode()
    def encode(self, transcript: str) -> tuple[Sequence, np.ndarray]:
        """Tokens (T, D) float32 with their index as time, special tokens included, and the pooled
        vector (D,) float32.

        Raises Unreadable for an empty transcript: there is nothing to encode.
        """
        if not transcript.strip():
            raise Unreadable("empty transcript")
        tokens = self.tokenizer(
            transcript,
            max_length=self.max_tokens,
            truncation=True,
            padding=False,
            return_tensors="pt",
        ).to(self.device)
        hidden = self.model(**tokens).last_hidden_state[0]  # (T, D)
        # One text at a time, so every token is valid and the plain mean is the masked mean.
        pooled = hidden[0] if self.pooling == "cls" else hidden.mean(dim=0)
        values = hidden.cpu().numpy()
        return Sequence(values, np.arange(len(values), dtype=np.float32)), pooled.cpu().numpy()
