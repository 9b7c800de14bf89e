"""Imported by the fork server before it forks (`workers.context`): what the encoders and the
training loop need, which takes seconds."""

from importlib import import_module

from taemi_lib.support.imports import without_collecting

# by name, because nothing in support/ knows of the rooms that use it
WANTED = ("taemi_lib.features.encoders", "taemi_lib.workspace", "torch._dynamo")

with without_collecting():
    for name in WANTED:
        import_module(name)
