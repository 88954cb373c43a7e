"""Do the exercises judge fairly? Every check of the book gets right answers, each written in
another way, and answers that are wrong in a plausible way; it must refuse the second and accept the
first.

The answers stand in tests/exercise_answers.py, by the name of the check. Of a chapter only those
statements are run that its checks and these answers use, found by their names, so that no figure is
drawn and nothing is trained that is not asked for."""
import ast
import builtins
import dis
import functools
import json
import os
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from cfg_lessons.exercises import _find_exercises, _grade
from exercise_answers import CACHED, CASES, CHEAPER, KNOWN, PRELUDE

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [p for p in sorted((ROOT/'nbs').glob('*.ipynb')) if re.match(r'[01]\d_|9[45]_', p.name)]
EXERCISES = {check: path for path in CHAPTERS for _, check, _ in _find_exercises(path)[0]}
FILLS = 'load', 'load_state_dict', 'register'  # calls that change what they are given


def names_used(code, inside=False):
    """Names that a code object takes from its module: those at once, and those in the functions
    that it makes."""
    now = {i.argval for i in dis.get_instructions(code) if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME')}
    later = [names_used(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return now, set().union(*(n | l for n, l in later))

def statements(book):
    """(code, names bound, names used at once, names used in functions) of each statement, solutions
    left out."""
    found = []
    for cell in book['cells']:
        text = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or text.startswith('# Solution') or re.match(
                r'\s*[%!]', text):
            continue
        for node in ast.parse(text).body:
            calls = [
                n for n in ast.walk(node) if isinstance(n, ast.Call)
                and getattr(n.func, 'id', getattr(n.func, 'attr', '')) in FILLS
            ]
            if isinstance(node, ast.FunctionDef): calls = []
            if isinstance(node, ast.Expr) and not calls: continue
            code = compile(ast.Module([node], []), 'chapter', 'exec')
            bound = {
                i.argval for i in dis.get_instructions(code)
                if i.opname in ('STORE_NAME', 'STORE_GLOBAL')
            }
            for c in calls:
                bound |= {a.id for a in [*c.args, c.func] if isinstance(a, ast.Name)} | {
                    a.id for a in ast.walk(c.func) if isinstance(a, ast.Name) and a is not c.func
                }
            now, later = names_used(code)
            if 'register' in now & bound:
                bound, now = bound | {'Extractor'}, now | {'Extractor'
                                                           }  # which looks into the register
            found.append((code, bound - {'torch', 'load'}, now, later))
    return found

@functools.cache
def library():
    """What answers may use without an import: torch, numpy and everything that the library's parts
    export."""
    space = {}
    exec(PRELUDE, space)
    return space

def made(answer, space):
    "An answer: an expression, or statements of which the last one makes it."
    try: return eval(compile(answer, 'answer', 'eval'), space)
    except SyntaxError: pass
    tree = ast.parse(answer)
    exec(compile(tree, 'answer', 'exec'), space)
    return space[tree.body[-1].name]

def remembered(f):
    """A function that is computed once for the same numbers among its arguments, whatever the
    others are."""
    known = {}
    def g(*args, **kwargs):
        key = tuple(a for a in (*args, *kwargs.values()) if isinstance(a, (int, float, str)))
        if key not in known: known[key] = f(*args, **kwargs)
        return known[key]
    return g

@functools.cache
def chapter(path):
    """The names that the checks and the answers of a chapter need, after its statements that make
    them."""
    body = statements(json.loads(path.read_text()))
    checks = [c for c, p in EXERCISES.items() if p == path and c in CASES]
    texts = [a for c in checks for a in (*CASES[c].right, *CASES[c].wrong)]
    own = library()
    wanted = [(c, len(body)) for c in checks]
    wanted += [(n, len(body)) for t in texts
               for n in set().union(*names_used(compile(t, 'answer', 'exec'))) if n not in own]
    needed, seen = set(), set()
    while wanted:
        name, before = wanted.pop()
        if (name, before) in seen or hasattr(builtins, name): continue
        seen.add((name, before))
        for i in range(before - 1, -1, -1):
            _, bound, now, later = body[i]
            if name not in bound: continue
            needed.add(i)
            if name in CHEAPER:
                wanted += [
                    (n, i)
                    for n in set().union(*names_used(compile(CHEAPER[name], 'cheaper', 'eval')))
                ]
                break
            wanted += [(n, i) for n in now | later] + [(n, len(body))
                                                       for n in later if not any(n in body[j][1]
                                                                                 for j in range(i))]
            if name not in now: break  # else it is only changed there
    space = dict(own)
    torch.set_num_threads(1)  # many small steps, and other tests beside
    here = os.getcwd()
    os.chdir(ROOT/'nbs')
    try:
        for i in sorted(needed):
            if body[i][1] <= CHEAPER.keys():
                space |= {name: eval(CHEAPER[name], space) for name in body[i][1]}
            else: exec(body[i][0], space)
    finally: os.chdir(here)
    space.update({name: remembered(space[name]) for name in CACHED if name in space})
    return space


def mapped(out, change):
    """An answer's output with each number, array or tensor in it changed; a function answers
    changed."""
    if isinstance(out, (tuple, list)): return type(out)(mapped(o, change) for o in out)
    if isinstance(out, types.FunctionType): return lambda *a, **k: mapped(out(*a, **k), change)
    return change(out)

def through(change):
    "A mistake: the right function, and then a change of what it returns."
    return lambda f: functools.wraps(f)(lambda *a, **k: mapped(f(*a, **k), change))

def rows(change, otherwise):
    return through(lambda o: change(o)
                   if isinstance(o, torch.Tensor) and o.ndim and len(o) > 1 else otherwise(o))

def innermost(f, do):
    "A function that returns functions, with `do(arguments, output)` in place of the last output."
    def g(*a, **k):
        out = f(*a, **k)
        return innermost(out, do) if isinstance(out, types.FunctionType) else do(a, out)
    return functools.wraps(f)(g)

MISTAKES = {  # of any function; some do not apply to some exercises, which then say so
    'nothing': lambda f: innermost(f, lambda a, o: None),
    'input': lambda f: innermost(f, lambda a, o: a[0]),
    'twice': through(lambda o: 2*o),
    'half': through(lambda o: .5*o),
    'negated': through(lambda o: -1*o),
    'plus': through(lambda o: o + .1),
    'axis': through(lambda o: o[..., None] if isinstance(o, torch.Tensor)
                    else np.array([[o, o]], dtype=object)),
    'batch': rows(lambda o: o.sum(0, keepdim=True).expand_as(o), lambda o: 3*o),
    'flipped': rows(lambda o: o.flip(0), lambda o: 1/(o + 3)),
    'nan': through(lambda o: o*float('nan')),
}

def plain(o): return o.detach().numpy() if isinstance(o, torch.Tensor) else np.asarray(o)

def other_type(o):
    if isinstance(o, torch.Tensor):
        return o.float() if o.dtype == torch.float64 else o.double() if o.is_floating_point() else o
    return np.float64(o) if isinstance(o, (int, float)) else o

WAYS = {  # to write the same
    'other float type': through(other_type),
    'numpy': through(plain),
    'list': through(lambda o: plain(o).tolist()),
    'other parameters': lambda f: lambda *a, **k: f(*a, **k),
    'needs a gradient': through(
        lambda o: o.clone().requires_grad_()
        if isinstance(o, torch.Tensor) and o.is_floating_point() else o),
}

def answers(check, case, space):
    "({what it is: right answer}, {what it is: wrong answer})."
    right, wrong = ({
        text: made(text, space) for text in texts
    } for texts in (case.right, case.wrong))
    first = next(iter(right.values()))
    if isinstance(first, types.FunctionType):
        right |= {
            way: change(first) for way, change in WAYS.items() if way not in case.skip and case.auto
        }
        wrong |= {
            slip: change(first) for slip, change in MISTAKES.items()
            if slip not in case.skip and case.auto
        }
    wrong['None'] = None
    return right, wrong

def graded(check):
    "Verdicts on right and wrong answers, {what it is: verdict}."
    if check not in EXERCISES:
        pytest.skip(f'{check} is no exercise of the book any more; its answers can go.')
    space = chapter(EXERCISES[check])
    here, state = os.getcwd(), torch.get_rng_state()
    os.chdir(ROOT/'nbs')
    try:
        return [{
            what: _grade(space[check], a) for what, a in group.items()
        } for group in answers(check, CASES[check], space)]
    finally:
        os.chdir(here)
        torch.set_rng_state(state)

graded = functools.cache(graded)

def marked(side):
    known = lambda check: pytest.mark.xfail(strict=False, reason=KNOWN[check, side]) if (
        check, side) in KNOWN else ()
    return pytest.mark.parametrize('check', [pytest.param(c, marks=known(c)) for c in CASES])

@marked('right')
def test_right_answers_are_accepted(check):
    refused = {what: v.sentence for what, v in graded(check)[0].items() if v.state != 'right'}
    assert not refused, json.dumps(refused, indent=1, ensure_ascii=False)

@marked('wrong')
def test_wrong_answers_are_refused(check):
    accepted = [what for what, v in graded(check)[1].items() if v.state == 'right']
    assert not accepted, json.dumps(accepted, indent=1, ensure_ascii=False)

def test_every_exercise_is_tried():
    missing = [c for c in EXERCISES if c not in CASES]
    assert not missing, f'no answers to try for {missing}'
    few = {
        c: (len(r), len(w)) for c in CASES if c in EXERCISES for r, w in [graded(c)]
        if len(r) < 5 or len(w) < 10
    }
    assert not few, few
