"""The four micro backbones embedded in this package, and the code that trained them.

Each of `audio/`, `vision/`, `speech/`, `text/` is a folder in the same standard format as the large
model it stands in for, with a card (README.md) that says what it was trained on and what it cannot
do. They know only the world of `taemi_lib.data.synthmimic`. Notebook appendix/A1 shows them and
retrains them on request.
"""
