"""The compared systems, one readable file each; TAEMI itself is `taemi_lib/models/taemi.py`."""
