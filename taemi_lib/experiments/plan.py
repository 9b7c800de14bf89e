"""What is compared with what, decided before anything is trained."""

from __future__ import annotations

REFERENCE = "taemi"
PRIMARY = (
    "cue",
    "taemi",
    "constant_query",
)  # the one hypothesis that was chosen beforehand: a family of its own

VARIANT_OF = {  # what a choice of ours costs a rival, and a rival's own control
    "tfn_wide": "tfn",
    "almt2023_first_place": "almt2023",
    "almt2023_learned": "almt2023",
}

# What is compared with what: each table in each regime is one family of hypotheses (docs/paper.md,
# Tables 2 to 4).
TABLES = {
    "table2": (
        "vit_baseline",
        "wav2vec2_baseline",
        "vit_wav2vec2_baseline",
        "yu2024",
        "hallmen2024",
        "savchenko2025",
        "zhang2024",
        "yu2025",
        "hallmen2025",
    ),
    "table3": (
        "concat",
        "self_attention_only",
        "taemi_no_missing_tokens",
        "taemi_no_modality_dropout",
    ),
    "table4": (
        "vision_anchored",
        "audio_anchored",
        "vision_anchored_pooled",
        "audio_anchored_pooled",
    ),
    "controls": (
        "constant_query",
        "text_gated",
        "text_only",
        "audio_only",
        "vision_only",
        "no_text",
        "no_time_features",
        "shuffled_text",
        "shuffled_query",
    ),
    "fusion": ("tfn", "dynamic_fusion_graph", "mult", "misa"),
    # of the sentiment field; the paper does not name them
    "rivals": ("lf_dnn", "self_mm2021", "tetfn2023", "almt2023", "lnln2024"),
    "variants": tuple(VARIANT_OF),
}
# Trained in every regime; the others in the first one only.
EVERYWHERE = (REFERENCE, *TABLES["table3"], *TABLES["table4"], *TABLES["controls"])
# Missing tokens and modality dropout can do nothing for complete clips: these are scored under
# missing masks too.
MASKED = (REFERENCE, *TABLES["table3"])

# Measured with modalities missing: the reference with and without what it has against that, the
# controls, other ways of fusion, and each modality alone. In the first regime.
ROBUST = (
    REFERENCE,
    *TABLES["table3"],
    *("constant_query", "text_gated", "mult", "misa", "hallmen2025", "lnln2024"),
    *("text_only", "audio_only", "vision_only", "no_text"),
)

SEARCH_SEEDS = (0, 1)  # judge the settings that a search tries

# Beside the grid, in the first regime: how much a system needs to learn from, and whether the
# statistics find what is not there.
SIZES = (72, 144, 288)  # training clips; the grid itself has the runs with all of them
SIZE_SYSTEMS = (REFERENCE, "constant_query", "zhang2024", "savchenko2025")
NULL_SYSTEMS = (REFERENCE, "constant_query")
