"Records of what was measured: JSON files, with the machine, the commit and the command."
import hashlib
import json
from importlib import metadata
from pathlib import Path

from cfg_lessons.records import provenance
from cfg_lessons.training import atomic_write


def store(
    folder,  # where records are kept, e.g. data/results/bench; it is made
    record,  # facts, a dict with at least `bench`, `what` and `cases`
):
    "Write a record under the name of its bench, its shape and the machine; return the path."
    versions = {}
    for package in ('torch', 'diffusers', 'denoising-diffusion-pytorch'):
        try: versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError: pass
    record = provenance() | record | dict(versions=versions)
    where = hashlib.sha256(f'{record["machine"]}{record.get("threads")}'.encode()).hexdigest()[:8]
    path = Path(folder)/f'{record["bench"]}_{record["what"]}_{where}.json'
    with atomic_write(path) as f: f.write((json.dumps(record, indent=1) + '\n').encode())
    return path


def newest(
    folder,  # where records are kept
    bench,  # which bench, e.g. "forward"
    **wanted,  # facts that the record must state, e.g. what='ADM64'
):
    "The latest record of a bench, a dict. Raises ValueError if there is none."
    paths = sorted(Path(folder).glob(f'{bench}_*.json'))
    records = [json.loads(path.read_text()) for path in paths]
    records = [c for c in records if all(c.get(k) == v for k, v in wanted.items())]
    if not records: raise ValueError(f'{folder} has no record of the bench {bench} {wanted or ""}.')
    return max(records, key=lambda c: c['date'])


def table(
    facts,  # of a record
):
    "The cases of a record in lines of text."
    def cell(v): return f'{v:12.4g}' if isinstance(v, float) else f'{v!s:>12}'
    lines = [f'{facts["bench"]}, {facts["what"]}']
    for name, case in facts['cases'].items():
        shown = {k: v for k, v in case.items() if not isinstance(v, list)}
        if len(lines) == 1: lines.append(' '*44 + ''.join(f' {k[-11:]:>11}' for k in shown))
        lines.append(f'{name:44}' + ''.join(map(cell, shown.values())))
    return '\n'.join(lines)
