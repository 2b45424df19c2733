# Every target sets up .venv by itself, once; `make PYTHON=python3.11 test`
# chooses another interpreter.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: demo test fuzz kill-points lint bench bench-gpu estimate report upstream-check clean

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -e ".[dev]"
	touch $@

demo: .venv/ready
	HF_HUB_OFFLINE=1 $(RUN) examples/demo.py results/demo

# Files of tests side by side; one thread each, or they would fight for cores.
WORKERS ?= 2
test: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest \
		--numprocesses=$(WORKERS) --dist=loadfile

# Thousands of mutated files and settings per reader; new ones every time.
fuzz: .venv/ready
	HF_HUB_OFFLINE=1 FUZZ_EXAMPLES=2000 $(RUN) -m pytest tests/unit/test_fuzz.py

# Kills training at 24 random moments and compares where it ends.
kill-points: .venv/ready
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(RUN) tests/kill_points.py \
		results/robustness/kill_points.json

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/yamllint --no-warnings recipes examples
	.venv/bin/codespell --ignore-words=.codespell-ignore \
		mlkd_lobes recipes examples tests benchmarks tools docs *.md Makefile

# Speed of training, of exported models and of preparation, a quarter of an hour
# each at most; on a machine that does nothing else.
bench: .venv/ready
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/training.py results/bench/training.json
	$(RUN) benchmarks/preparation.py results/bench/preparation.json
	$(RUN) benchmarks/inference.py results/bench/inference.json
	$(RUN) benchmarks/readme.py

# What a fold of IEMOCAP's size costs on the GPU of this machine; minutes.
bench-gpu: .venv/ready
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/gpu.py results/bench/gpu.json
	$(RUN) benchmarks/readme.py

# What all folds of IEMOCAP cost, by calculation; see the script.
estimate: .venv/ready
	$(RUN) benchmarks/estimate.py results/estimate/iemocap.json

# Folds on whose test speakers nothing was chosen: the search validated on those
# of the second and third.
UNSEARCHED = $(foreach n,4 5 6,results/ravdess/$(1)/fold_$(n))

# Tables and figures of the README and of the pages on RAVDESS and EmoDB, and
# build/ravdess.html, from the results.
report: .venv/ready
	mkdir -p build
	$(RUN) -m mlkd_lobes report results/ravdess/table --html=build/ravdess.html \
		--figure=results/ravdess/table/ua.svg --update=README.md
	$(RUN) -m mlkd_lobes report $(call UNSEARCHED,table) \
		--update=results/ravdess/README.md
	$(RUN) -m mlkd_lobes report results/ravdess/table_40 \
		--figure=results/ravdess/table_40/ua.svg --update=results/ravdess/README.md
	$(RUN) -m mlkd_lobes report $(call UNSEARCHED,table_40) \
		--update=results/ravdess/README.md
	$(RUN) -m mlkd_lobes report results/emodb/table \
		--update=results/emodb/README.md

# Lays the recipe into a SpeechBrain checkout and runs SpeechBrain's own tests:
# make upstream-check SPEECHBRAIN=~/speechbrain
upstream-check: .venv/ready
	$(RUN) tools/upstream.py "$(SPEECHBRAIN)"

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
