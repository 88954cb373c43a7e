"""Mutation testing: plants small faults in the library, one at a time, and counts who notices.

    python tests/mutants.py diffusion sampling         every fault in these modules
    python tests/mutants.py --sample 6 --seed 0        6 faults in each module

The faults are those of cosmic-ray (its operators and its parser); what is added here is speed: one
process imports PyTorch once, and each fault gets a fork of it, in a copy of the folder. A fault is
shown first to the quick tests, and only if it survives them to the chapter of its module. Survivors
that no test could notice are listed with their reason in tests/equivalent_mutants.json."""
import argparse
import ast
import contextlib
import difflib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT/'tests'/'equivalent_mutants.json'
CHAPTERS = dict(diffusion='01_diffusion', mixtures='02_mixtures', sampling='03_sampling',
                networks='04_networks', training='05_training', metrics='08_metrics',
                classifier_guidance='06_classifier_guidance', images='09_images',
                classifier_free='07_classifier_free', tilting='12_tilting', beyond='13_beyond')
QUICK = ['tests/test_laws.py', 'tests/test_details.py']
SWAPS = ['Add_Sub', 'Sub_Add', 'Mul_Div', 'Div_Mul', 'Pow_Mul', 'FloorDiv_Mul', 'Mod_FloorDiv',
         'BitAnd_BitOr', 'BitOr_BitAnd']
COMPARISONS = ['Lt_LtE', 'LtE_Lt', 'Gt_GtE', 'GtE_Gt', 'Eq_NotEq', 'NotEq_Eq', 'Is_IsNot',
               'IsNot_Is']
OTHERS = ['NumberReplacer', 'AddNot', 'ReplaceAndWithOr', 'ReplaceOrWithAnd',
          'ReplaceTrueWithFalse', 'ReplaceFalseWithTrue', 'ZeroIterationForLoop', 'RemoveDecorator',
          'ExceptionReplacer',
          'ReplaceUnaryOperator_Delete_USub', 'ReplaceUnaryOperator_Delete_Not',
          'ReplaceUnaryOperator_Delete_Invert']
OPERATORS = [*(f'ReplaceBinaryOperator_{s}' for s in SWAPS),
             *(f'ReplaceComparisonOperator_{c}' for c in COMPARISONS), *OTHERS]


def places(text):
    "Every place for a fault in a module: (name of the operator, number of its occurrence, line)."
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator
    nodes = list(ast_nodes(get_ast(text)))
    for name in OPERATORS:
        found = [p for n in nodes for p in get_operator(f'core/{name}')().mutation_positions(n)]
        yield from ((name, i, start[0]) for i, (start, _) in enumerate(found))


def planted(text, name, occurrence):
    "The text of the module with one fault in it."
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
    return mutate_code(text, get_operator(f'core/{name}')(), occurrence)


def difference(before, after):
    "The changed lines, as `old -> new`."
    both = before.splitlines(), after.splitlines()
    lines = list(difflib.unified_diff(*both, n=0, lineterm=''))[3:]
    side = lambda sign: ' '.join(line[1:].strip() for line in lines if line[0] == sign)
    return f'{side("-")} -> {side("+")}'


def quick_tests(tests=QUICK, plugins=(), more=()):
    "Whether these tests pass."
    import pytest
    return pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', '--assert=plain',
                        '--tb=no', '--hypothesis-profile=mutants', *more, *tests], plugins) == 0

def chapter(module):
    "Whether the chapter of the module passes, run against the library."
    import run_notebook
    run_notebook.main([f'nbs/{CHAPTERS[module]}.ipynb'], 600)
    return True  # else SystemExit


class Reached:
    "Which tests run which lines, learnt from one run under coverage."
    def __init__(self):
        import coverage
        self.cov = coverage.Coverage(data_file=None, source_pkgs=['cfg_lessons'], config_file=False)

    def pytest_runtest_setup(self, item): self.cov.switch_context(item.nodeid.split('[')[0])

    def warm_up(self):
        """Run the quick tests here, so that every fork has what they import; then forget what is
        ours, so that each fork imports it with its fault."""
        with self.cov.collect():
            sound = quick_tests(plugins=[self])
        names = self.cov.get_data().measured_contexts() - {''}
        if not sound or not passes(lambda: quick_tests(names, more=['--collect-only']), 120):
            raise SystemExit('The tests fail without a fault, or cannot be named one by one.')
        ours = ('cfg_lessons', 'conftest', *(Path(p).stem for p in QUICK))
        for name in [n for n in sys.modules if n.split('.')[0] in ours]: del sys.modules[name]

    def tests(self, module, text, line):
        "The tests that run anything of the function or class round a line; all if none does."
        tops = [n for n in ast.parse(text).body if n.lineno <= line <= n.end_lineno]
        data = self.cov.get_data()
        seen = data.contexts_by_lineno(str(Path(f'cfg_lessons/{module}.py').resolve()))
        inside = range(tops[0].lineno, tops[0].end_lineno + 1) if tops else ()
        return sorted({t for n in inside for t in seen.get(n, ()) if t}) or QUICK


def passes(check, limit):
    "Whether a check passes in a fork of this process within so many seconds."
    child = os.fork()
    if not child:
        os.setsid()
        with open(os.devnull, 'w') as null: os.dup2(null.fileno(), 1), os.dup2(null.fileno(), 2)
        good = False
        with contextlib.suppress(BaseException): good = check()
        os._exit(0 if good else 1)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done: return status == 0
        time.sleep(.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def notices(module, tests, chapters):
    "The name of the first check that fails, or None."
    if not passes(lambda: quick_tests(tests), 120): return 'quick'
    if chapters and not passes(lambda: chapter(module), 900): return 'chapter'


def copied(folder):
    "A copy of the book in which faults may be planted; the data is only linked."
    for name in ('cfg_lessons', 'tests', 'nbs'):
        shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'settings.ini', 'README.md'): shutil.copy(ROOT/name, folder)
    (folder/'data').symlink_to(ROOT/'data')
    os.chdir(folder)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(folder), str(folder/'tests')]
    os.environ['PYTHONPATH'] = str(folder)


def plan(texts, sample, seed):
    "Which faults to plant: (module, operator, occurrence, line); so many a module, or all."
    for m, text in texts.items():
        found = list(places(text))
        few = random.Random(seed).sample(found, min(sample or len(found), len(found)))
        yield from ((m, *place) for place in few)


def report(tally):
    "Print how many faults of each module were noticed, and return the share of all."
    for m, seen in tally.items(): print(f'{m:20} {sum(seen):4} of {len(seen):4} noticed')
    total = [s for seen in tally.values() for s in seen]
    share = sum(total)/max(len(total), 1)
    print(f'{"all":20} {sum(total):4} of {len(total):4} noticed, {share:.1%}')
    return share


def survivors(path):
    "The faults that nobody noticed, of a file that an earlier run wrote."
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {r['fault'] for r in records if not r['noticed']}


def main(modules, sample, seed, chapters, out, again=None):
    "Plant the faults, write one line for each to `out`, print the survivors and the table."
    texts = {m: (ROOT/'cfg_lessons'/f'{m}.py').read_text() for m in modules}
    excused, tally = json.loads(EQUIVALENT.read_text()), {}
    wanted = again and survivors(again)
    with tempfile.TemporaryDirectory() as folder, open(out, 'w') as record:
        copied(Path(folder))
        reached = Reached()
        reached.warm_up()
        for m, name, occurrence, line in plan(texts, sample, seed):
            changed = planted(texts[m], name, occurrence)
            where = f'{m}: {difference(texts[m], changed)}'
            if where in excused or again and where not in wanted: continue
            Path(f'cfg_lessons/{m}.py').write_text(changed)
            noticed = notices(m, reached.tests(m, texts[m], line), chapters)
            Path(f'cfg_lessons/{m}.py').write_text(texts[m])
            print(json.dumps(dict(module=m, fault=where, noticed=noticed)), file=record, flush=True)
            tally.setdefault(m, []).append(bool(noticed))
            if not noticed: print('survives:', where, flush=True)
    return report(tally)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('modules', nargs='*', default=list(CHAPTERS))
    parser.add_argument('--sample', type=int, help='how many faults a module; all if left out')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--quick', action='store_true', help='leave the chapters out')
    parser.add_argument('--out', default='mutants.jsonl')
    parser.add_argument('--again', help='a file of --out: only those that survived there')
    parser.add_argument('--least', type=float, default=0., help='fail below this share')
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', CFG_LESSONS_PROFILE='quick',
                       CFG_LESSONS_DEVICE='cpu')
    share = main(a.modules, a.sample, a.seed, not a.quick, Path(a.out).resolve(), a.again)
    if share < a.least: sys.exit(1)
