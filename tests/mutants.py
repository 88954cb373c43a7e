"""Mutation testing: plants small faults in the library, one at a time, and counts who notices.

    python tests/mutants.py diffusion sampling         every fault in these modules
    python tests/mutants.py --sample 60 --seed 0       60 faults out of all modules

The faults are those of cosmic-ray (its operators and its parser); what is added here is speed: one process
imports PyTorch once, and each fault gets a fork of it, in a copy of the folder. A fault is shown first to
the quick tests, and only if it survives them to the chapter of its module. Survivors that no test could
notice are listed with their reason in tests/equivalent_mutants.json."""
import argparse
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
COMPARISONS = ['Lt_LtE', 'LtE_Lt', 'Gt_GtE', 'GtE_Gt', 'Eq_NotEq', 'NotEq_Eq', 'Is_IsNot', 'IsNot_Is']
OTHERS = ['NumberReplacer', 'AddNot', 'ReplaceAndWithOr', 'ReplaceOrWithAnd', 'ReplaceTrueWithFalse',
          'ReplaceFalseWithTrue', 'ZeroIterationForLoop', 'RemoveDecorator', 'ExceptionReplacer',
          'ReplaceUnaryOperator_Delete_USub', 'ReplaceUnaryOperator_Delete_Not',
          'ReplaceUnaryOperator_Delete_Invert']
OPERATORS = [*(f'ReplaceBinaryOperator_{s}' for s in SWAPS),
             *(f'ReplaceComparisonOperator_{c}' for c in COMPARISONS), *OTHERS]


def faults(module, text):
    "Every fault in a module: (where, changed text); where is the module and the line before and after."
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator
    tree = get_ast(text)
    for name in OPERATORS:
        operator = get_operator(f'core/{name}')()
        places = [p for node in ast_nodes(tree) for p in operator.mutation_positions(node)]
        for i in range(len(places)):
            changed = mutate_code(text, operator, i)
            if changed is not None: yield f'{module}: {difference(text, changed)}', changed


def difference(before, after):
    "The changed lines, as `old -> new`."
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=''))[3:]
    side = lambda sign: ' '.join(line[1:].strip() for line in lines if line[0] == sign)
    return f'{side("-")} -> {side("+")}'


def quick_tests():
    "Whether the quick tests pass."
    import pytest
    return pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', *QUICK,
                        '--hypothesis-profile=mutants']) == 0

def chapter(module):
    "Whether the chapter of the module passes, run against the library."
    import run_notebook
    run_notebook.main([f'nbs/{CHAPTERS[module]}.ipynb'])  # raises SystemExit if not
    return True


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


def notices(module, chapters):
    "The name of the first check that fails, or None."
    if not passes(quick_tests, 120): return 'quick'
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


def main(modules, sample, seed, chapters, out):
    "Plant the faults, write one line for each to `out`, print the table and the survivors."
    texts = {m: (ROOT/'cfg_lessons'/f'{m}.py').read_text() for m in modules}
    planned = [(m, *fault) for m, text in texts.items() for fault in faults(m, text)]
    if sample and sample < len(planned): planned = random.Random(seed).sample(planned, sample)
    excused, tally = json.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}, {}
    planned = [p for p in planned if p[1] not in excused]
    with tempfile.TemporaryDirectory() as folder, open(out, 'w') as record:
        copied(Path(folder))
        import hypothesis.strategies, matplotlib.pyplot, pytest, sklearn.datasets, torch.distributions  # noqa: E401, F401
        if notices(modules[0], False): raise SystemExit('The tests fail without any fault.')
        for m, where, changed in planned:
            Path(f'cfg_lessons/{m}.py').write_text(changed)
            noticed = notices(m, chapters)
            Path(f'cfg_lessons/{m}.py').write_text(texts[m])
            print(json.dumps(dict(module=m, fault=where, noticed=noticed)), file=record, flush=True)
            tally.setdefault(m, []).append(bool(noticed))
            if not noticed: print('survives:', where, flush=True)
    for m, seen in tally.items(): print(f'{m:20} {sum(seen):4} of {len(seen):4} noticed')
    total = [s for seen in tally.values() for s in seen]
    print(f'{"all":20} {sum(total):4} of {len(total):4} noticed, {sum(total)/max(len(total), 1):.1%}')
    return sum(total)/max(len(total), 1)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('modules', nargs='*', default=list(CHAPTERS))
    parser.add_argument('--sample', type=int, help='how many faults; all if left out')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--quick', action='store_true', help='leave the chapters out')
    parser.add_argument('--out', default='mutants.jsonl')
    parser.add_argument('--least', type=float, default=0., help='fail below this share')
    a = parser.parse_args()
    os.environ |= dict(OMP_NUM_THREADS='1', MPLBACKEND='agg', CFG_LESSONS_PROFILE='quick', CFG_LESSONS_DEVICE='cpu')
    if main(a.modules, a.sample, a.seed, not a.quick, Path(a.out).resolve()) < a.least: sys.exit(1)
