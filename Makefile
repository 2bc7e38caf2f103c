# On a fresh machine: `make demo`, `make stages`, `make test`. See README.md.

PYTHON ?= python3
VENV ?= .venv
RENDER_VENV ?= .venv-render
BIN := $(VENV)/bin
TRAIN := $(BIN)/python -m posetraj_jax.train --config
VARIANT ?= tiny
RUNS ?= runs
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo stages test test-full lint render-env clips render-demo clean

demo: $(VENV)/.core ## train tiny stage 1 on the shipped clips, sample GIFs, print where they are
	$(TRAIN) configs/stage1.py:tiny

stages: $(VENV)/.core ## train tiny stages 1, 2 and 3, each from the one before; stop and rerun freely
	$(TRAIN) configs/stage1.py:$(VARIANT) --workdir $(RUNS)/stage1-$(VARIANT) $(FLAGS)
	$(TRAIN) configs/stage2.py:$(VARIANT) --workdir $(RUNS)/stage2-$(VARIANT) --config.init_from=$(RUNS)/stage1-$(VARIANT) $(FLAGS)
	$(TRAIN) configs/stage3.py:$(VARIANT) --workdir $(RUNS)/stage3-$(VARIANT) --config.init_from=$(RUNS)/stage2-$(VARIANT) $(FLAGS)
	$(BIN)/python -m posetraj_jax.stages $(foreach stage,1 2 3,$(RUNS)/stage$(stage)-$(VARIANT))

test: $(VENV)/.dev lint ## everything that is proven in minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not full"

test-full: $(VENV)/.dev ## the proofs at full size
	$(BIN)/python -m pytest -m full -rP

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

render-env: $(RENDER_VENV)/.bpy ## Blender's Python wheel, GPL and numpy < 2, in a place of its own

clips: render-env $(VENV)/.prep ## renders the shipped clips and videos again, the same from the seed
	$(BIN)/python -m data_prep.render_posetraj10k --out build/clips --paths_per_object 2 --clips_per_shard 4 --jpeg_quality 85 --device CPU
	$(BIN)/python -m data_prep.render_vipseg --out build/videos --num_videos 4 --device CPU

ENGINE ?= cycles
DEMO_RENDER := $(BIN)/python -m data_prep.render_posetraj10k --objects builtin:car,duck,teapot --engine $(ENGINE)

render-demo: $(VENV)/.prep $(if $(filter cycles,$(ENGINE)),render-env) ## 3 objects x 5 paths twice, by 2 workers and by 1: the same bytes; and what is in them
	rm -rf build/render-demo
	$(DEMO_RENDER) --out build/render-demo/parallel --workers 2
	$(DEMO_RENDER) --out build/render-demo/serial --workers 1
	diff -r build/render-demo/parallel build/render-demo/serial
	$(BIN)/python -m data_prep.inspect build/render-demo/parallel --validate
	$(BIN)/python -m data_prep.inspect build/render-demo/parallel --out build/render-demo/sheet.png

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python setup.py
	$(PIP) --editable .
	touch $@

$(VENV)/.prep: $(VENV)/.core
	$(PIP) --editable .[prep]
	touch $@

# torch first and alone: asked for through an extra, pip would take gigabytes of CUDA on Linux.
$(VENV)/.dev: $(VENV)/.core
	$(PIP) torch==2.13.0
	$(PIP) --editable .[dev]
	touch $@

$(RENDER_VENV)/.bpy:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "bpy 5.0.1 needs Python 3.11: make PYTHON=python3.11 render-env")'
	$(PYTHON) -m venv $(RENDER_VENV)
	$(RENDER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check bpy==5.0.1
	touch $@

clean:
	rm -rf $(VENV) $(RENDER_VENV) build runs *.egg-info
