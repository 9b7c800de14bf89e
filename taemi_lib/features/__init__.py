"""From files to features: encoders (`audio`, `vision`, `speech`, `text`), the pipeline `extract`
and the `store`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from taemi_lib import profiles
from taemi_lib.errors import EncoderError
from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.features.store import Store

if TYPE_CHECKING:
    from taemi_lib.features.audio import AudioEncoder
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
    # Imported here: reading a store, as training does, needs none of them.
    from taemi_lib.features.audio import AudioEncoder
    from taemi_lib.features.speech import SpeechToText
    from taemi_lib.features.text import TextEncoder
    from taemi_lib.features.vision import VisionEncoder

    audio = AudioEncoder(settings.audio, device, settings.audio_seconds)
    vision = VisionEncoder(settings.vision, device, settings.vision_pooling)
    speech = SpeechToText(settings.speech, device) if settings.transcripts != "table" else None
    text = TextEncoder(settings.text, device, settings.text_pooling, settings.max_tokens)
    found = {
        "audio": audio.identity,
        "vision": vision.identity,
        "speech": speech.identity if speech else "",
        "text": text.identity,
    }
    return Encoders(audio, vision, speech, text, _described(settings, found), settings)


def identity(settings: profiles.Encoders) -> dict[str, str]:
    """What names the profile's encoders in a store, without loading them. Raises EncoderError."""
    from taemi_lib.features.sources import locate
    from taemi_lib.features.speech import locate_speech

    found = {
        role: locate(getattr(settings, role), role).identity for role in ("audio", "vision", "text")
    }
    speech = locate_speech(settings.speech).identity if settings.transcripts != "table" else ""
    return _described(settings, {**found, "speech": speech})


def missing(settings: profiles.Encoders) -> list[str]:
    """One line for each encoder that is not on this machine: its setting, its name, how to get it.
    Downloads nothing."""
    from taemi_lib.features.sources import locate
    from taemi_lib.features.speech import locate_speech

    wanted = {role: partial(locate, role=role) for role in ("audio", "vision", "text")}
    if settings.transcripts != "table":
        wanted["speech"] = locate_speech
    lines = []
    for role, look in wanted.items():
        try:
            look(getattr(settings, role), download=False)
        except EncoderError as error:
            lines.append(str(error))
    return lines


def _described(settings: profiles.Encoders, found: dict[str, str]) -> dict[str, str]:
    """The encoders with every setting that changes their features."""
    speech = {
        "whisper": found["speech"],
        "auto": f"the table's words, else {found['speech']}",
        "table": "the table's words",
    }
    return {
        "audio": f"{found['audio']}, {settings.audio_seconds:g} s",
        "vision": f"{found['vision']}, {settings.vision_pooling}, "
        f"{settings.frame_choice} {settings.max_frames} frames",
        "speech": speech[settings.transcripts],
        "text": f"{found['text']}, {settings.text_pooling}, {settings.max_tokens} tokens",
    }


__all__ = [
    "ClipFeatures",
    "Encoders",
    "Sequence",
    "Store",
    "identity",
    "load_encoders",
    "missing",
]
