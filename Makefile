# `make` lists the targets; each is a script in scripts/ or one line, so make itself is optional.
.DEFAULT_GOAL := help
.PHONY: help setup check demo bench docs picture cuda-check fuzz clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## make .venv, install pinned tools, build and install the wheel
	scripts/setup

check: ## everything CI runs: format, lints, types, all tests
	scripts/check

demo: ## build, call the demo model with a recorded question, then serve the page
	scripts/demo

bench: ## speed of the codec here, beside rustymimi in the same run
	scripts/setup
	.venv/bin/kaiwa bench mimi

docs: ## write docs/cli.md, docs/settings.md, docs/metrics.md and the page's reasons anew from the program
	.venv/bin/python -m kaiwa.cli.reference > docs/cli.md
	.venv/bin/python -m kaiwa.server.settings_page > docs/settings.md
	.venv/bin/python -m kaiwa.server.metrics_page > docs/metrics.md
	.venv/bin/python -m tools.page_reasons

picture: ## take the pictures of docs/images from real calls to the demo model, one of them in Chromium
	.venv/bin/python -m tools.page_picture
	.venv/bin/python -m tools.call_picture

cuda-check: ## compile with CUDA, no GPU needed (minutes)
	scripts/cuda-check

fuzz: ## how to run the fuzz targets
	@cat rust/fuzz/README.md

clean: ## remove everything built
	rm -rf target dist .venv rust/fuzz/target
