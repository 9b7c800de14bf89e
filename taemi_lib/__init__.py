"""taemi_lib: from a video clip to six emotional mimicry intensities, small enough to read.

The names below are loaded when first used, so that `import taemi_lib` costs nothing and needs
neither torch nor a GPU.
"""

from importlib import import_module

from taemi_lib.support.imports import without_collecting

# public name -> the module that defines it, or that it is.
# A function never shares its name with a module here: importing the module would hide the function.
_LAZY = {
    "EMOTIONS": "profiles",
    "Batch": "batches",
    "train": "training",
    "evaluate": "evaluation.scoring",
    "predict": "prediction",
    "models": "models",
    "metrics": "evaluation.metrics",
}

__all__ = ["EMOTIONS", "Batch", "evaluate", "metrics", "models", "predict", "train"]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    with without_collecting():
        value = import_module(f".{_LAZY[name]}", __name__)
    if _LAZY[name].rpartition(".")[2] != name:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
