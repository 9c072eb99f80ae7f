# make demo   set up .venv and run the whole road on the embedded digits recipe
# make test   set up .venv and run every check that CI runs
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo

.PHONY: demo test clean
demo: $(DEMO)
	$(VENV)/bin/modelwright run recipes/digits.yaml --new

test: $(STAMP)
	scripts/check

$(DEMO): pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV) vision
	touch $@

$(STAMP): pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	touch $@ $(DEMO)

clean:
	rm -rf $(VENV) runs build dist
