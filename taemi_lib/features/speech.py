"""Sound -> transcript, with openai-whisper's models: a checkpoint, a name such as "large-v3", or
the micro folder.

Whisper's own file reading needs an ffmpeg binary and is not used: samples come from `data.media`.
Decoding is greedy (temperature 0), so that the same sound always gives the same words.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
import whisper
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from whisper.audio import HOP_LENGTH
from whisper.model import ModelDimensions
from whisper.tokenizer import LANGUAGES, get_tokenizer

from taemi_lib.data.media import SAMPLE_RATE, is_silent
from taemi_lib.errors import EncoderError
from taemi_lib.features.foreign import check_whisper
from taemi_lib.features.loading import loading
from taemi_lib.features.sequences import Transcript, Word
from taemi_lib.features.sources import Source, locate_speech, published_name
from taemi_lib.features.word_times import has_words, word_times
from taemi_lib.support import files

_FULL_CONTEXT = 1500  # encoder frames of every published Whisper: 30 s
# sound shorter than 0.25 s holds no word, but makes Whisper invent one
_SHORTEST = SAMPLE_RATE // 4
# The micro vocabulary lacks Whisper's token for "no speech"; there, how likely the words are must
# say it (mean logarithm of the probability per token). In the demo's clips it is above -2.9, in
# hiss, hum and tones below -4.6.
_LEAST_LOGPROB = -3.7


class SpeechToText:
    """One clip's sound to its words.

    source: a whisper .pt file, a published model's name (its file is in whisper's own cache), or a
    folder with config.json and model.safetensors (the micro format). language: Whisper's
    abbreviation, or "auto" (heard anew in each clip). no_speech: a window that Whisper holds for no
    speech with a higher probability gives no words, however sure it is of them (`whisper` itself
    would keep those; hiss gives it certain nonsense); 1 keeps all. A micro folder whose vocabulary
    cannot say so drops words that it finds unlikely instead. Raises EncoderError when the model is
    not there, or does not know the language.
    """

    def __init__(
        self, source: str, device: str = "cpu", language: str = "en", no_speech: float = 0.6
    ):
        place = locate_speech(source)
        self.no_speech, self.least_logprob, self.sample_len = no_speech, -math.inf, None
        with loading(source, "speech"):
            if Path(place.where).is_dir():
                self.model, self.sample_len, vocabulary = _read_micro(Path(place.where))
                self.model.to(device)
                if _no_speech_token(self.model) not in vocabulary and no_speech < 1:
                    self.least_logprob = _LEAST_LOGPROB
            else:
                self.model = load_openai(place, device)
        _check_language(self.model, language, source)
        self.language = None if language == "auto" else language
        self.model.eval()
        self.identity = place.identity

    @torch.inference_mode()
    def transcribe(self, samples: np.ndarray) -> Transcript:
        """samples (N,) float32 at 16 kHz, any length -> the words of all segments; "" where none
        were heard. Words have times where the model is of full size."""
        samples = np.ascontiguousarray(samples, np.float32)
        if is_silent(samples) or samples.size < _SHORTEST:
            return Transcript("", self.language)
        full = self.model.dims.n_audio_ctx == _FULL_CONTEXT
        text, language, words = (self._whole if full else self._windows)(samples)
        # what was guessed from sound without words is no language
        return Transcript(text, language if text else self.language, words)

    def _whole(self, samples: np.ndarray) -> tuple[str, str, tuple[Word, ...]]:
        """Text, language and words' times, by whisper's own windows of 30 s."""
        # No text carried over between windows: it may send greedy decoding into a loop.
        result = self.model.transcribe(
            samples,
            language=self.language,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=self.no_speech,
            logprob_threshold=None,  # else words that it is sure of are kept all the same
            fp16=self.model.device.type == "cuda",
        )
        segments = [
            segment
            for segment in result["segments"]
            if has_words(segment["text"])
            and samples.size - segment["seek"] * HOP_LENGTH >= _SHORTEST  # a tiny last window
        ]
        text = " ".join(segment["text"].strip() for segment in segments)
        language = result["language"]
        return text, language, word_times(self.model, samples, segments, language)

    def _windows(self, samples: np.ndarray) -> tuple[str, str | None, tuple[Word, ...]]:
        """Window by window: `whisper.transcribe` insists on 30 s, a smaller encoder has a shorter
        context. Without times: so small a model's attention does not place words."""
        frames = 2 * self.model.dims.n_audio_ctx  # mel frames per window; the encoder halves them
        width = frames * HOP_LENGTH  # samples per window
        # (n_mels, (N + width) / 160): silence is added before the spectrogram, because zeros in it
        # are not silence
        mel = whisper.log_mel_spectrogram(
            samples, self.model.dims.n_mels, padding=width, device=self.model.device
        )
        language, texts = self.language, []
        for number, start in enumerate(range(0, samples.size, width)):
            part = samples[start : start + width]
            if is_silent(part) or part.size < _SHORTEST:
                continue
            window = whisper.pad_or_trim(mel[:, number * frames : (number + 1) * frames], frames)
            options = whisper.DecodingOptions(
                language=language,
                without_timestamps=True,
                fp16=False,
                temperature=0.0,
                sample_len=self.sample_len,
            )
            heard = whisper.decode(self.model, window, options)
            if heard.no_speech_prob > self.no_speech or heard.avg_logprob < self.least_logprob:
                continue
            if has_words(heard.text):
                texts.append(heard.text.strip())
                language = heard.language  # one clip, one language: that of its first words
        return " ".join(texts), language, ()


def _check_language(model: whisper.Whisper, language: str, source: str) -> None:
    """Whisper itself would go on in English without a word, or stop at the first clip."""
    setting = f"encoders.language = {language!r}"
    if language != "en" and not model.is_multilingual:
        raise EncoderError(
            f"{setting}: the speech encoder {source!r} knows English only. Use en, or multilingual "
            "weights (a Whisper whose name does not end in .en): --set encoders.speech=large-v3"
        )
    known = list(LANGUAGES)[: model.num_languages]
    if language not in ("auto", *known):
        raise EncoderError(
            f"{setting}: the speech encoder {source!r} does not know this language; "
            f"it knows auto, {', '.join(known)}"
        )


def _no_speech_token(model: whisper.Whisper) -> int:
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    return tokenizer.no_speech


def load_openai(place: Source, device: str = "cpu") -> whisper.Whisper:
    """A whisper .pt file. Raises ValueError for one whose sizes are not those of its weights, which
    would take the memory that they claim."""
    # only looked at: the numbers stay on the disk
    mapped = zipfile.is_zipfile(place.where) or None
    held = torch.load(place.where, "cpu", weights_only=True, mmap=mapped)
    shapes = {name: tuple(value.shape) for name, value in held["model_state_dict"].items()}
    check_whisper(held["dims"], shapes)
    model = whisper.load_model(place.where, device=device)  # with weights_only=True, too
    # By its name, whisper would do this itself; but it would also download what it does not find.
    if name := published_name(place):
        model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
    return model


def load_micro(folder: Path) -> tuple[whisper.Whisper, int | None]:
    """A Whisper from the compact folder format, and the number of tokens it may say per window.

    The vocabulary has 51,864 tokens, of which a small world uses a few hundred; all other rows of
    the embedding are one row. `token_embedding.rows` (K, D) at `token_embedding.ids` (K,),
    `token_embedding.other` (D,) everywhere else. Raises EncoderError naming what is missing.
    """
    model, sample_len, _ = _read_micro(folder)
    return model, sample_len


def _read_micro(folder: Path) -> tuple[whisper.Whisper, int | None, frozenset[int]]:
    """`load_micro`, and the ids of the tokens that have a row of their own."""
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.exists():
            raise EncoderError(f"speech encoder folder {folder.name!r} has no {file.name}")
    config = files.read_json(config_file)
    names = [field.name for field in fields(ModelDimensions)]
    if absent := [name for name in names if name not in config]:
        raise EncoderError(
            f"speech encoder folder {folder.name!r}: config.json lacks {', '.join(absent)}"
        )
    dims = ModelDimensions(**{name: config[name] for name in names})
    tensors = load_file(weights_file)
    check_whisper(asdict(dims), {name: tuple(value.shape) for name, value in tensors.items()})
    state = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith("token_embedding.")
    }
    words = _WordTable(dims.n_vocab, tensors)
    state["decoder.token_embedding.weight"] = words.weight
    model = whisper.Whisper(replace(dims, n_vocab=len(words.weight)))
    model.load_state_dict(state)  # strict: a fresh Whisper is uninitialised memory
    model.dims, model.decoder.token_embedding = dims, words
    model.decoder.register_forward_hook(words.spread)
    return model, config.get("sample_len"), frozenset(tensors["token_embedding.ids"].tolist())


class _WordTable(nn.Module):
    """The embedding of a micro vocabulary: `n_vocab` tokens, most of which share one row.

    Whisper multiplies the whole table with every token that it hears; of 51,864 rows that would
    take more time than all the rest of a demo clip's transcript. So the table stays small, and
    `spread` gives the logits of all tokens.
    """

    row: Tensor  # (n_vocab,): which row is a token's

    def __init__(self, n_vocab: int, tensors: dict[str, Tensor]):
        super().__init__()
        rows, other = tensors["token_embedding.rows"], tensors["token_embedding.other"]
        self.weight = nn.Parameter(torch.cat([rows, other[None]]).float())  # (K + 1, D)
        row = torch.full((n_vocab,), len(rows))
        row[tensors["token_embedding.ids"].long()] = torch.arange(len(rows))
        self.register_buffer("row", row, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., T) token ids -> (..., T, D)."""
        return functional.embedding(self.row[tokens], self.weight)

    def spread(self, decoder: nn.Module, inputs: tuple, logits: Tensor) -> Tensor:
        """A hook of the decoder: logits of rows (..., K + 1) -> of tokens (..., n_vocab)."""
        return logits.index_select(-1, self.row)
