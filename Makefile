# make demo   set up .venv and run the whole road on the embedded digits recipe
# make test   set up .venv and run every check that CI runs
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: demo test clean
demo: $(STAMP)
	$(VENV)/bin/modelwright run recipes/digits.yaml --new

test: $(STAMP)
	scripts/check

$(STAMP): pyproject.toml scripts/setup
	PYTHON=$(PYTHON) scripts/setup $(VENV)
	touch $@

clean:
	rm -rf $(VENV) runs build dist
