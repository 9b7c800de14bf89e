"""The compared systems, a file for each source; every file in here is found by itself."""
