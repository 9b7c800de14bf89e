"""What importing a large pickle costs: memory against the file's size, and speed against copying.

    python benchmarks/import.py [--size 1.0] [--protocol 4] [--folder /tmp]

Makes a MOSEI-shaped file of MMSA (unaligned: text 50 x 768, audio 500 x 74, vision 500 x 35,
float32) of so many GB in a temporary folder, copies it, then imports it in a process of its own,
whose highest memory is reported. Limit: three times the file.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIMIT = 3.0  # memory, in sizes of the file
WIDTHS = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}
_BYTES = 4 * sum(steps * width for steps, width in WIDTHS.values())  # of one clip


def make(path: Path, gigabytes: float, protocol: int) -> int:
    """Write the file; how many clips it has."""
    rng, count = np.random.default_rng(0), max(int(gigabytes * 1e9 / _BYTES), 20)
    shares = {"train": count * 7 // 10, "valid": count // 10}
    shares["test"] = count - sum(shares.values())
    whole = {}
    for split, number in shares.items():
        lengths = {m: rng.integers(10, steps + 1, number) for m, (steps, _) in WIDTHS.items()}
        part = {
            m: rng.standard_normal((number, *shape), dtype=np.float32)
            for m, shape in WIDTHS.items()
        }
        mask = np.arange(50) < lengths["text"][:, None]
        whole[split] = part | {
            "id": [f"{split}{i // 8}$_${i}" for i in range(number)],
            "raw_text": ["a few words"] * number,
            "text_bert": np.stack([mask * 7, mask, mask * 0], axis=1).astype(np.float32),
            "audio_lengths": lengths["audio"].tolist(),
            "vision_lengths": lengths["vision"].tolist(),
            "regression_labels": rng.uniform(-3, 3, number).astype(np.float32),
        }
    with path.open("wb") as file:
        pickle.dump(whole, file, protocol=protocol)
    return count


def measure(source: str, folder: str) -> None:
    """In a process of its own: import, and print what it took as JSON."""
    from taemi_lib.features.importing import import_features

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    made = import_features(source, folder, progress=False)
    seconds = time.perf_counter() - started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"kB": most, "before": before, "seconds": seconds, "clips": made.done}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, help="of the file, GB")
    parser.add_argument("--protocol", type=int, default=4, help="of the pickle")
    parser.add_argument("--folder", help="where the temporary folder goes")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "mosei.pkl"
        making = [sys.executable, "-c", _MAKING, str(Path(__file__).parent), str(file)]
        subprocess.run([*making, str(arguments.size), str(arguments.protocol)], check=True)
        size = file.stat().st_size
        started = time.perf_counter()
        shutil.copyfile(file, Path(folder) / "copy.pkl")
        copying = time.perf_counter() - started
        (Path(folder) / "copy.pkl").unlink()
        done = subprocess.run(
            [sys.executable, __file__, "--measure", str(file), str(Path(folder) / "store")],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    memory = found["kB"] * 1024 / size
    print(f"file        {size / 1e9:.2f} GB, {found['clips']} clips, protocol {arguments.protocol}")
    print(
        f"memory      {found['kB'] * 1024 / 1e9:.2f} GB at most: {memory:.2f} of the file", end=""
    )
    print(f" (the libraries alone {found['before'] * 1024 / 1e9:.2f} GB; limit {LIMIT:g})")
    print(f"import      {found['seconds']:.1f} s: {size / 1e6 / found['seconds']:.0f} MB/s")
    print(f"copying     {copying:.1f} s: {size / 1e6 / copying:.0f} MB/s")
    if memory > LIMIT:
        sys.exit(f"more than {LIMIT:g} times the file")


# another process, so that what it takes is not inherited
_MAKING = (
    "import pathlib, runpy, sys; "
    "made = runpy.run_path(str(pathlib.Path(sys.argv[1]) / 'import.py')); "
    "made['make'](pathlib.Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))"
)

if __name__ == "__main__":
    main()
