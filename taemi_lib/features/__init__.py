"""From files to features: encoders (`audio`, `vision`, `speech`, `text`), the pipeline `extract`
and the `store`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from taemi_lib import profiles
from taemi_lib.errors import ChoiceError
from taemi_lib.features.sequences import ClipFeatures, Sequence
from taemi_lib.features.store import Store

if TYPE_CHECKING:
    from taemi_lib.features.audio import AudioEncoder
    from taemi_lib.features.speech import SpeechToText
    from taemi_lib.features.text import TextEncoder
    from taemi_lib.features.vision import VisionEncoder

TRANSCRIPTS = ("whisper", "manifest")


@dataclass(frozen=True)
class Encoders:
    """The four encoders, loaded, and what names them in a store."""

    audio: AudioEncoder
    vision: VisionEncoder
    speech: SpeechToText
    text: TextEncoder
    identity: dict[str, str]
    settings: profiles.Encoders


def load_encoders(settings: profiles.Encoders, device: str = "cpu") -> Encoders:
    """Load the profile's encoders. Raises EncoderError naming the one that cannot be had and how to
    get it."""
    # Imported here: reading a store, as training does, needs none of them.
    from taemi_lib.features.audio import AudioEncoder
    from taemi_lib.features.speech import SpeechToText
    from taemi_lib.features.text import TextEncoder
    from taemi_lib.features.vision import VisionEncoder

    audio = AudioEncoder(settings.audio, device, settings.audio_seconds)
    vision = VisionEncoder(settings.vision, device, settings.vision_pooling)
    speech = SpeechToText(settings.speech, device)
    text = TextEncoder(settings.text, device, settings.text_pooling, settings.max_tokens)
    found = {
        "audio": audio.identity,
        "vision": vision.identity,
        "speech": speech.identity,
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
    return _described(settings, {**found, "speech": locate_speech(settings.speech).identity})


def _described(settings: profiles.Encoders, found: dict[str, str]) -> dict[str, str]:
    """The encoders with every setting that changes their features."""
    if settings.transcripts not in TRANSCRIPTS:
        raise ChoiceError(
            f"transcripts is {settings.transcripts!r}; the choices are: {', '.join(TRANSCRIPTS)}"
        )
    given = "the manifest's transcripts, else " if settings.transcripts == "manifest" else ""
    return {
        "audio": f"{found['audio']}, {settings.audio_seconds:g} s",
        "vision": f"{found['vision']}, {settings.vision_pooling}, "
        f"{settings.frame_choice} {settings.max_frames} frames",
        "speech": f"{given}{found['speech']}",
        "text": f"{found['text']}, {settings.text_pooling}, {settings.max_tokens} tokens",
    }


__all__ = [
    "ClipFeatures",
    "Encoders",
    "Sequence",
    "Store",
    "identity",
    "load_encoders",
]
