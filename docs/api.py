"The reference of the library: a page for each module, made of its docstrings and of the comments beside its parameters."
import importlib
import inspect
import re

from fastcore.docments import docments


def signature(name, f):
    "A call with its defaults, a parameter in each line if it is long."
    parts = []
    for p in inspect.signature(f).parameters.values():
        if p.name == 'self': continue
        default = p.default if isinstance(p.default, (int, float, str, tuple, dict, type(None))) else getattr(p.default, '__name__', '...')
        shown = repr(default) if default is p.default else default
        parts.append('*'*(p.kind is p.VAR_POSITIONAL) + '**'*(p.kind is p.VAR_KEYWORD) + p.name + ('' if p.default is p.empty else f'={shown}'))
    one = f'{name}({", ".join(parts)})'
    return one if len(one) < 90 else f'{name}(\n' + ''.join(f'    {p},\n' for p in parts) + ')'


def entry(name, thing, level='##'):
    "What the reference says of a function or a class."
    lines = [f'{level} {name}', '']
    if callable(thing):
        try: lines += ['```python', signature(name, thing), '```', '']
        except ValueError: pass
    text = inspect.getdoc(thing) or ''
    lines += [''.join(part if i % 2 else re.sub(r'([*<$])', r'\\\1', part) for i, part in enumerate(re.split('(`[^`]*`)', text))), '']
    try: told = {k: v['docment'] for k, v in docments(thing, full=True).items() if isinstance(v, dict) and v.get('docment') and k not in ('return', 'self')}
    except (ValueError, TypeError, OSError): told = {}
    if told: lines += ['| parameter | |', '|---|---|', *(f'| `{k}` | {" ".join(str(v).split()).replace("|", chr(92) + "|")} |' for k, v in told.items()), '']
    if inspect.isclass(thing):
        for method, f in vars(thing).items():
            if not method.startswith('_') and inspect.isfunction(f) and f.__qualname__.startswith(name): lines += entry(f'{name}.{method}', f, level + '#')
    return lines


def pages(modules):
    "Text of the page for each module that exports something, {name: Markdown}."
    made = {}
    for path in modules:
        module = importlib.import_module(f'cfg_lessons.{path.stem}')
        names = getattr(module, '__all__', [])
        if not names: continue
        source = re.search(r'File to edit: \.\./nbs/(\w+)\.ipynb', path.read_text())
        lines = [f'# cfg_lessons.{path.stem}', '', (module.__doc__ or '').strip(), '']
        if source: lines += [f'Taught in chapter [{source[1]}]({source[1]}.ipynb).', '']
        plain = [n for n in names if not callable(getattr(module, n))]
        if plain: lines += ['Values: ' + ', '.join(f'`{n}`' for n in plain) + '.', '']
        for n in names:
            if n not in plain: lines += entry(n, getattr(module, n))
        made[path.stem] = '\n'.join(lines) + '\n'
    return made
