"""Transcript -> token sequence and one vector (docs/paper.md, "text"): at most 128 tokens; the CLS
token, the masked mean or the last token.

Any text model of transformers: encoders (BERT, mGTE), the encoder of an encoder-decoder (T5), and
decoder-only language models. The tokenizer adds what the model was trained with (CLS, end of text,
or nothing); one text goes at a time, so that no padding is needed, nor a token for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from taemi_lib.data.media import Unreadable
from taemi_lib.errors import EncoderError
from taemi_lib.features.loading import HERE_ONLY, check_complete, loading
from taemi_lib.features.sequences import Sequence
from taemi_lib.features.sources import locate
from taemi_lib.features.steady import check_steady
from taemi_lib.features.word_times import has_words

_POOLINGS = ("cls", "mean", "last")


class TextEncoder:
    """One clip's transcript to its tokens and their summary.

    source: folder or hub id of a text model with its tokenizer. pooling, as the model was trained:
    "cls", the first token (GTE); "mean" (MiniLM, T5); "last" (decoder-only models, whose last token
    alone has seen the whole text). Raises EncoderError when the model is not there, has fewer
    positions than max_tokens, answers randomly, or is asked for a first token that sees nothing
    else; ValueError for another pooling.
    """

    def __init__(
        self, source: str, device: str = "cpu", pooling: str = "cls", max_tokens: int = 128
    ):
        if pooling not in _POOLINGS:
            raise ValueError(f"text pooling is {pooling!r}, expected 'cls', 'mean' or 'last'")
        self.device, self.pooling, self.max_tokens = torch.device(device), pooling, max_tokens
        place = locate(source, "text")
        with loading(source, "text", place):
            self.tokenizer = AutoTokenizer.from_pretrained(place.where, **HERE_ONLY)
            self.model, info = AutoModel.from_pretrained(
                place.where, dtype=torch.float32, output_loading_info=True, **HERE_ONLY
            )
            unused: tuple[str, ...] = ("pooler.",)
            # config.is_encoder_decoder is false where only T5's encoder was saved
            if hasattr(self.model, "encoder") and hasattr(self.model, "decoder"):
                self.model, unused = self.model.get_encoder(), ("pooler.", "decoder.")
            check_complete(info, source, "text", optional=unused)
            self.model.to(self.device).eval()
            _check_positions(self.model, max_tokens, source)
            self._causal = self._probe(source)
        if self._causal and pooling == "cls":
            raise EncoderError(
                f"encoders.text_pooling = 'cls': each token of {source!r} sees only those before "
                "it, so its first token is the same for every text; use last or mean: "
                "--set encoders.text_pooling=last"
            )
        self.dim = self.model.config.hidden_size
        self.identity = place.identity

    @torch.inference_mode()
    def encode(self, transcript: str) -> tuple[Sequence, np.ndarray]:
        """Tokens (T, D) float32 with their index as time, special tokens included, and the pooled
        vector (D,) float32.

        Raises Unreadable for an empty transcript, and for one without a letter or digit: there is
        nothing to encode.
        """
        if not transcript.strip():
            raise Unreadable("empty transcript")
        if not has_words(transcript):
            raise Unreadable("no words in the transcript")
        tokens = self.tokenizer(
            transcript,
            max_length=self.max_tokens,
            truncation=True,
            padding=False,
            return_tensors="pt",
        ).to(self.device)
        if not tokens.input_ids.shape[1]:
            raise Unreadable("no word of the transcript is known to the text encoder")
        if self._causal:  # such models have no token types; GPT-2 would add word 0 for each
            tokens.pop("token_type_ids", None)
        hidden = self.model(**tokens).last_hidden_state[0]  # (T, D)
        # One text at a time, so every token is valid: the plain mean is the masked mean, and the
        # last token is the text's last.
        pooled = {"cls": hidden[0], "mean": hidden.mean(dim=0), "last": hidden[-1]}[self.pooling]
        values = hidden.cpu().numpy()
        return Sequence(values, np.arange(len(values), dtype=np.float32)), pooled.cpu().numpy()

    @torch.inference_mode()
    def _probe(self, source: str) -> bool:
        """Whether each token sees only those before it: then another last token changes no other
        one's vector. Raises EncoderError for a model that answers randomly."""
        size = self.model.get_input_embeddings().num_embeddings
        ids = (size // 2 + torch.arange(4, device=self.device)) % size  # ordinary tokens, not CLS
        first, second = (self.model(input_ids=ids[None]).last_hidden_state[0] for _ in range(2))
        check_steady(first, second, source, "text")
        other = torch.cat([ids[:3], (ids[3:] + 1) % size])
        changed = self.model(input_ids=other[None]).last_hidden_state[0]
        return torch.allclose(first[:3], changed[:3], rtol=0, atol=1e-6)


def _check_positions(model: nn.Module, max_tokens: int, source: str) -> None:
    """Beyond its positions a model fails at the first long text, or answers what it never
    learned."""
    positions = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("embeddings.position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count from behind the padding token
            lost = 0 if module.padding_idx is None else module.padding_idx + 1
            positions = module.num_embeddings - lost
    if positions is not None and max_tokens > positions:
        raise EncoderError(
            f"encoders.max_tokens = {max_tokens}: the text encoder {source!r} has {positions} "
            f"positions; use at most so many: --set encoders.max_tokens={positions}"
        )
