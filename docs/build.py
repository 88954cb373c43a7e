"Render the book into a folder of static pages: `python docs/build.py FOLDER`."
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT/'docs')]
from api import pages as reference


def contents(notebooks, modules):
    "The table of contents as a cell for the front page."
    part = lambda caption, names: '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *names, '```'])
    chapters = [p.stem for p in notebooks if re.match(r'[01]\d_', p.stem)]
    rest = [p.stem for p in notebooks if re.match(r'9\d_', p.stem)]
    text = '\n\n'.join([part('Chapters', chapters), part('Appendices', rest), part('Reference', [f'api_{m}' for m in modules])])
    return dict(cell_type='markdown', id='contents', metadata={}, source=text)


def tidy(book):
    "The book's cells as a page shows them: no directives, long code behind a button."
    for c in book['cells']:
        if c['cell_type'] != 'code': continue
        lines = [line for line in ''.join(c['source']).splitlines(True) if not line.startswith('#|')]
        c['source'] = ''.join(lines)
        plumbing = all(re.match(r'(from|import) |[ )#]|$', line) for line in lines)
        folds = any(tag.startswith('hide') for tag in c['metadata'].setdefault('tags', []))
        long = len(lines) > 25 and 'mark(' not in c['source']
        if not folds and (plumbing or long): c['metadata']['tags'].append('hide-input')
        if named := re.match(r'# ((Check|Solution) [\d.]+)', c['source']):
            c['metadata']['mystnb'] = dict(code_prompt_show=named[1], code_prompt_hide=named[1])
    book['cells'] = [c for c in book['cells'] if ''.join(c['source']).strip()]
    return book


def thumbnail(book, path):
    "Write the left part of a chapter's first figure as a small picture. Returns whether it has one."
    for found in re.finditer(r'data:image/png;base64,([\w+/=]+)', json.dumps([c.get('outputs') for c in book['cells']])):
        picture = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert('RGB')
        if picture.height < 100: continue
        picture = picture.crop((0, 0, min(picture.width, 3*picture.height//2), min(picture.height, picture.width)))
        picture.thumbnail((360, 240), Image.LANCZOS)
        picture.quantize(64).save(path, optimize=True)
        return True
    return False


def social_card(path):
    "Write what a link to the book looks like elsewhere: its title and its two pictures, 1200 x 630."
    card = Image.new('RGB', (1200, 630), 'white')
    for name, top in (('guidance', 110), ('photographs', 345)):
        picture = Image.open(ROOT/'data'/f'{name}.png').convert('RGB')
        picture.thumbnail((1080, 250), Image.LANCZOS)
        card.paste(picture, ((1200 - picture.width)//2, top))
    draw = ImageDraw.Draw(card)
    draw.text((600, 60), 'Guidance in diffusion models: a book that runs', 'black', ImageFont.load_default(44), anchor='mm')
    card.save(path, optimize=True)


def list_chapters(book, folder):
    "Put a picture and a title in place of each file name in the front page's list of chapters."
    def line(found):
        path = ROOT/'nbs'/f'{found[1]}.ipynb'
        chapter = json.loads(path.read_text())
        title = re.match(r'# (.*)', ''.join(chapter['cells'][0]['source']))[1].split(':')[0]
        seen = thumbnail(chapter, folder/f'{path.stem}.png')
        return (f'| [![]({folder.name}/{path.stem}.png)]({path.name})<br>' if seen else '| ') + f'[{title}]({path.name}) |'
    for c in book['cells']: c['source'] = re.sub(r'^\| \[(\d\d_\w+)\.ipynb\]\([^)]+\) \|', line, ''.join(c['source']), flags=re.M)


def repository(text):
    "owner/name of the repository on GitHub that a pyproject.toml names as its Repository, or None."
    url = tomllib.loads(text)['project'].get('urls', {}).get('Repository', '')
    found = re.fullmatch(r'https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?', url)
    if url and not found: sys.exit(f'Repository in pyproject.toml is {url}; Colab opens https://github.com/OWNER/NAME alone.')
    return found and found[1]


def install(repo):
    "What a notebook has to run first where there is no copy of the book, in Colab for instance: data, settings and package."
    name = repo.split('/')[1]
    return f'!git clone --quiet --depth 1 https://github.com/{repo}\n%pip install --quiet --editable "./{name}[lab]"\n%cd {name}/nbs'


def download(path, repo):
    "Lines under the title, as a cell: the notebook to be downloaded, with a repository also a way to open it in Colab, and the modules that it makes."
    source = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code')
    modules = dict.fromkeys(re.findall(r'^#[|] (?:default_exp|exports) (\w+)$', source, re.M))
    made = 'Reference: ' + ', '.join(f'<a class="reference" href="api_{m}.html"><code>{m}</code></a>' for m in modules) + '. ' if modules else ''
    text = f'<p class="notebook">{made}<a href="notebooks/{path.name}" download>Download this notebook</a> and run it in the book\'s JupyterLab (<code>make lab</code>)'
    if not repo: text += '.</p>'
    else:
        text += f', or <a href="https://colab.research.google.com/github/{repo}/blob/main/nbs/{path.name}">open it in Colab</a>.</p>\n\n'
        text += f'<details class="notebook"><summary>The first cell to run in Colab</summary>\n\n```\n{install(repo)}\n```\n\n</details>'
    return dict(cell_type='markdown', id='download', metadata={}, source=text)


def build(out):
    "The pages under `out`, whole or not at all; returns sphinx's exit status. Exits rather than touch a folder of the reader's."
    out = out.resolve()
    ours = not out.exists() or out.is_dir() and (not any(out.iterdir()) or (out/'.buildinfo').is_file())
    if not ours: sys.exit(f'{out} holds something else than an earlier rendering of the book; name another folder.')
    notebooks = sorted(p for p in (ROOT/'nbs').glob('*.ipynb') if re.fullmatch(r'index|\d\d_\w+', p.stem))
    repo = repository((ROOT/'pyproject.toml').read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}-') as folder:
        source, made = Path(folder)/'source', Path(folder)/'made'
        (source/'extra'/'notebooks').mkdir(parents=True), (source/'first').mkdir()
        for name in ('conf.py', 'favicon.svg', 'book.css'): shutil.copy(ROOT/'docs'/name, source)
        modules = reference(sorted(p for p in (ROOT/'cfg_lessons').glob('*.py') if not p.stem.startswith('_')))
        for name, text in modules.items(): (source/f'api_{name}.md').write_text(text)
        for path in notebooks:
            book = tidy(json.loads(path.read_text()))
            shutil.copy(path, source/'extra'/'notebooks')
            if path.stem == 'index': list_chapters(book, source/'first'), book['cells'].append(contents(notebooks, modules))
            else: book['cells'].insert(1, download(path, repo))
            (source/path.name).write_text(json.dumps(book))
        social_card(source/'extra'/'card.png')
        owner, _, name = (repo or '').partition('/')
        env = os.environ | dict(BOOK_ADDRESS=f'https://{owner}.github.io/{name}/' if repo else '')
        status = subprocess.call([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', '-d', f'{folder}/trees', str(source), str(made)], env=env)
        if not status:
            if out.exists(): shutil.rmtree(out)
            made.replace(out)
    return status


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('Name the folder for the pages: python docs/build.py html')
    status = build(Path(sys.argv[1]))
    if not status:
        weights = sorted(((p.stat().st_size, p.name) for p in Path(sys.argv[1]).glob('*.html')), reverse=True)
        print('The heaviest pages:', ', '.join(f'{name} {size/1000:.0f} kB' for size, name in weights[:5]))
        print(f'Open {sys.argv[1]}/index.html in a browser.')
    sys.exit(status)
