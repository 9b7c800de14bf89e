"""Train the micro text encoder: a small BERT whose CLS vector says how strongly a sentence
expresses each emotion and which of the two moments it points at. Its WordPiece vocabulary is
learned from the same sentences.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

from taemi_lib.data.synthmimic import world
from taemi_lib.micro.optimise import fit

MAX_TOKENS = 128
VOCABULARY = 450
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentences(seed: int, count: int, pool: str = "encoder") -> tuple[list[str], np.ndarray]:
    """`count` sentences of `pool` and (count, 7): six emotion strengths and the cue (-1 the first
    event, +1 the second)."""
    rng = np.random.default_rng([seed, 6])
    drawn = [world.draw_words(rng, pool) for _ in range(count)]
    meaning = np.array(
        [[*words["text"], 2 * words["cue"] - 1] for words in drawn], dtype=np.float32
    )
    return [" ".join(words["words"]) for words in drawn], meaning


class MeaningModel(torch.nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=vocabulary,
                hidden_size=128,
                num_hidden_layers=3,
                num_attention_heads=4,
                intermediate_size=256,
                max_position_embeddings=MAX_TOKENS,
                hidden_dropout_prob=0.1,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.read = torch.nn.Linear(128, 7)  # used in training only

    def forward(self, **tokens: torch.Tensor) -> torch.Tensor:
        return self.read(self.bert(**tokens).last_hidden_state[:, 0])


def _tokenizer(corpus: list[str]) -> BertTokenizerFast:
    """The library numbers the pieces "##a" as it meets them, in another order each time, and its
    merges follow these numbers: they are given beforehand, and the tokenizer is built anew from the
    vocabulary, in which they are pieces like others.
    """
    letters = string.ascii_lowercase  # any English word can be spelled, if not understood
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(
        [*corpus, " ".join(letters)],
        vocab_size=VOCABULARY,
        min_frequency=1,
        show_progress=False,
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in letters)],
    )
    trained = BertWordPieceTokenizer(learner.get_vocab(), lowercase=True)
    return BertTokenizerFast(
        tokenizer_object=trained._tokenizer, do_lower_case=True, model_max_length=MAX_TOKENS
    )


def _stumble(text: str, rng: np.random.Generator) -> str:
    """Now and then a word is lost or doubled, as speech recognition does."""
    words = text.split()
    if rng.random() < 0.1:
        place = int(rng.integers(len(words)))
        words = (
            words[:place] + words[place + 1 :]
            if rng.random() < 0.5
            else words[:place] + words[place - 1 :]
        )
    return " ".join(words)


def train(
    folder: Path,
    sentence_count: int = 40_000,
    steps: int = 1500,
    batch: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> list[float]:
    """Train from nothing and write `folder`. Returns the loss history."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    corpus, meaning = sentences(seed, sentence_count)
    tokenizer = _tokenizer(corpus)
    model = MeaningModel(len(tokenizer))

    def loss(step: int) -> torch.Tensor:
        chosen = rng.integers(len(corpus), size=batch)
        tokens = tokenizer(
            [_stumble(corpus[i], rng) for i in chosen], padding=True, return_tensors="pt"
        )
        return (model(**tokens) - torch.from_numpy(meaning[chosen])).pow(2).mean()

    history = fit(model, steps, 1e-3, loss, progress, "text")
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return history
