"""The four encoders of a profile, loaded together: what turns one clip into features."""

from __future__ import annotations

from dataclasses import dataclass

from taemi_lib import profiles
from taemi_lib.features import face
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.sources import identity
from taemi_lib.features.speech import SpeechToText
from taemi_lib.features.text import TextEncoder
from taemi_lib.features.vision import VisionEncoder


@dataclass(frozen=True)
class Encoders:
    """The four encoders, loaded, and what names them in a store."""

    audio: AudioEncoder
    vision: VisionEncoder
    speech: SpeechToText | None  # None: the table's words are used
    text: TextEncoder
    identity: dict[str, str]
    settings: profiles.Encoders


def load_encoders(settings: profiles.Encoders, device: str = "cpu") -> Encoders:
    """Load the profile's encoders. Raises EncoderError naming the one that is missing and how to
    get it."""
    if settings.face != "none":
        face.check()
    return Encoders(
        AudioEncoder(settings.audio, device, settings.audio_seconds),
        VisionEncoder(settings.vision, device, settings.vision_pooling),
        _speech(settings, device) if settings.transcripts != "table" else None,
        TextEncoder(settings.text, device, settings.text_pooling, settings.max_tokens),
        identity(settings),
        settings,
    )


def _speech(settings: profiles.Encoders, device: str) -> SpeechToText:
    return SpeechToText(settings.speech, device, settings.language, settings.no_speech)
