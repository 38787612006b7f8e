# make demo    install, then train and compare the setups on the embedded mini-XNLI (offline once installed)
# make test    install with the test tools, then run the whole suite in two processes (one: ARGS="-n 0")
# make lint    ruff and mypy
# make kept    run mini-XNLI with five seeds in all three configurations, in runs/, and keep the results (an hour on
#              a CPU; an interrupted command continues when it is run again)
# make readme  render model cards, figures and the tables of the pages from the results kept under model_cards/
#
# Each works alone on a machine with Python 3.11 or newer (make PYTHON=python3.12 names another), make and a package
# index. All of it lives in .venv, which is called and never activated; options go through ARGS, as in
# make demo ARGS="--seeds 5" or make test ARGS="-k cli".
#
# torch for the CPU alone: pip installs what its index offers, on Linux usually the build with CUDA libraries (several
# GB). For the small build put the address of PyTorch's index of CPU wheels (its "Get Started" page has it) into pip's
# extra-index setting before the first make: PIP_EXTRA_INDEX_URL in the environment, or extra-index-url in pip's
# configuration file. The pin in constraints.txt takes either build.

PYTHON ?= python3
ARGS ?=
PIP_INSTALL = .venv/bin/python -m pip install -c constraints.txt -e

LAUNCH = .venv/bin/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: demo test lint kept readme

# One process, also where there are more devices; accelerate lists in a warning what it has to choose itself.
demo: .venv/.installed
	$(LAUNCH) recipes/xnli.py $(ARGS)

test: .venv/.installed-test
	.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: .venv/.installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy hf_langimb

# The folder under model_cards/ of a configuration: mini-lora -> xnli-mini/lora.
kept: .venv/.installed
	for config in mini mini-entropy mini-lora; do \
	  $(LAUNCH) recipes/xnli.py --config $$config --seeds 5 --explain_rows auto --output_dir runs/xnli-$$config && \
	  cp runs/xnli-$$config/results.json model_cards/xnli-$$(echo $$config | sed 's/mini-/mini\//')/ || exit 1; \
	done
	$(MAKE) readme

readme: .venv/.installed
	.venv/bin/python -m hf_langimb.kept.readme model_cards README.md model_cards/README.md

# Two stamps: the test tools and their pretrained model are 200 MB that a demo does without.
.venv/.installed: setup.cfg constraints.txt | .venv/bin/python
	$(PIP_INSTALL) .
	@touch $@

.venv/.installed-test: setup.cfg constraints.txt | .venv/bin/python
	$(PIP_INSTALL) ".[test]"
	@touch $@ .venv/.installed

# Order-only above: the file is a link to the system's Python, whose date says nothing.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hf_langimb needs Python 3.11 or newer, found $(PYTHON) = $$($(PYTHON) --version 2>&1)." \
	    "Name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment. Debian/Ubuntu: apt install python3-venv" >&2; exit 1; }
