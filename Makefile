# make course   run every notebook on the embedded demo, then print the summary table
# make test     ruff, mypy, pytest, then every notebook compared with its stored outputs (nbval, strict; a notebook a process)
# make soak     read 1,200 damaged media files, which it makes: each gives right values or a reason (SOAK="--seed 8")
# make lab      open the course in JupyterLab
# make figures  run the course and rewrite the PNGs in figures/
# make clean    remove data/ and runs/, after asking (YES=1: without); the installation in .venv stays
# All of them install what they need first, once. Needed beforehand: make and Python 3.11 or newer (PYTHON=...).

PYTHON  ?= python3
PROFILE ?= demo
LAB     ?= notebooks/00_start_here.ipynb
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/installed
CELL_TIMEOUT ?= 1200
WORKERS ?= 2

# Two busy processes with two torch threads each are many times slower than with one: workers use one thread each,
# the rest never more than this.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install course test soak lab figures clean
install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"taemi needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

course: $(STAMP)
	$(BIN)/python -m taemi_lib run --profile $(PROFILE)

# Hundreds of processes start here, and each would compile the package again where the shell forbids bytecode.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	TQDM_DISABLE=1 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=$(CELL_TIMEOUT) -n $(WORKERS) --dist loadfile notebooks

soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(SOAK)

lab: $(STAMP)
	$(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' $(LAB)

figures: $(STAMP)
	$(BIN)/python -m taemi_lib run --profile demo --figures

clean:
	@found=$$(ls -d data runs 2>/dev/null); \
	[ -n "$$found" ] || { echo "nothing to delete: no data/ and no runs/ here"; exit 0; }; \
	du -sh $$found; \
	if [ -z "$(YES)" ]; then \
		[ -t 0 ] || { echo "make clean deletes these, own clips and runs in them included: make clean YES=1"; exit 1; }; \
		printf "Delete these, own clips and runs in them included? [y/N] "; read answer; \
		[ "$$answer" = y ] || { echo "nothing was deleted"; exit 1; }; \
	fi; \
	rm -rf $$found
