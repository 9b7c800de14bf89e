"""SynthMimic: clips with planted truth. In order: `world` decides, `voice` and `face` act, `render`
films, `dataset` fills a folder.

The voice is espeak-ng's (GPL-3, through the pip package espeakng-loader, at generation time only).
Everything is synthetic and is said to be so wherever it is shown: drawn faces, a closed grammar of
a hundred words, labels that follow a formula.
"""

from taemi_lib.data.synthmimic.dataset import SETTINGS, generate, read, regime_table, truth
from taemi_lib.data.synthmimic.world import REGIMES

__all__ = ["REGIMES", "SETTINGS", "generate", "read", "regime_table", "truth"]
