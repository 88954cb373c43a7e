"That the run of the notebooks in make test checks the library and not the notebooks' own copies."
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import run_notebook
from cfg_lessons import diffusion

ROOT = Path(__file__).resolve().parent.parent


def done(folder, *cells):
    "The end of a run of a notebook with these cells, and what it wrote."
    path, make = folder/'a.ipynb', nbformat.v4.new_code_cell
    nbformat.write(nbformat.v4.new_notebook(cells=[make(c) for c in cells]), path)
    ran = subprocess.run([sys.executable, ROOT/'tests'/'run_notebook.py', path], cwd=ROOT,
                         capture_output=True, text=True)
    return ran.returncode, ran.stderr


def test_names_of_a_cell_are_those_at_its_top_level():
    text = ('import a.b\nfrom c import d as e\nX = 1\nfor i in X:\n    j = i\n'
            'def f(k): l = k\nclass G: m = 1')
    assert set(run_notebook.bound_names(text)) == {'a', 'e', 'X', 'i', 'j', 'f', 'G'}


def test_what_is_no_longer_the_librarys_is_named():
    names = dict(NULL=diffusion.NULL, cosine=len)
    exported = [('cfg_lessons.diffusion', ['NULL', 'cosine'])]
    assert run_notebook.rebound(names, exported) == ['cfg_lessons.diffusion.cosine']


@pytest.mark.parametrize('check, code', [('assert NULL == -1', 0), ('assert NULL == 7', 1)])
def test_a_check_sees_the_library_where_the_notebook_says_something_else(check, code, tmp_path):
    assert done(tmp_path, '#| default_exp diffusion', '#| exports\nNULL = 7', check)[0] == code


def test_an_exported_cell_has_to_run_where_it_stands(tmp_path):
    cell = '#| exports\nNULL = -minus_one'
    code, said = done(tmp_path, '#| default_exp diffusion', cell, 'minus_one = 1')
    assert code == 1 and "'minus_one' is not defined" in said


def test_rebinding_an_exported_name_is_refused(tmp_path):
    code, said = done(tmp_path, '#| default_exp diffusion', '#| exports\nNULL = -1', 'NULL = 0')
    assert code == 1 and 'rebinds cfg_lessons.diffusion.NULL' in said


def test_a_cell_for_a_further_module_is_imported_from_it(tmp_path):
    cells = '#| default_exp metrics', '#| exports diffusion\nNULL = 3', 'assert NULL == -1'
    assert done(tmp_path, *cells)[0] == 0


@pytest.mark.parametrize('flag', ['slow', 'gpu', 'results'])
def test_what_trains_or_measures_for_hours_is_left_out(flag, tmp_path):
    assert done(tmp_path, '#| default_exp diffusion', f'#| {flag}\nraise ValueError')[0] == 0
