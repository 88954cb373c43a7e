"Render the book into a folder of static pages: `python docs/build.py FOLDER`."
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def contents(notebooks):
    "The table of contents as a cell for the front page."
    part = lambda caption, names: '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *names, '```'])
    chapters = [p.stem for p in notebooks if re.match(r'[01]\d_', p.stem)]
    rest = [p.stem for p in notebooks if re.match(r'9\d_', p.stem)]
    text = part('Chapters', chapters) + '\n\n' + part('Appendices', rest)
    return dict(cell_type='markdown', id='contents', metadata={}, source=text)


def build(out):
    "The pages under `out`, whole or not at all; returns sphinx's exit status. Exits rather than touch a folder of the reader's."
    out = out.resolve()
    ours = not out.exists() or out.is_dir() and (not any(out.iterdir()) or (out/'.buildinfo').is_file())
    if not ours: sys.exit(f'{out} holds something else than an earlier rendering of the book; name another folder.')
    notebooks = sorted(p for p in (ROOT/'nbs').glob('*.ipynb') if re.fullmatch(r'index|\d\d_\w+', p.stem))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}-') as folder:
        source, made = Path(folder)/'source', Path(folder)/'made'
        source.mkdir()
        shutil.copy(ROOT/'docs'/'conf.py', source)
        for path in notebooks:
            book = json.loads(path.read_text())
            if path.stem == 'index': book['cells'].append(contents(notebooks))
            (source/path.name).write_text(json.dumps(book))
        status = subprocess.call([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', str(source), str(made)])
        if not status:
            if out.exists(): shutil.rmtree(out)
            made.replace(out)
    return status


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('Name the folder for the pages: python docs/build.py html')
    status = build(Path(sys.argv[1]))
    if not status: print(f'Open {sys.argv[1]}/index.html in a browser.')
    sys.exit(status)
