# Every target sets up .venv by itself, once; `make PYTHON=python3.11 test`
# chooses another interpreter.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: demo test test-slow fuzz kill-points lint size bench bench-gpu \
	report upstream-check clean

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -e ".[dev]"
	touch $@

# One thread: two would crawl beside another process that uses a core.
demo: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) examples/demo.py results/demo

# Files of tests side by side; one thread each, or they would fight for cores.
WORKERS ?= 2
test: .venv/ready
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(RUN) -m pytest \
		--numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

# What takes long: full disks, browsers, wheels, thousands of fuzzed inputs and
# kills at random moments.
test-slow: .venv/ready fuzz kill-points
	HF_HUB_OFFLINE=1 $(RUN) -m pytest -m slow

# Thousands of mutated files and settings per reader; new ones every time.
fuzz: .venv/ready
	HF_HUB_OFFLINE=1 FUZZ_EXAMPLES=2000 $(RUN) -m pytest tests/test_fuzz.py

# Kills training at 24 random moments and compares where it ends.
kill-points: .venv/ready
	HF_HUB_OFFLINE=1 PYTHONPATH=tests $(RUN) tests/kill_points.py \
		results/robustness/kill_points.json

# Style, and the lowest Python version of each part.
lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(RUN) tools/python_floor.py
	.venv/bin/yamllint --no-warnings recipes examples
	.venv/bin/codespell --ignore-words=.codespell-ignore \
		mlkd_lobes recipes examples tests benchmarks tools docs *.md Makefile

# The size of the code beside its bounds.
size: .venv/ready
	$(RUN) tools/size.py

# Speed of training, of exported models and of preparation, a quarter of an hour
# each at most; on a machine that does nothing else.
bench: .venv/ready
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/training.py results/bench/training.json
	$(RUN) benchmarks/preparation.py results/bench/preparation.json
	$(RUN) benchmarks/inference.py results/bench/inference.json
	$(RUN) tools/pages.py

# What a fold of IEMOCAP's size costs on the GPU of this machine; minutes.
bench-gpu: .venv/ready
	HF_HUB_OFFLINE=1 $(RUN) benchmarks/gpu.py results/bench/gpu.json
	$(RUN) tools/pages.py

# The machine-made tables and figures of the pages, from the results.
report: .venv/ready
	$(RUN) tools/pages.py
	$(RUN) -m mlkd_lobes report results/ravdess/table.zip \
		--figure=results/ravdess/ua.svg > /dev/null
	$(RUN) -m mlkd_lobes report results/ravdess/table_40.zip \
		--figure=results/ravdess/ua_40.svg > /dev/null

# Lays the recipe into a SpeechBrain checkout and runs SpeechBrain's own tests:
# make upstream-check SPEECHBRAIN=~/speechbrain
upstream-check: .venv/ready
	$(RUN) tools/upstream.py "$(SPEECHBRAIN)"

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
