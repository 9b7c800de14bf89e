"""Do the statistics find what is not there, with searched settings? TAEMI and the control against
themselves with other seeds, on the test split.

    python benchmarks/planted_null.py   rewrites results/fair/planted_null.csv, which notebook 06
                                        shows; about 5 minutes on two cores
"""

from __future__ import annotations

from taemi_lib import experiments
from taemi_lib.experiments.tables import write_table
from taemi_lib.experiments.whole import other_seeds
from taemi_lib.profiles import ROOT
from taemi_lib.workspace import Workspace

FAIR = ROOT / "results" / "fair"

if __name__ == "__main__":
    chosen = experiments.chosen(experiments.read_table(FAIR / "search.csv"))
    study = experiments.Study(Workspace("demo"), {"cue": experiments.NULL_SYSTEMS}, settings=chosen)
    study.run()
    other_seeds(study).run()
    found = experiments.planted_null(study)
    write_table(FAIR / "planted_null.csv", found)
    print(found.to_string(index=False))
