"""When each word was said: openai-whisper's own alignment of its text with its attention.

`whisper.transcribe(word_timestamps=True)` does the same while it transcribes, but then moves its
window by the words' times and so may hear another text. Here the text is final before the words
are placed: asking for times can never change what was heard.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import numpy as np
import whisper
from whisper.audio import N_FRAMES, N_SAMPLES
from whisper.timing import add_word_timestamps
from whisper.tokenizer import get_tokenizer

from taemi_lib.features.sequences import Word
from taemi_lib.support import device as devices


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit of any script: "..." and musical notes say nothing."""
    return any(character.isalnum() for character in text)


def word_times(
    model: whisper.Whisper, samples: np.ndarray, segments: list[dict], language: str
) -> tuple[Word, ...]:
    """The words of `segments`, as `whisper.transcribe` gave them for these samples (N,), in s.

    One more pass of the encoder and one of the decoder for every 30 s window that holds words.
    """
    tokenizer = get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=language
    )
    mel = whisper.log_mel_spectrogram(samples, model.dims.n_mels, padding=N_SAMPLES)
    mel = mel.to(model.device)  # (n_mels, frames of the sound + N_FRAMES)
    words: list[Word] = []
    spoken_until = 0.0
    for start, window in groupby(segments, key=itemgetter("seek")):
        said = [dict(segment) for segment in window]
        frames = min(N_FRAMES, mel.shape[-1] - N_FRAMES - start)  # of the sound, without padding
        # numba, which aligns, gives the process all cores at its first call, torch's threads too:
        # several encoding processes would be in each other's way from then on
        with devices.threads(None):
            add_word_timestamps(
                segments=said,
                model=model,
                tokenizer=tokenizer,
                mel=whisper.pad_or_trim(mel[:, start : start + frames], N_FRAMES),
                num_frames=frames,
                last_speech_timestamp=spoken_until,
            )
        spoken_until = said[-1]["end"]
        words += [
            Word(word["word"].strip(), float(word["start"]), float(word["end"]))
            for segment in said
            for word in segment["words"]
            if has_words(word["word"])
        ]
    return tuple(words)
