# Every target does its own set-up. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export JUPYTER_PREFER_ENV_PATH := 1
export PYTHONNOUSERSITE := 1
# Small models are fastest on one thread each; several notebooks run side by side.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=agg CFG_LESSONS_PROFILE=quick CFG_LESSONS_DEVICE=cpu
WORKERS ?= 2

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

$(READY): pyproject.toml constraints.txt docs/kernel.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} is too old: the book needs 3.11 or newer. Name one with `make PYTHON=python3.12 ...`.")'
	@echo "Setting up .venv (a few minutes the first time, several GB with PyTorch) ..."
	@$(PYTHON) -m venv .venv || { echo "The virtual environment could not be made; on Debian and Ubuntu, install python3-venv."; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@mkdir -p .venv/share/jupyter/lab/settings .venv/etc/ipython
	@cp docs/kernel.py .venv/etc/ipython/ipython_kernel_config.py
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}, "@jupyterlab/notebook-extension:tracker": {"codeCellConfig": {"lineWrap": true}}}' > .venv/share/jupyter/lab/settings/overrides.json
	@touch $(READY)

setup: $(READY)  ## make .venv with everything in it

# Seconds after which the kernel of a closed notebook is ended. Kernels compute with one thread each:
# two that want all cores at once wait for each other (eight times as long on two cores).
CULL ?= 900
lab: $(READY)  ## open the book in JupyterLab, one thread per kernel (options: OMP_NUM_THREADS=4 make lab ARGS=--no-browser)
	@$(BIN)/jupyter-trust nbs/index.ipynb > /dev/null  # so that its opening figure moves before any cell is run
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m jupyterlab $$([ "$$(id -u)" = 0 ] && echo --allow-root) --notebook-dir=nbs --LabApp.default_url=/lab/tree/index.ipynb --ContentsManager.pre_save_hook=nbdev.clean.clean_jupyter --MappingKernelManager.cull_idle_timeout=$(CULL) --MappingKernelManager.cull_interval=$$(($(CULL)/9 + 1)) $(ARGS)

test: $(READY)  ## run every check: export drift, all chapters in the quick profile, pytest, a sample of mutants
	@$(BIN)/python -m pytest tests/test_book.py -k drift
	@echo "Running every notebook against the library ..."
	@ls -S nbs/*.ipynb | $(TEST_ENV) xargs -P $(WORKERS) -n 1 $(BIN)/python tests/run_notebook.py  # the largest first, so that none is left alone at the end
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
	@echo "Planting a sample of small faults in the library ..."
	@$(TEST_ENV) $(BIN)/python tests/mutants.py --sample 6 --quick --least .95

coverage: $(READY)  ## measure which lines and branches of the library the checks run (about an hour on two cores)
	@$(BIN)/python -m coverage erase
	@ls -S nbs/*.ipynb | $(TEST_ENV) xargs -P $(WORKERS) -n 1 $(BIN)/python -m coverage run tests/run_notebook.py --cell-timeout 3600
	@$(TEST_ENV) $(BIN)/python -m coverage run -m pytest
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

mutants: $(READY)  ## plant small faults in the library and count who notices (ARGS="--sample 6", or names of modules)
	@$(TEST_ENV) $(BIN)/python tests/mutants.py $(ARGS)

attack: $(READY)  ## kill, starve and damage training and generation thousands of times, and compare how they end (ten minutes on a core; ARGS=--quick for two)
	@$(BIN)/python tests/attack $(ARGS)

html: $(READY)  ## render the book, as its outputs are stored, into html/: pages with maths and search that need no network
	@$(BIN)/python docs/build.py html

latency: $(READY)  ## time the guidance picture from key press to screen in a real browser, and write the record
	@OMP_NUM_THREADS=1 $(BIN)/python tests/test_browser.py

doctor: $(READY)  ## check the environment, one line a check, with the cure
	@$(BIN)/python -c 'import sys; from cfg_lessons.settings import doctor; sys.exit(doctor())'

export: $(READY)  ## write cfg_lessons/*.py from the notebooks
	@$(BIN)/nbdev-export

outputs: $(READY)  ## run every chapter in the quick profile and store its outputs (CHAPTER=03_sampling for one)
	@$(TEST_ENV) $(BIN)/nbdev-test --n-workers $(WORKERS) --timing --save $(if $(CHAPTER),nbs/$(CHAPTER).ipynb,nbs)
	@$(BIN)/nbdev-clean
	@$(BIN)/python -c "import base64, pathlib, re; \
		first = lambda name: base64.b64decode(re.search(r'image/png;base64,([^\\\\\"]+)', pathlib.Path(f'nbs/{name}.ipynb').read_text())[1]); \
		pathlib.Path('data/guidance.png').write_bytes(first('index')); \
		pathlib.Path('data/photographs.png').write_bytes(first('15_photographs'))"

checkpoints: $(READY)  ## train the stored digits networks again (about an hour on two cores)
	@$(TEST_ENV) $(BIN)/nbdev-test --flags slow --cell-timeout 7200 nbs/08_metrics.ipynb
	@$(TEST_ENV) OMP_NUM_THREADS=2 $(BIN)/nbdev-test --flags slow --cell-timeout 7200 nbs/11_digits.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags slow --cell-timeout 7200 nbs/13_beyond.ipynb

results: $(READY)  ## make the records of the digits that are not stored yet (four hours on two cores)
	@$(TEST_ENV) $(BIN)/nbdev-test --flags results --cell-timeout 36000 nbs/10_unet.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags results --cell-timeout 36000 nbs/11_digits.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags results --cell-timeout 36000 nbs/13_beyond.ipynb

photographs: $(READY)  ## everything of chapter 15, and the latents of chapter 16, from nothing: data, networks, records (a night on two cores; stopped and called again, it goes on)
	@$(BIN)/cfg-prepare --source fashion_mnist --out data/fashion_mnist --size 28 --channels 1
	@$(BIN)/cfg-prepare --source fashion_mnist_test --out data/fashion_mnist_test --size 28 --channels 1
	@OMP_NUM_THREADS=2 $(BIN)/cfg-train --config data/recipes/photographs.toml --data data/fashion_mnist --out runs/photographs
	@OMP_NUM_THREADS=2 $(BIN)/cfg-train --config data/recipes/photographs.toml --head eps --weight unweighted --logsnr-min -20 --logsnr-max 20 --train.steps 1000 --data data/fashion_mnist --out runs/photographs_paper
	@OMP_NUM_THREADS=2 $(BIN)/cfg-train --config data/recipes/photographs.toml --p-uncond 0.5 --data data/fashion_mnist --out runs/photographs_p0.5
	@OMP_NUM_THREADS=2 $(BIN)/cfg-train --config data/recipes/photographs.toml --kind classifier --head eps --p-uncond 0 --anneal --train.weight-decay 0.05 --train.steps 4000 --data data/fashion_mnist --out runs/photographs_classifier
	@$(BIN)/cfg-export --run runs/photographs --out data/checkpoints/photographs.safetensors
	@$(BIN)/cfg-export --run runs/photographs_p0.5 --out data/checkpoints/photographs_p0.5.safetensors
	@$(BIN)/cfg-export --run runs/photographs_classifier --out data/checkpoints/photographs_classifier.safetensors
	@$(TEST_ENV) $(BIN)/nbdev-test --flags slow --cell-timeout 36000 nbs/15_photographs.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags results --cell-timeout 90000 nbs/15_photographs.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags slow --cell-timeout 36000 nbs/16_pretrained.ipynb
	@$(TEST_ENV) $(BIN)/nbdev-test --flags results --cell-timeout 36000 nbs/16_pretrained.ipynb

compare: $(READY)  ## measure the known guidance rules for chapter 95 where no row is stored (ten minutes a rule on one core; stopped and called again, it goes on)
	@OMP_NUM_THREADS=1 $(BIN)/python -m cfg_lessons.bench $(ARGS)

answers: $(READY)  ## show how many exercises you have answered (ARGS=--restore puts your answers back after an update)
	@$(BIN)/python -c 'from cfg_lessons.exercises import answers; import sys; answers(sys.argv[1:])' $(ARGS)

bench: $(READY)  ## time U-Net, training and samplers against other libraries (CHECKOUT=folder of openai/guided-diffusion adds that one)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,bench]'
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench forward training options samplers $(if $(CHECKOUT),--checkout "$(CHECKOUT)") $(ARGS)

equivalence: $(READY)  ## compare our U-Net's answers and gradients with guided-diffusion's (CHECKOUT=folder of openai/guided-diffusion)
	@$(BIN)/python tests/bench equivalence --checkout "$(CHECKOUT)" $(ARGS)

gpu-check:  ## time and compare training and sampling on a GPU, with the PyTorch that PYTHON has
	@$(PYTHON) tests/bench engine ADM64 ADM128 $(if $(CHECKOUT),--checkout "$(CHECKOUT)") $(ARGS)

clean:  ## remove .venv and everything made by tools
	rm -rf .venv build dist *.egg-info .pytest_cache

.PHONY: attack coverage mutants help setup lab answers html latency test doctor export outputs checkpoints results photographs compare bench equivalence gpu-check clean
.DEFAULT_GOAL := help
