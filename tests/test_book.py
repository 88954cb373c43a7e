"""The form of the book: every rule of the house that a program can check, naming the file that
breaks it."""
import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
MODULES = sorted(p for p in (ROOT/'cfg_lessons').glob('*.py') if not p.name.startswith('_'))
CHAPTERS = [p for p in NOTEBOOKS if re.match(r'[01]\d_|94_', p.name)]  # 94 is a chapter to play

# Which modules of the book each module may import. The roof may import all and is imported by none;
# plotting, lab, figure and exercises are for notebooks and commands alone.
FLOORS = dict(
    diffusion=set(), settings=set(), plotting=set(), exercises={'plotting', 'settings', 'training'},
    unet={'diffusion', 'networks'}, pretrained={
        'classifier_free', 'classifier_guidance', 'diffusion', 'generation', 'images', 'networks',
        'records', 'sampling', 'training', 'unet'
    }, imagenet=None)
FLOORS |= dict(sources={'settings', 'training'},
               preparation={'checkpoints', 'images', 'records', 'sources',
                            'training'}, costs={'networks', 'parallel', 'pretrained', 'unet'})
FLOORS |= dict(rules={'beyond', 'classifier_free', 'classifier_guidance', 'sampling', 'tilting'})
FLOORS |= dict(features={'evaluation', 'images', 'preparation', 'training'},
               commands={'records', 'recipes'})
FLOORS |= dict(
    recipes={
        'checkpoints', 'config', 'classifier_free', 'classifier_guidance', 'costs', 'diffusion',
        'engine', 'features', 'generation', 'images', 'logs', 'evaluation', 'records', 'networks',
        'parallel', 'sampling', 'settings', 'sources', 'training', 'unet'
    })
FLOORS |= dict(classifier_guidance={'diffusion', 'networks'},
               classifier_free={'diffusion', 'classifier_guidance'})
FLOORS |= dict.fromkeys(['mixtures', 'sampling', 'networks', 'training'], {'diffusion'})
FLOORS |= dict(metrics={'diffusion', 'training'}, records={'training'},
               evaluation={'metrics', 'records', 'training'},
               images={'diffusion', 'training'})  # training has the writer of whole files
FLOORS |= dict(beyond={'diffusion', 'classifier_free', 'classifier_guidance', 'networks', 'unet'})
FLOORS |= dict(
    lab={
        'diffusion', 'mixtures', 'sampling', 'classifier_free', 'classifier_guidance', 'records',
        'plotting'
    })
FLOORS |= dict(checks={'classifier_free', 'diffusion', 'mixtures', 'sampling'})
FLOORS |= dict(figure={'diffusion', 'mixtures', 'sampling', 'classifier_free', 'plotting'})
FLOORS |= dict(tilting={'diffusion', 'classifier_free', 'classifier_guidance', 'sampling'})
FLOORS |= dict(parallel={'training'}, checkpoints={'training', 'parallel', 'records'})
FLOORS |= dict(logs={'images', 'records', 'metrics', 'parallel', 'sampling', 'training'})
FLOORS |= dict(
    config={'checkpoints', 'parallel'},
    engine={'images', 'networks', 'training', 'parallel', 'checkpoints', 'config', 'logs'})
# compares guidance rules in whole worlds, by the names that the commands know
OTHER_ROOF = 'worlds', 'compare', 'bench'
FLOORS |= dict.fromkeys(OTHER_ROOF)
FLOORS |= dict(diagnosis={'classifier_free', 'compare', 'diffusion'},
               page={'compare', 'plotting', 'training', 'worlds'})
FLOORS |= dict(generation={'diffusion', 'images', 'sampling', 'training', 'checkpoints'})
OUTSIDE = dict(diffusion={'torch'})  # third-party imports of modules that promise to need little
HEAVY = {
    'diffusers', 'transformers', 'torch_fidelity', 'torchvision', 'fastcore', 'tyro', 'pyarrow',
    'sklearn', 'ipywidgets', 'matplotlib', 'IPython', 'nbdev'
}
FOR_NOTEBOOKS = {'plotting', 'lab', 'figure', 'exercises'}


def cells(path, kind='code'):
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]

def source(cell):
    return ''.join(cell['source'])

def exported(cell):
    return re.search(r'^#\|\s*exports?\b', source(cell), re.M)

def html(cell):
    return [''.join(o['data'].get('text/html', '')) for o in cell.get('outputs', []) if 'data' in o]

def imports(text):
    """Imports anywhere in a module's text: (modules of the book, third-party packages at its top,
    those inside functions)."""
    tree, names = ast.parse(text), set()
    late = {
        n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda))
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        inside = node in late
        if isinstance(node, ast.ImportFrom) and node.level:
            found = [f'cfg_lessons.{node.module or ""}'.rstrip('.')]
        elif isinstance(node, ast.ImportFrom): found = [node.module]
        elif isinstance(node, ast.Import): found = [a.name for a in node.names]
        else: continue
        if found == ['cfg_lessons']: found = [f'cfg_lessons.{a.name}' for a in node.names]
        names |= {(name, inside) for name in found}
    own = {name.split('.')[1] for name, _ in names if name.startswith('cfg_lessons.')}
    packages = {(name.split('.')[0], inside) for name, inside in names} - {('cfg_lessons', True),
                                                                           ('cfg_lessons', False)}
    packages = {(name, inside) for name, inside in packages if name not in sys.stdlib_module_names}
    return own, {n for n, inside in packages if not inside}, {n for n, inside in packages if inside}

each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
each_chapter = pytest.mark.parametrize('path', CHAPTERS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)


def test_drift(tmp_path):
    "cfg_lessons/*.py is what the notebooks export."
    for name in ('nbs', 'cfg_lessons'):
        shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'): shutil.copy(ROOT/name, tmp_path)
    subprocess.run([Path(sys.executable).parent/'nbdev-export'], cwd=tmp_path, check=True,
                   capture_output=True)
    differ = [
        p.name for p in (tmp_path/'cfg_lessons').glob('*.py')
        if not (ROOT/'cfg_lessons'/p.name).exists() or p.read_text() != (ROOT/'cfg_lessons'/
                                                                         p.name).read_text()
    ]
    made_by = {
        p.name: re.search(r'File to edit: \.\./nbs/(\S+\.ipynb)', p.read_text()) for p in MODULES
    }
    stale = [name for name, m in made_by.items() if not m or not (ROOT/'nbs'/m[1]).exists()]
    assert not differ, f'These differ from their notebooks; run make export: {differ}'
    assert not stale, f'These modules have no notebook: {stale}'


@each_module
def test_floors(path):
    own, other, _ = imports(path.read_text())
    assert path.stem in FLOORS, (
        f'{path.name} has no floor: add it to FLOORS in {Path(__file__).name}')
    allowed = FLOORS[path.stem]
    if allowed is not None:
        assert own <= allowed, f'{path.name} imports {own - allowed}; it may import {allowed}'
    assert path.stem in ('lab', 'figure', 'exercises', 'page') or not own & FOR_NOTEBOOKS, (
        f'{path.name} imports {own & FOR_NOTEBOOKS}, which is for notebooks')
    assert path.stem in OTHER_ROOF or 'imagenet' not in own, f'{path.name} imports the roof'
    if path.stem in OUTSIDE:
        assert other <= OUTSIDE[path.stem], f'{path.name} imports {other - OUTSIDE[path.stem]}'
    if path.stem not in FOR_NOTEBOOKS:
        assert not other & HEAVY, f'{path.name} imports {other & HEAVY} at its top'


def test_imports_are_found_wherever_they_hide():
    text = (
        'import torch.nn as nn\nfrom .sampling import move\nfrom cfg_lessons.unet import '
        'UNet\nfrom cfg_lessons import beyond\n'
        'from . import lab\nimport cfg_lessons.images\ntry: import sklearn\nexcept ImportError: '
        'pass\n'
        'def f():\n    import torchvision\n    from .metrics import fid\n')
    assert imports(text) == ({'sampling', 'unet', 'beyond', 'lab', 'images',
                              'metrics'}, {'torch', 'sklearn'}, {'torchvision'})


@each_module
def test_no_undefined_names(path):
    "An exported cell that reads a notebook's global would be an undefined name here."
    from pyflakes.api import check
    from pyflakes.reporter import Reporter
    out = io.StringIO()
    check(path.read_text(), path.name, Reporter(out, out))
    assert not out.getvalue(), out.getvalue()


@each_module
def test_forbidden(path):
    text = path.read_text()
    relays = [
        f.name for f in ast.walk(ast.parse(text)) if isinstance(f, ast.FunctionDef) and f.args.kwarg
        for call in ast.walk(f) if isinstance(call, ast.Call) for k in call.keywords
        if k.arg is None and getattr(k.value, 'id', '') == f.args.kwarg.arg
    ]
    assert not relays, f'{path.name}: {relays} relay keyword arguments'
    for pattern, why in [(r'\bpickle\b|torch\.load\((?!.*weights_only=True)', 'unpickles'),
                         (r'torch\.set_default_device|^DEVICE|^device =',
                          'keeps a device in a global')]:
        assert not re.search(pattern, text, re.M), (
            f'{path.name} {why}: {re.search(pattern, text, re.M).group()}')
    assert 'step' not in text or not re.search(r'\.item\(\)', text) or path.stem != 'training', (
        f'{path.name} calls .item()')


def functions(path):
    "Top-level functions and the methods that a caller names, as ast nodes."
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef): yield node
        if isinstance(node, ast.ClassDef):
            yield from (n for n in node.body
                        if isinstance(n, ast.FunctionDef) and n.name == '__init__')

@each_module
def test_docstrings_and_parameters(path):
    """Public functions and classes say what they do; every parameter has its comment; none has more
    than eight."""
    lines = path.read_text().splitlines()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            assert ast.get_docstring(node), f'{path.name}: {node.name} has no docstring'
    for f in functions(path):
        if f.name.startswith('_') and f.name != '__init__': continue
        args = [a for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs if a.arg != 'self']
        assert path.stem in ('imagenet', 'generation', 'costs') or len(args) <= 8, (
            f'{path.name}: {f.name} has {len(args)} parameters')
        if f.name == '__init__': continue
        for a in args:
            assert '  # ' in lines[a.lineno - 1], (
                f'{path.name}: {f.name}: parameter {a.arg} has no comment')


@each_module
def test_line_length(path):
    text = re.sub(r'^__all__ = \[.*?\]', lambda m: '\n'*m.group().count('\n'), path.read_text(),
                  flags=re.S | re.M)
    long = [i for i, line in enumerate(text.splitlines(), 1) if len(line) > 100 and i > 1]
    assert not long, f'{path.name}: lines {long} are longer than 100 characters'


def test_lines_of_tests_are_no_longer_than_those_of_the_book():
    "But for the table of answers, whose rows are short programs."
    long = [f'{path.name}:{i}' for path in (ROOT/'tests').rglob('*.py')
            if path.name != 'exercise_answers.py'
            for i, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 100]
    assert not long


@each_notebook
def test_cells(path):
    for c in cells(path):
        text = source(c)
        assert not re.search(r'^\s*from\s+\S+\s+import\s+\*', text, re.M), (
            f'{path.name}: star import in {c["id"]}')
        if exported(c):
            n = sum(bool(line.strip()) for line in text.splitlines())
            assert n <= 40, f'{path.name}: exported cell {c["id"]} has {n} lines'
    assert json.loads(path.read_text())['metadata']['kernelspec']['name'] == 'python3', (
        f'{path.name} names no kernel')


@each_notebook
def test_outputs(path):
    code = [c for c in cells(path) if source(c).strip()]
    for c in code:
        for o in c.get('outputs', []):
            assert o['output_type'] not in ('execute_result', 'display_data') or o['data'], (
                f'{path.name}: cell {c["id"]} shows nothing; its result fails at being displayed')
            assert o['output_type'] != 'error', (
                f'{path.name}: stored error in cell {c["id"]}: {o.get("evalue")}')
            assert o.get('name') != 'stderr', (
                f'{path.name}: stored stderr in cell {c["id"]}; run make outputs')
    assert any(c.get('outputs') for c in code), (
        f'{path.name} has no stored outputs; run make outputs')
    kb = path.stat().st_size/1024
    assert kb < 400, f'{path.name} has {kb:.0f} kB, over 400'


@each_notebook
def test_tables_have_columns(path):
    """Each line of a table, printed or written, has as many cells as its header: a bar inside a
    cell is escaped."""
    for c in cells(path):
        texts = [source(c)] if c['cell_type'] == 'markdown' else [
            ''.join(o.get('data', {}).get('text/markdown', '')) for o in c.get('outputs', [])
        ]
        for table in re.findall(r'(?:^\|.*\n?)+', '\n'.join(texts), re.M):
            bars = {
                len(re.findall(r'(?<!\\)\|', re.sub(r'\$[^$]*\$|`[^`]*`', '', line)))
                for line in table.splitlines()
            }
            assert len(bars) == 1, f'{path.name}: {table[:200]}'


@each_notebook
def test_pictures_have_words(path):
    for c in cells(path):
        for o in c.get('outputs', []):
            assert not {'image/png', 'image/jpeg', 'image/svg+xml'} & set(o.get('data', {})), \
                f'{path.name}: cell {c["id"]} shows a bare picture; end it with show(fig, alt)'
        for h in html(c):
            for tag in re.findall(r'<img[^>]*>', h):
                alt = re.search(r'alt="([^"]*)"', tag)
                assert alt and 20 <= len(alt.group(1)) <= 500, (
                    f'{path.name}: cell {c["id"]}: a picture without a description')


@each_notebook
def test_headings(path):
    text = '\n'.join(source(c) for c in cells(path, 'markdown'))
    levels = [len(m) for m in re.findall(r'^(#+) ', text, re.M)]
    assert levels and levels[0] == 1 and levels.count(1) == 1, (
        f'{path.name}: needs exactly one title, first')
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:])), (
        f'{path.name}: a heading skips a level: {levels}')


@each_chapter
def test_chapter_form(path):
    text = '\n'.join(source(c) for c in cells(path, 'markdown'))
    words = len(text.split())
    assert words >= 1200, f'{path.name}: {words} words of prose'
    assert any('<img' in h for c in cells(path) for h in html(c)), f'{path.name}: no figure'
    for mark in ('**Builds on**', '**Runs in**', '## Exercises', '## Where we are'):
        assert mark in text, f'{path.name}: no {mark}'


@each_chapter
def test_a_chapter_is_no_longer_than_a_reader_bears(path):
    "2,500 words, exercises and hints with them; two chapters need a few more."
    words = sum(len(source(c).split()) for c in cells(path, 'markdown'))
    assert words <= 2600, f'{path.name} has {words} words'


@each_notebook
def test_imports_are_folded(path):
    for c in cells(path):
        body = ast.parse(re.sub(r'^[#%].*$', '', source(c), flags=re.M)).body
        plumbing = bool(body) and all(isinstance(b, (ast.Import, ast.ImportFrom)) for b in body)
        folded = c['metadata'].get('jupyter', {}).get('source_hidden')
        assert folded or not plumbing, f'{path.name}: the imports of cell {c["id"]} are not folded'


@each_chapter
def test_exercises(path):
    """Each exercise is open as it stands, has three hints and a folded solution; its check tells
    that from typical mistakes."""
    numbers = re.findall(r'^\*\*(\d+\.\d) \(',
                         '\n'.join(source(c) for c in cells(path, 'markdown')), re.M)
    solutions = [c for c in cells(path) if 'solution' in c['metadata'].get('tags', [])]
    assert 3 <= len(numbers) <= 5 and len(solutions) == len(numbers), (
        f'{path.name}: {numbers}, {len(solutions)} solutions')
    for number, c in zip(numbers, solutions):
        assert c['metadata']['jupyter']['source_hidden'], (
            f'{path.name}: solution {number} is not folded')
        first = source(c).splitlines()[
            0]  # what a folded cell shows, so it must not give the answer away
        assert first == f'# Solution {number}', (
            f'{path.name}: solution {number} begins with {first!r}')
        proof = ast.parse(
            source(c)
        ).body[-1].value  # the last line is check_solution(check, solution, {words: mistake, ...})
        assert getattr(proof.func, 'id', '') == 'check_solution', (
            f'{path.name}: solution {number} does not end with check_solution(...)')
        assert len(proof.args[2].keys) >= 2, (
            f'{path.name}: the check of {number} is tried on fewer than two mistakes')
    statements = {
        n: source(c) for c in cells(path, 'markdown')
        for n in re.findall(r'^\*\*(\d+\.\d) \(', source(c), re.M)
    }
    for number, text in statements.items():
        hints = re.findall(
            r'<details><summary>Hint (\d): [a-z ]+</summary>\n\n(?:(?!</details>).)+\n\n</details>',
            text, re.S)
        assert hints == ['1', '2', '3'], f'{path.name}: exercise {number} has hints {hints}'
    verdicts = [''.join(o['data']['text/plain']) for c in cells(path) for o in c.get('outputs', [])
                if 'data' in o and source(c).strip().splitlines()[-1].startswith('mark(')]
    assert len(verdicts) == len(numbers) and all(v.startswith('open:') for v in verdicts), (
        f'{path.name}: {verdicts}')


def test_exercises_of_the_whole_book():
    """At least forty-five, each with a check of its own name, by which a reader's answer is
    remembered."""
    checks = [
        m for path in CHAPTERS for c in cells(path)
        if 'solution' not in c['metadata'].get('tags', [])
        for m in re.findall(r'^mark\((\w+), ', source(c), re.M)
    ]
    assert len(checks) >= 45 and len(set(checks)) == len(checks), sorted(checks)


@each_notebook
def test_no_widget_in_git(path):
    """Moving pictures are stored as still ones: no state of a widget, and no view that nobody can
    draw."""
    book = json.loads(path.read_text())
    held = json.dumps([c.get('outputs') for c in book['cells']])
    assert 'application/vnd.jupyter.widget' not in held, f'{path.name} holds a widget'
    assert 'widgets' not in book['metadata'], f'{path.name} holds the state of widgets'


def test_the_opening_figure_is_the_present_one():
    "The page plays with the script that the package has, and its numbers take less than 250 kB."
    shown = [h for c in cells(ROOT/'nbs'/'index.ipynb') for h in html(c)]
    assert 'class="guidance-figure"' in shown[0] and (
        ROOT/'cfg_lessons'/'figure.js').read_text() in shown[0], 'run make outputs CHAPTER=index'
    assert len(shown[0].split('guidanceFigure(document.currentScript.parentElement, ')[1]) < 250_000


def test_contrast():
    """Words in colour can be read (WCAG AA, 4.5 to 1); lines differ in lightness or marker, so they
    survive a grey print."""
    from matplotlib.colors import to_rgb
    from cfg_lessons.plotting import MARKERS, PALETTE
    def luminance(color):
        return sum(k*(v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4)
                   for k, v in zip((.2126, .7152, .0722), to_rgb(color)))
    on_white = lambda color: 1.05/(luminance(color) + .05)
    words = re.findall(r"'(#[0-9A-F]{6})'", (ROOT/'cfg_lessons'/'exercises.py').read_text())
    assert len(words) >= 3 and all(on_white(c) >= 4.5 for c in words), (
        [(c, on_white(c)) for c in words])
    assert all(on_white(c) >= 3
               for c in (*PALETTE[:4], *PALETTE[6:])) and all(on_white(c) >= 2 for c in PALETTE), [
                   on_white(c) for c in PALETTE
               ]
    assert len(set(MARKERS)) == len(PALETTE) == 8
    sight = {
        'deutan': [[.367, .861, -.228], [.280, .673, .047], [-.012, .043, .969]],
        'protan': [[.152, 1.053, -.205], [.115, .786, .099], [-.004, -.048, 1.052]]
    }  # Machado et al. 2009, full strength
    for name, m in sight.items():
        seen = [[sum(a*b for a, b in zip(row, to_rgb(c))) for row in m] for c in PALETTE]
        nearest = min(
            sum((a - b)**2 for a, b in zip(u, v))**.5 for i, u in enumerate(seen) for v in seen[:i])
        assert nearest > .1, f'two colours look alike to {name} eyes: {nearest:.2f}'


def test_no_private_paths():
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True,
                             text=True).stdout.split('\n')
    files = [ROOT/f for f in tracked if f] or [*NOTEBOOKS, *MODULES]
    for p in files:
        if p.is_file() and p.suffix in ('.py', '.ipynb', '.md', '.toml', '.txt', '.json', '.jsonl',
                                        '.yaml'):
            found = re.search(r'/(home|root|Users|work|tmp|mnt|dev/shm)/\w+',
                              p.read_text(errors='ignore'))
            assert not found, f'{p.name} holds a path of somebody\'s machine: {found.group()}'


def test_glossary():
    """Every term that a chapter prints in bold is in the glossary of the index; each term there is
    bold in its chapter, each name exists."""
    index = '\n'.join(source(c) for c in cells(ROOT/'nbs'/'index.ipynb', 'markdown'))
    table = index.split('## Glossary')[1].split('\n\n')[2]
    rows = [[w.strip() for w in line.strip('| ').split(' |')] for line in table.splitlines()[2:]]
    assert all(len(row) == 4 for row in rows), [row for row in rows if len(row) != 4]
    names = {
        n for path in MODULES for n in re.findall(r'^(?:def|class) (\w+)', path.read_text(), re.M)
    } | {'logsnr', 'logsnrs', 'w', 'cfg_scale', 'guidance_scale'}
    marked, chapters = {}, [p for p in NOTEBOOKS if p in CHAPTERS or p.stem == '95_compare']
    for path in chapters:
        prose = '\n'.join(source(c) for c in cells(path, 'markdown'))
        found = {m for m in re.findall(r'\*\*([^*\n]+)\*\*', prose)}
        marked[path.stem[:2]] = {
            m for m in found
            if not re.match(r'\d|one$|Runs in|Builds on', m) and m[-1] not in '.:?!'
        }
    known = ' '.join(f'{term} {other}' for term, other, _, _ in rows)
    for term, _, name, chapter in rows:
        prose = [p for p in chapters if p.stem.startswith(chapter)][0]
        headings = [line for c in cells(prose, 'markdown') for line in source(c).splitlines()
                    if '# ' in line]
        assert any(term in m for m in [*marked[chapter], *headings]), (
            f'{term} is not bold in chapter {chapter}')
        for n in re.findall(r'`(\w+)`', name): assert n in names, f'{n} of the glossary is nowhere'
    unknown = {(k, m) for k, ms in marked.items() for m in ms if m not in known}
    assert not unknown, f'not in the glossary: {sorted(unknown)}'
