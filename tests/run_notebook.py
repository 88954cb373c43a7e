"""Runs notebooks against the library: `python tests/run_notebook.py nbs/01_diffusion.ipynb ...`

nbdev-test checks the functions that stand in a notebook's own cells. What a reader installs are the
exported modules, so a fault there would pass every check of every chapter. Here each exported cell
runs first as it is, which shows that it executes where it stands; then the names that it made are
imported over it from its module, so that all cells after it check the library.

One run in this form loses nothing against a run on the notebook's own copies. That the sources are
the same is held by the drift test. That an exported function reads nothing but what its module has
is held by pyflakes (test_no_undefined_names). What is left is a cell that rebinds an exported name
and so changes only the notebook's copy; that is refused here at the end of each notebook."""
import argparse
import importlib
import os
import sys
import symtable
import time
from pathlib import Path

from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.config import get_config
from nbdev.test import nb_test_cells
from nbdev.process import NBProcessor


def bound_names(text):
    "The names that a cell makes at its top level: functions, classes, constants, imports."
    return [s.get_name() for s in symtable.symtable(text, 'cell', 'exec').get_symbols()
            if s.is_assigned() or s.is_imported()]


def with_imports(cell, default):
    "Make an exported cell import its names; returns its module and them, or None for other cells."
    found = [cell.directives_[d] for d in ('export', 'exports') if d in cell.directives_]
    if not found: return None
    module, names = f'cfg_lessons.{found[0] or default}', bound_names(cell.source)
    cell.source += ''.join(f'\nfrom {module} import {name}' for name in names)
    return module, names


def rebound(namespace, exported):
    "The exported names that are something else in the notebook than in the library."
    return [f'{module}.{name}' for module, names in exported for name in names
            if namespace.get(name) is not getattr(importlib.import_module(module), name)]


def run(path, skip=(), timeout=None):
    "Run one notebook; its errors come out as they are, after a picture of where they arose."
    nb = NBProcessor(path, rm_directives=False, process=True).nb
    flags = {name: value for c in nb.cells for name, value in c.directives_.items()}
    nb.cells = nb_test_cells(path, skip)
    exported = [e for e in (with_imports(c, flags.get('default_exp')) for c in nb.cells) if e]
    shell = CaptureShell(path)
    try:
        with working_directory(path.parent): shell.run_all(nb, exc_stop=True, cell_timeout=timeout)
    except BaseException:
        sys.stderr.write(shell.prettytb(fname=path))
        raise SystemExit(1) from None
    wrong = rebound(shell.user_ns, exported)
    if wrong: raise SystemExit(f'{path.name} rebinds {", ".join(wrong)}; use other names there.')


def main(paths, cell_timeout=None):
    "Run the notebooks one after another, with the settings of nbdev in pyproject.toml."
    os.environ['IN_TEST'] = '1'  # as nbdev-test sets it
    config = get_config()
    for path in map(Path, paths):
        start = time.perf_counter()
        run(path.resolve(), config.tst_flags.split(), cell_timeout or int(config.cell_timeout))
        print(f'{path.name}: {time.perf_counter() - start:.0f} secs')


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('paths', nargs='+')
    parser.add_argument('--cell-timeout', type=int, help='seconds; else that of pyproject.toml')
    options = parser.parse_args()
    main(options.paths, options.cell_timeout)
