"""The book in a real browser: headless Chromium drives the project's own JupyterLab, runs pages,
moves controls.

Where no browser is found the tests are skipped; where CI is set, that is a failure. Run as a
program, it writes the latency of the guidance picture as a record: `python
tests/test_browser.py`."""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))),
    None)
FLAGS = [
    '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run',
    '--disable-component-update', '--disable-sync'
]
LIVE = '.jp-OutputArea-output img.widget-image'  # the picture of a `Live`


def browser_or_skip():
    "Playwright's way in, or the reason to skip; in CI there is no reason."
    reason = None
    try: from playwright.sync_api import sync_playwright
    except ImportError: reason = 'playwright is not installed: pip install playwright'
    if not reason and not CHROMIUM:
        reason = 'no Chromium or Chrome was found; on Debian: apt install chromium'
    if not reason: return sync_playwright
    if os.environ.get('CI'): pytest.fail(f'In CI the browser tests must run: {reason}')
    pytest.skip(reason)

@pytest.fixture(scope='module')
def browser():
    "One headless Chromium for all tests."
    with browser_or_skip()() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

@pytest.fixture(scope='module')
def page(tmp_path_factory, browser):
    "An empty page, and the address of a JupyterLab that serves a copy of the book."
    home = tmp_path_factory.mktemp('book')
    (home/'nbs').mkdir()
    for path in (ROOT/'nbs').glob('*.ipynb'):  # without outputs, so that what is seen was made now
        book = json.loads(path.read_text())
        for cell in book['cells']:
            if cell['cell_type'] == 'code': cell |= dict(outputs=[], execution_count=None)
        (home/'nbs'/path.name).write_text(json.dumps(book))
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(ROOT/name, home)
    (home/'data').mkdir()
    for name in ('checkpoints', 'results', 'reference'):
        (home/'data'/name).symlink_to(ROOT/'data'/name)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | dict(OMP_NUM_THREADS='1', JUPYTER_PREFER_ENV_PATH='1', JUPYTER_DATA_DIR=str(
        home/'jupyter'), JUPYTER_CONFIG_DIR=str(home/'config'), CFG_LESSONS_PROFILE='quick',
                            CFG_LESSONS_DEVICE='cpu', PYTHONNOUSERSITE='1')
    command = [
        sys.executable, '-m', 'jupyterlab', '--no-browser', f'--port={port}',
        '--IdentityProvider.token=t', '--notebook-dir=nbs'
    ]
    command += re.findall(r'--ContentsManager\S+',
                          (ROOT/'Makefile').read_text())  # as `make lab` has it
    if hasattr(os, 'geteuid') and os.geteuid() == 0: command.append('--allow-root')
    server = subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status?token=t', timeout=2)
                break
            except OSError: time.sleep(.5)
        page = browser.new_page(viewport=dict(width=1300, height=1100))
        page.address = f'http://127.0.0.1:{port}/lab/tree/%s?token=t&reset'
        page.home, page.env = home, env
        yield page
        page.close()
    finally:
        server.terminate()
        server.wait(30)

def errors_of(page):
    "The texts of errors and warnings that stand below the cells."
    return page.eval_on_selector_all(
        '.jp-OutputArea-output[data-mime-type*="error"], '
        '.jp-OutputArea-output[data-mime-type*="stderr"]',
        'es => es.map(e => e.textContent)')

def run_all(page, notebook, patience=300):
    """Open a notebook, run all its cells, wait until none is waiting, and return the texts of
    errors."""
    page.goto(page.address % notebook)
    page.wait_for_selector('.jp-NotebookPanel .jp-InputPrompt', timeout=120_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
    end, idle = time.time() + patience, 0
    while time.time() < end:
        if asks := page.query_selector('.jp-Dialog .jp-mod-accept'):
            asks.click()  # which kernel? the one it offers
        prompts = page.eval_on_selector_all('.jp-CodeCell .jp-InputArea .jp-InputPrompt',
                                            'es => es.map(e => e.textContent)')
        waits = any('*' in p for p in prompts) or not page.query_selector(
            '.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        if prompts and not waits and all(re.search(r'\d', p) for p in prompts):
            return errors_of(page)  # of cells that are not folded
        idle = 0 if waits else idle + 1
        # not sooner: a kernel says that it is idle, connects once more, and forgets what it was
        # asked
        if idle == 3:
            if errors := errors_of(page): return errors
            page.click('.lm-MenuBar-itemLabel:text-is("Run")')
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            idle = 0
        time.sleep(1)
    pytest.fail(f'{notebook} was still running after {patience} s')

def look(page, picture):
    "What is seen in the picture now: its source, which changes with every new PNG."
    return picture.evaluate('e => e.src')

def controls_of(picture):
    "The sliders and lists that stand above a picture, in order."
    box = picture.evaluate_handle('e => e.closest(".widget-vbox")').as_element()
    return box.query_selector_all('.noUi-handle, select')

def test_every_moving_picture_follows_its_controls_without_an_error(page):
    errors = run_all(page, '91_lab.ipynb')
    assert not errors, errors
    page.wait_for_selector(LIVE, timeout=30_000)
    found = page.query_selector_all(LIVE)
    assert len(found) == 5, f'{len(found)} moving pictures instead of five'
    for picture in found:
        assert picture.evaluate('e => e.naturalWidth') > 100
        picture.scroll_into_view_if_needed()
        for control in controls_of(picture):
            before = look(page, picture)
            if control.evaluate('e => e.tagName') == 'SELECT': control.select_option(index=1)
            else:
                control.focus()
                for _ in range(8): page.keyboard.press('ArrowRight')
            page.wait_for_function('([e, before]) => e.src != before', arg=[picture, before],
                                   timeout=20_000)
    assert not errors_of(page)

def test_moving_pictures_speak(page):
    """What a screen reader gets: each control's name, its value as the readout has it, the picture
    in words that follow."""
    for picture in page.query_selector_all(LIVE):
        picture.scroll_into_view_if_needed()
        box = picture.evaluate_handle('e => e.closest(".widget-vbox")').as_element()
        heard = lambda: box.evaluate(
            """e => [...e.querySelectorAll('.noUi-handle, select')].map(c => {
            const row = c.closest('.widget-inline-hbox')
            return {name: c.ariaLabel || c.labels?.[0]?.textContent,
                    label: row.querySelector('.widget-label').textContent,
                    value: c.tagName == 'SELECT' ? c.selectedOptions[0].textContent
                                                 : c.getAttribute('aria-valuetext'),
                    readout: row.querySelector('.widget-readout')?.textContent}})"""
        )
        for control in heard():
            assert control['name'] == control['label'], control
            assert control['readout'] in (None, control['value']) and len(control['value']) < 20, (
                control)
        words = lambda: box.query_selector('[role=status]').text_content()
        assert len(words()) > 10 and picture.get_attribute('alt') == words()
        if not (slider := box.query_selector('.noUi-handle')): continue
        before = picture.get_attribute('alt')
        slider.focus()
        page.keyboard.press('ArrowLeft')
        page.wait_for_function('([e, before]) => e.alt != before', arg=[picture, before],
                               timeout=20_000)
        assert picture.get_attribute('alt') == words()
        assert all(c['readout'] in (None, c['value']) for c in heard())
        name, value = (slider.get_attribute(f'aria-{what}') for what in ('label', 'valuetext'))
        assert f'{name} {value}' in words()

def test_a_click_in_the_plane_chooses_the_nearest_point(page):
    picture = page.query_selector_all(LIVE)[1]  # that of guidance
    picture.scroll_into_view_if_needed()
    box = picture.evaluate_handle('e => e.closest(".widget-vbox")').as_element()
    point = lambda: box.query_selector_all('.widget-readout')[1].inner_text()
    seen = {point()}
    for right, down in ((.2, .55), (.32, .6), (.25, .3)):  # in the left panel
        size, before = picture.bounding_box(), look(page, picture)
        picture.click(position=dict(x=right*size['width'], y=down*size['height']))
        page.wait_for_function('([e, before]) => e.src != before', arg=[picture, before],
                               timeout=20_000)
        seen.add(point())
    assert len(seen) == 4, seen

def test_a_quick_hand_does_not_build_a_queue(page):
    "After many quick movements the picture is the last one's, and soon."
    picture = page.query_selector_all(LIVE)[1]
    picture.scroll_into_view_if_needed()
    slider = controls_of(picture)[0]
    slider.focus()
    for _ in range(30): page.keyboard.press('ArrowRight')
    page.keyboard.press('Home')
    start = time.perf_counter()
    last, since = look(page, picture), time.perf_counter()
    while time.perf_counter() - since < 1.5:  # until it has been quiet for a while
        now = look(page, picture)
        if now != last: last, since = now, time.perf_counter()
        time.sleep(.05)
    assert since - start < 3, (
        f'the picture still moved {since - start:.1f} s after the hand had stopped')
    readout = slider.evaluate(
        'e => e.closest(".widget-slider").querySelector(".widget-readout").textContent')
    assert float(readout) == 0

def latencies(page, n=20):
    "Milliseconds from a key press to the new picture of the guidance widget, n times."
    picture = page.query_selector_all(LIVE)[1]
    picture.scroll_into_view_if_needed()
    slider, out = controls_of(picture)[0], []
    slider.focus()
    page.keyboard.press('Home')  # so that there is room to the right
    time.sleep(1.5)
    for _ in range(n):
        slider.focus()
        page.evaluate(
            '''e => { const drawn = done => requestAnimationFrame(() => done(performance.now()))
                    window.shown = new Promise(
                        done => e.addEventListener("load", () => drawn(done), {once: true}))
                    document.addEventListener("keydown",
                        () => { window.pressed = performance.now() },
                        {once: true, capture: true}) }''',
            picture)
        page.keyboard.press('ArrowRight')
        out.append(page.evaluate('window.shown.then(t => t - window.pressed)'))
        time.sleep(.1)
    return out

def test_latency(page):
    assert statistics.median(
        latencies(page)
    ) < 1000  # on a machine that runs other tests beside it; the record has the quiet figure

def test_a_chapter_runs_and_its_picture_moves(page):
    errors = run_all(page, '02_mixtures.ipynb')
    assert not errors, errors
    picture = page.wait_for_selector(LIVE, timeout=30_000)
    before = look(page, picture)
    controls_of(picture)[0].focus()
    for _ in range(5): page.keyboard.press('ArrowRight')
    page.wait_for_function('([e, before]) => e.src != before', arg=[picture, before],
                           timeout=20_000)

def test_an_answer_is_marked_and_remembered(page):
    """A wrong answer to an exercise is told so by its own message, and written down where no update
    goes."""
    cell = page.locator('.jp-CodeCell', has_text='mark(check_').first
    source = cell.evaluate('e => e.textContent')
    name = re.search(r'mark\((check_\w+), ', source)[1]
    cell.locator('.cm-content').click()
    page.keyboard.press('Control+Home')
    page.keyboard.type('NotImplementedError = ValueError\n'
                       )  # so that the hole is an answer that stops with an error
    page.keyboard.press('Shift+Enter')
    kept = page.home/'data'/'answers'/f'{name}.json'
    for _ in range(100):
        if kept.exists(): break
        time.sleep(.2)
    assert json.loads(kept.read_text())['state'] == 'wrong'
    cell.locator('text=It stops with').wait_for(timeout=20_000)


def open_as_stored(page, name):
    "Open a notebook with its stored outputs, and wait until its kernel rests."
    (page.home/'nbs'/name).write_bytes((ROOT/'nbs'/name).read_bytes())
    if name in re.findall(r'jupyter-trust nbs/(\S+)', (ROOT/'Makefile').read_text()):
        subprocess.run([Path(sys.executable).parent/'jupyter-trust', page.home/'nbs'/name],
                       env=page.env, check=True, capture_output=True)
    page.goto(page.address % name)
    page.wait_for_selector('.jp-NotebookPanel .jp-MarkdownCell', timeout=120_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)

def photograph(page, name):
    "Keep a picture of what is seen, where somebody wants to look at it."
    if folder := os.environ.get('SCREENSHOTS'): page.screenshot(path=Path(folder)/f'{name}.png')

def answer(page, check, variable, text):
    """Write an answer into the cell of an exercise, as a reader would, run it, and return the
    verdict."""
    for _ in range(60):  # cells that are far away are not in the page
        cell = page.locator('.jp-CodeCell', has_text=f'mark({check}, ').first
        if cell.count(): break
        page.mouse.move(700, 500)
        page.mouse.wheel(0, 1200)
        page.wait_for_timeout(150)
    cell.scroll_into_view_if_needed()
    before = cell.locator('.jp-InputPrompt').inner_text()
    cell.locator('.cm-content').click()
    page.keyboard.press('Control+a')
    page.keyboard.insert_text(f'{variable} = {text}\n\nmark({check}, {variable})')
    page.keyboard.press('Control+Enter')
    page.wait_for_function(
        '([e, before]) => /[0-9]/.test(e.textContent) && e.textContent.trim() != before.trim()',
        arg=[cell.locator('.jp-InputPrompt').element_handle(), before], timeout=60_000)
    return cell.locator('.jp-OutputArea-output').last

def answer_exercises(page, name):
    """Answer all exercises of a chapter that has run, each wrongly and then rightly. Returns how
    many there are."""
    from exercise_answers import CASES
    code = '\n'.join(''.join(c['source'])
                     for c in json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text())['cells'])
    exercises = re.findall(r'mark[(](check_\w+), (\w+)[)]', code)
    for check, variable in exercises:
        good, bad = (next((a for a in some if '\n' not in a and 'travelled' not in a), None)
                     for some in (CASES[check].right, CASES[check].wrong))
        if check == 'check_there_and_back':
            good = ('lambda x, label, steps: final(sample(exact, only_there(x, label, steps), '
                    'label, edm_grid(steps)))')
            bad = 'lambda x, label, steps: x'
        for text, said in ((bad, '✗'), (good, '✓ Right.')):
            verdict = answer(page, check, variable, text).inner_text()
            assert verdict.startswith(said), (check, text, verdict)
        photograph(page, f'{name}_{check}')
    return len(exercises)


CONTRAST = """e => {
  const linear = v => v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4
  const light = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => linear(v/255))
                      .reduce((sum, v, i) => sum + v*[.2126, .7152, .0722][i], 0)
  const [a, b] = [getComputedStyle(e).color, getComputedStyle(e).backgroundColor].map(light)
  return (Math.max(a, b) + .05)/(Math.min(a, b) + .05) }"""

def test_the_first_hour_of_a_new_user(page):
    """The opening figure, chapters 1 to 3 and their exercises, wrong answers first; on light paper,
    then on dark."""
    page.set_viewport_size(dict(width=1000, height=900))
    open_as_stored(page, 'index.ipynb')
    page.wait_for_function(AT_THE_TOP, timeout=60_000)  # no cell was run
    photograph(page, 'index')
    right = 0
    for name in ('01_diffusion', '02_mixtures', '03_sampling'):
        errors = run_all(page, f'{name}.ipynb')
        assert not errors, (name, errors)
        assert page.locator('.cm-lineWrapping').count() and not page.evaluate(
            '[...document.querySelectorAll(".cm-scroller")].some(e => e.scrollWidth > '
            'e.clientWidth + 1)'
        ), f'{name}: code scrolls sideways'
        right += answer_exercises(page, name)
    page.keyboard.press('Enter')
    page.keyboard.press('Control+End')
    page.keyboard.insert_text('\nsample(')
    page.keyboard.press('Shift+Tab')
    page.locator('.jp-Tooltip', has_text='z: noise to start from, (B, ...)').wait_for(
        timeout=20_000)  # a comment in the source
    page.keyboard.press('Escape')
    told = subprocess.run(
        [sys.executable, '-c', 'from cfg_lessons.exercises import answers; answers([])'],
        cwd=page.home, env=page.env, check=True, capture_output=True, text=True).stdout
    assert f'{right} right, 0 wrong' in told and right == 10, told
    page.click('.lm-MenuBar-itemLabel:text-is("Settings")')
    page.hover('.lm-Menu-itemLabel:text-is("Theme")')
    page.click('.lm-Menu-itemLabel:text-is("JupyterLab Dark")')
    page.wait_for_function('document.body.dataset.jpThemeLight == "false"')
    photograph(page, '03_sampling_dark')
    assert page.locator('.jp-OutputArea-output span[style]').last.evaluate(CONTRAST) > 4.5


def test_a_missing_name_says_to_run_the_cells_above(page):
    open_as_stored(page, '09_images.ipynb')
    for _ in range(60):  # to the last exercise
        page.mouse.move(700, 500)
        page.mouse.wheel(0, 1200)
        page.wait_for_timeout(100)
    cell = page.locator('.jp-CodeCell', has_text='mark(check_').last
    cell.locator('.cm-content').click()
    page.keyboard.press('Control+Enter')
    page.locator(
        '.jp-CodeCell',
        has_text='NameError').locator('text=Run All Above Selected Cell').wait_for(timeout=60_000)


def test_a_notebook_that_is_opened_and_saved_is_not_changed(page):
    name = '04_networks.ipynb'
    open_as_stored(page, name)
    file, before = page.home/'nbs'/name, (ROOT/'nbs'/name).read_bytes()
    for press in range(2):  # the second time with all that the kernel has said of itself
        then = file.stat().st_mtime_ns
        page.locator('.jp-NotebookPanel .jp-MarkdownCell').first.click()
        page.keyboard.press('Control+s')
        for _ in range(100):
            if file.stat().st_mtime_ns != then: break
            time.sleep(.2)
        else: pytest.fail('it was not saved')
        time.sleep(3)
        assert file.read_bytes() == before
    assert not page.query_selector('.jp-Dialog'), page.text_content('.jp-Dialog')


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "The folder of the rendered book."
    out = tmp_path_factory.mktemp('rendered')/'book'
    subprocess.run([sys.executable, ROOT/'docs'/'build.py', out], check=True)
    return out

@pytest.fixture
def figure(browser, pages):
    "opened(**kind of reader): the page with the opening figure in a context of its own."
    contexts = []
    def opened(**kind):
        contexts.append(browser.new_context(**dict(viewport=dict(width=1300, height=900)) | kind))
        page = contexts[-1].new_page()
        page.wrong = []
        page.on('pageerror', lambda e: page.wrong.append(str(e)))
        page.goto((pages/'index.html').as_uri())
        page.locator('#play').wait_for(timeout=20_000)
        page.locator('.guidance-figure').scroll_into_view_if_needed()
        return page
    yield opened
    for context in contexts: context.close()

def chosen(page, **what):
    "The end of the chosen point's path in the figure, after a change of what is chosen."
    return page.evaluate(
        'async what => { const g = document.querySelector(".guidance-figure").guidance; '
        'g.change(what); await new Promise(f => setTimeout(f, 700)); return [g.chosen(0), '
        'g.chosen(1)] }',
        what)


FRAMES = """async n => { const at = [];
             await new Promise(done => {
                 const f = t => { at.push(t); at.length > n ? done() : requestAnimationFrame(f) };
                 requestAnimationFrame(f) });
             return at.slice(1).map((t, i) => t - at[i]) }"""

def frame_times(page, n=120):
    "Milliseconds between n frames while the figure plays from the start."
    page.click('#reset')
    page.click('#play')
    return page.evaluate(FRAMES, n)

def test_the_figure_plays_smoothly(figure):
    page = figure(device_scale_factor=2)
    medians = [statistics.median(frame_times(page)) for _ in range(3)]
    assert page.inner_text('#play') == 'Pause' and float(page.input_value('#time')) > 3, (
        'it does not play')
    assert min(medians) < 33, medians  # on a machine that does other things; when it is quiet, 16.7
    page.wait_for_function(
        'document.querySelector(".guidance-figure").shadowRoot.getElementById("play").textContent '
        '== "Replay"',
        timeout=30_000)
    assert page.input_value('#time') == page.get_attribute('#time', 'max') and not page.wrong
    assert page.evaluate(
        '(() => { const c = '
        'document.querySelector(".guidance-figure").shadowRoot.getElementById("plane"); return '
        'c.width/c.clientWidth })()'
    ) == pytest.approx(2, abs=.01)

def test_the_figure_shows_the_library_s_numbers(figure):
    """A stored path ends where the sampler ends; a dragged start, near the end of the sampler's
    path from there."""
    import torch
    from cfg_lessons import figure as made
    from cfg_lessons.classifier_free import classifier_free
    from cfg_lessons.mixtures import exact_denoiser
    from cfg_lessons.sampling import ddim, final, sample
    page = figure(reduced_motion='reduce')
    for number, scene in enumerate(made.SCENES):
        page.select_option('#scene', index=number)
        for sampler, (_, step, _) in enumerate(made.SAMPLERS):
            for w in (0., 3.):
                end = made.trajectories(scene.mixture, step, w, 192)[0][31, -1]
                assert chosen(page, sampler=sampler, w=made.WEIGHTS.index(w), point=31,
                              start=None) == pytest.approx(end.tolist(), abs=1/128)
    mixture = made.SCENES[0].mixture
    page.select_option('#scene', index=0)
    start = torch.tensor([[.31, -.17]])
    there = final(
        sample(classifier_free(exact_denoiser(mixture), 3.), start, torch.tensor([1]), made.LEVELS,
               ddim))[0]
    assert chosen(page, sampler=0, w=made.WEIGHTS.index(3.), point=31,
                  start=start[0].tolist()) == pytest.approx(there.tolist(), abs=.05)
    assert 'interpolated' in page.inner_text('#says')
    chosen(page, sampler=1)
    assert 'does not decide' in page.inner_text('#says') and not page.wrong

def test_the_figure_obeys_hand_and_keys(figure):
    page = figure(has_touch=True, reduced_motion='reduce')
    assert page.input_value('#time') == '0' and page.inner_text('#play') == 'Play', (
        'it starts by itself, though the reader wants no motion')
    for id in ('time', 'w'):
        page.focus(f'#{id}')
        texts = [page.get_attribute(f'#{id}', 'aria-valuetext')]
        page.keyboard.press('Home')
        for _ in range(int(page.get_attribute(f'#{id}', 'max'))):
            page.keyboard.press('ArrowRight')
            page.wait_for_function(
                '([id, last]) => '
                'document.querySelector(".guidance-figure")'
                '.shadowRoot.getElementById(id).getAttribute("aria-valuetext") != last',
                arg=[id, texts[-1]])
            texts.append(page.get_attribute(f'#{id}', 'aria-valuetext'))
        assert len(set(texts[1:])) == len(texts) - 1 and all(len(t) < 30 for t in texts), texts
    page.click('button:text-is("w = 3")')
    page.wait_for_function(
        'document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("says").textContent.startsWith("At w = 3 ")'
    )
    assert page.get_attribute('button:text-is("w = 3")', 'aria-pressed') == 'true'
    page.click('#reset')
    page.focus('#plane')
    page.keyboard.press('n')
    page.wait_for_function(
        'document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("says").textContent.startsWith("Point 1 of")'
    )
    page.keyboard.press('ArrowRight')
    page.wait_for_function(
        'document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("says").textContent.includes("interpolated")'
    )
    page.keyboard.press('Escape')
    box = page.locator('#plane').bounding_box()
    at = page.evaluate('document.querySelector(".guidance-figure").guidance.place(40)')
    page.touchscreen.tap(box['x'] + at[0], box['y'] + at[1])
    page.wait_for_function(
        'document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("says").textContent.startsWith("Point ")'
    )
    ring = page.evaluate(
        'document.querySelector(".guidance-figure")'
        '.guidance.place(document.querySelector(".guidance-figure").guidance.now.point)'
    )
    page.mouse.move(box['x'] + ring[0], box['y'] + ring[1])
    page.mouse.down()
    page.mouse.move(box['x'] + box['width']/2, box['y'] + box['height']/2, steps=4)
    page.mouse.up()
    page.wait_for_function(
        'document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("says").textContent.includes("interpolated")'
    )
    for name in ('scene', 'cls', 'sampler'): page.select_option(f'#{name}', index=1)
    page.click('#reset')
    page.click('#step')
    said = 'two trees, class right tree, ancestral, random, log-SNR \u22124.5'
    page.wait_for_function(
        'said => document.querySelector(".guidance-figure")'
        '.shadowRoot.getElementById("status").textContent.startsWith(said)',
        arg=said)
    names = page.evaluate(
        '[...document.querySelector(".guidance-figure").shadowRoot.querySelectorAll("button, '
        'input, select, canvas")].map(e => e.ariaLabel || e.textContent.trim() || '
        'e.labels?.[0]?.textContent)'
    )
    assert all(names) and not page.wrong, (names, page.wrong)

def test_the_figure_follows_the_theme(figure):
    for scheme in ('light', 'dark'):
        page = figure(color_scheme=scheme)
        assert (page.get_attribute('.guidance-figure', 'data-dark')
                is not None) == (scheme == 'dark')
        page.click('.theme-toggle >> visible=true')
        page.click('.theme-toggle >> visible=true'
                   )  # auto, then the two themes in turn: now it is the other one
        now = page.evaluate('document.body.dataset.theme')
        page.wait_for_function(
            'dark => document.querySelector(".guidance-figure").hasAttribute("data-dark") == dark',
            arg=now == 'dark')


# JupyterLab takes cells out of the page that are far from what is seen, and running all goes to the
# end
AT_THE_TOP = """() => { const panels = document.querySelectorAll('.jp-WindowedPanel-outer')
                     panels.forEach(e => e.scrollTo(0, 0))
                     const figure = document.querySelector('.guidance-figure')
                     return figure?.shadowRoot?.getElementById('play')?.checkVisibility() }"""

def test_the_figure_runs_in_jupyterlab(page):
    errors = run_all(page, 'index.ipynb')
    assert not errors, errors
    page.wait_for_function(AT_THE_TOP, timeout=60_000)
    page.locator('#plane').scroll_into_view_if_needed()
    frame_times(page, 60)
    page.wait_for_function(
        '+document.querySelector(".guidance-figure").shadowRoot.getElementById("time").value > 3',
        timeout=20_000)


def test_exercises_can_be_read_on_a_phone_in_the_dark(pages, browser):
    "Verdicts stand out from the paper; what is folded says what it is, and opens under a finger."
    context = browser.new_context(viewport=dict(width=390, height=844), has_touch=True,
                                  is_mobile=True, color_scheme='dark')
    page = context.new_page()
    page.goto((pages/'03_sampling.html').as_uri())
    verdicts = page.locator('.cell_output span[style*=background]')
    assert verdicts.count() == 6 and all(v.evaluate(CONTRAST) > 4.5 for v in verdicts.all())
    for name in ('Check 3.1', 'Solution 3.1'):
        fold = page.locator('details.hide', has_text=name).first
        fold.locator('summary').tap()
        assert fold.evaluate('e => e.open')
    assert 'DDIM is off by' in page.locator('details.hide', has_text='Check 3.1').first.inner_text()
    context.close()

def test_colab_is_offered_where_the_repository_has_an_address(pages):
    """One place names it, pyproject.toml; without it no page speaks of Colab, with it each chapter
    has its link and first cell."""
    sys.path.insert(0, str(ROOT/'docs'))
    import build
    project, chapter = '[project]\nname = "cfg_lessons"\n', ROOT/'nbs'/'02_mixtures.ipynb'
    here = build.repository((ROOT/'pyproject.toml').read_text())
    for sheet in pages.glob('[01]*.html'):
        assert ('colab.research' in sheet.read_text()) == bool(here), sheet.name
    assert build.repository(project) is None
    assert 'olab' not in build.download(chapter, None)['source']
    for url in ('https://github.com/some/book', 'https://github.com/some/book.git',
                'https://github.com/some/book/'):
        assert build.repository(f'{project}[project.urls]\nRepository = "{url}"\n') == 'some/book'
    with pytest.raises(SystemExit, match='OWNER/NAME'):
        build.repository(f'{project}[project.urls]\nRepository = "https://example.org/book"\n')
    shown = build.download(chapter, 'some/book')['source']
    at = 'https://colab.research.google.com/github/some/book/blob/main/nbs/02_mixtures.ipynb"'
    assert at in shown
    assert ('git clone --quiet --depth 1 https://github.com/some/book\n'
            '%pip install --quiet --editable "./book[lab]"\n%cd book/nbs') in shown

def test_every_page_can_be_read_offline(pages, browser):
    """No request leaves the folder or fails, every formula is typeset, every picture is there,
    every link leads somewhere, tables are tables, and the library has its reference."""
    failed = []
    sheets = sorted(pages.glob('*.html'))
    assert {p.stem for p in (ROOT/'nbs').glob('*.ipynb')} <= {p.stem for p in sheets}
    shown = {p: p.read_text() for p in sheets}
    for path in (ROOT/'nbs').glob('[019]*.ipynb'):
        assert shown[pages/f'{path.stem}.html'].count(
            f'href="notebooks/{path.name}" download') == 1, path.name
        assert (pages/'notebooks'/path.name).read_bytes() == path.read_bytes(), path.name
        for module in re.findall(r'#[|] default_exp (\w+)', path.read_text()):
            assert f'href="api_{module}.html"><code>' in shown[pages/f'{path.stem}.html'], (
                f'{path.name} has no link to its reference')
    computed = sum('text/markdown' in o.get('data', {}) for p in (ROOT/'nbs').glob('*.ipynb')
                   for c in json.loads(p.read_text())['cells'] for o in c.get('outputs', []))
    assert sum(text.count('<table') for text in shown.values()) >= computed > 80
    spoiled = [
        p.name for p, text in shown.items()
        if re.search(r'<p>\s*\|', text) or re.search(r'>#\|', text)
    ]
    assert not spoiled, f'tables that are none, or directives, in {spoiled}'
    assert {f'api_{p.stem}'
            for p in (ROOT/'cfg_lessons').glob('[a-z]*.py')} <= {p.stem for p in sheets}
    assert 'where to go, (B,), cleaner' in shown[pages/'api_sampling.html']
    assert all(
        text.count('property="og:image"') == 1 and text.count('name="description"') == 1
        for path, text in shown.items()
        if path.stem not in ('search', 'genindex')), 'a link to a page shows no card'
    with Image.open(pages/'card.png') as card:
        assert card.size == (1200, 630) and len(card.convert('RGB').getcolors(10**6)) > 100
    page = browser.new_page()
    page.on(
        'request', lambda r: r.url.startswith(
            ('file:', 'data:', 'blob:')) or failed.append(f'wants {r.url}'))
    page.on('requestfailed', lambda r: Path(unquote(urlparse(r.url).path)).exists() or failed.
            append(f'lacks {r.url}'))  # not: broken off by the next page
    for sheet in sheets:
        page.goto(sheet.as_uri())
        maths = page.locator('.math').count()
        if maths:
            page.wait_for_function(
                'n => document.querySelectorAll(".math mjx-container").length == n', arg=maths,
                timeout=60_000)
        assert not page.locator('mjx-merror').count(), f'{sheet.name}: MathJax refuses a formula'
        page.wait_for_function('[...document.images].every(i => i.complete)')
        assert page.evaluate('[...document.images].every(i => i.naturalWidth > 0)'), (
            f'{sheet.name}: a picture is missing')
        links = page.eval_on_selector_all('a[href]', 'es => es.map(e => e.getAttribute("href"))')
        gone = [
            h for h in links
            if not re.match(r'[a-z]+:', h) and h.split('#')[0] and not (pages/
                                                                        h.split('#')[0]).exists()
        ]
        assert not gone, f'{sheet.name} links to {gone}'
    for width, some in [(390, sheets), *((w, sheets[:1]) for w in range(600, 1500, 50))]:
        page.set_viewport_size(dict(width=width, height=800))
        for sheet in some:
            page.goto(sheet.as_uri())
            assert page.evaluate('document.documentElement.scrollWidth') <= width, (
                f'{sheet.name} scrolls sideways at {width} pixels')
    page.goto((pages/'search.html').as_uri() + '?q=overshoot')
    page.wait_for_selector('#search-results li a', timeout=30_000)
    page.close()
    assert not failed, failed[:5]


if __name__ == '__main__':
    from cfg_lessons.records import provenance
    from cfg_lessons.training import atomic_write

    class Folders:
        def mktemp(self, name):
            import tempfile
            return Path(tempfile.mkdtemp(prefix=name))
    opened = browser.__wrapped__()
    maker = page.__wrapped__(Folders(), next(opened))
    sheet = next(maker)
    assert not run_all(sheet, '91_lab.ipynb')
    sheet.wait_for_selector(LIVE)
    values = sorted(latencies(sheet, 60))
    record = dict(
        what=
        'milliseconds from a key press to the new picture of the guidance widget, in JupyterLab '
        'and Chromium',
        times=len(values), median=round(statistics.median(values),
                                        1), p90=round(values[int(.9*len(values))],
                                                      1), command='make latency', **provenance())
    with atomic_write(ROOT/'data'/'results'/'lab'/'widget_latency.json') as f:
        f.write((json.dumps(record, indent=1) + '\n').encode())
    print(record)
    next(maker, None), next(opened, None)
