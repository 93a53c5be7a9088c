.DEFAULT_GOAL := help
.PHONY: help test check docs

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

test: ## run the tests and doctests
	python -m pytest

check: ## run everything that has to pass
	bash .ci/run

docs: ## write the generated parts of the docs
	python scripts/build_docs.py
