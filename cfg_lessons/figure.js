// The moving figure. It plays numbers that the library has computed and stored, and draws straight
// lines between neighbours; no formula of the book stands here. `host` is the element that holds
// the still picture, `data` what `Film.data` of nbs/96_figure.ipynb made.
async function guidanceFigure(host, data) {
  const LAST = data.logsnr.length - 1, SECONDS = 5, GLIDE = .25, REACH = 18;
  const WEIGHTS = data.weights, PRESETS = [0, 1, 3].filter(w => WEIGHTS.includes(w));
  const calm = matchMedia('(prefers-reduced-motion: reduce)');

  // ---- the stored numbers ----
  async function unpack({shape, scale, axes, code}) {
    const squeezed = Uint8Array.from(atob(code), c => c.charCodeAt(0));
    const stream = new Blob([squeezed]).stream().pipeThrough(new DecompressionStream('deflate'));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const size = bytes.length/2, whole = new Int16Array(size);
    for (let i = 0; i < size; i++) whole[i] = bytes[i] | bytes[size + i] << 8;
    for (const axis of axes) {
      const stride = shape.slice(axis + 1).reduce((a, b) => a*b, 1);
      for (let i = 0; i < size; i++)
        if (Math.floor(i/stride) % shape[axis]) whole[i] += whole[i - stride];
    }
    return Float32Array.from(whole, v => v/scale);
  }
  const scenes = await Promise.all(data.scenes.map(async s => ({
    ...s, z: await unpack(s.z), sure: await unpack(s.sure), density: await unpack(s.density),
    side: Math.round(Math.sqrt(s.density.shape[2])), n: s.label.length})));

  // ---- what is chosen ----
  const now = {scene: 0, sampler: 0, w: Math.max(0, WEIGHTS.indexOf(1)), cls: -1, time: 0,
               playing: false, point: -1, start: null};
  let shownW = now.w, hover = -1, dragging = false;
  const scene = () => scenes[now.scene];
  const random = () => data.samplers[now.sampler].random;
  const seen = i => now.cls < 0 || scene().label[i] == now.cls;

  const index = (i, w, k) => ((now.sampler*WEIGHTS.length + w)*scene().n + i)*(LAST + 1) + k;
  const between = (value, top) => {
    const low = Math.min(Math.floor(value), Math.max(0, top - 1));
    return [low, Math.min(low + 1, top), value - low];
  };
  function stored(i, w, k, part) {  // part 0 is x, 1 is y, 2 is p(own class | z)
    const at = index(i, w, k);
    return part == 2 ? scene().sure[at] : scene().z[2*at + part];
  }
  function value(i, w, time, part) {  // w and time may lie between two that are stored
    const [w0, w1, u] = between(w, WEIGHTS.length - 1), [k0, k1, v] = between(time, LAST);
    const mix = k => u ? stored(i, w0, k, part)*(1 - u) + stored(i, w1, k, part)*u : stored(i, w0, k, part);
    return v ? mix(k0)*(1 - v) + mix(k1)*v : mix(k0);
  }

  // ---- one point, or a start between stored ones: rows [point, share] ----
  const startOf = i => [stored(i, 0, 0, 0), stored(i, 0, 0, 1)];
  const away = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  function nearest(at, label) {
    let best = -1, least = Infinity;
    for (let i = 0; i < scene().n; i++) {
      const d = away(at, startOf(i));
      if (scene().label[i] == label && d < least) [best, least] = [i, d];
    }
    return best;
  }
  function corners(at, label) {
    for (const row of scene().triangles) {
      if (scene().label[row[0]] != label) continue;
      const [a, b, c] = row.map(startOf);
      const area = (p, q, r) => (q[0] - p[0])*(r[1] - p[1]) - (q[1] - p[1])*(r[0] - p[0]);
      const whole = area(a, b, c);
      const shares = [area(at, b, c), area(a, at, c), area(a, b, at)].map(v => v/whole);
      if (shares.every(v => v >= -1e-9)) return row.map((i, k) => [i, shares[k]]);
    }
    return null;
  }
  function chosen() {
    if (now.point < 0) return null;
    if (!now.start) return [[now.point, 1]];
    const label = scene().label[now.point];
    const inside = random() ? null : corners(now.start, label);
    return inside || [[nearest(now.start, label), 1]];
  }
  const along = (rows, w, time, part) => rows.reduce((sum, [i, share]) => sum + share*value(i, w, time, part), 0);

  // ---- the page ----
  const root = host.attachShadow({mode: 'open'});
  const option = (name, k) => `<option value="${k}">${name}</option>`;
  root.innerHTML = `<style>
    :host { display: block; max-width: 860px; margin: 0 0 1em; color: var(--ink);
      --ink: #1c1e21; --soft: #5b6068; --line: #c9cdd3; --paper: #fff; --face: #f4f5f7; --accent: #0a58a6; }
    :host([data-dark]) { --ink: #e8eaed; --soft: #a9afb8; --line: #4a4f57; --paper: #131416; --face: #24272b; --accent: #79b8ff; }
    * { box-sizing: border-box; font: 14px/1.4 system-ui, sans-serif; }
    figure { margin: 0; display: grid; gap: 12px 20px; grid-template-columns: minmax(0, 1fr) 300px; grid-template-rows: auto 1fr; align-items: start; }
    .stage { position: relative; border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
    canvas { display: block; width: 100%; touch-action: pan-y; }
    #plane { aspect-ratio: 1; cursor: crosshair; }
    #plane.grab { cursor: grab; } #plane.held { cursor: grabbing; }
    #sure { height: 120px; }
    .level { position: absolute; left: 12px; top: 9px; pointer-events: none; color: var(--soft); font-variant-numeric: tabular-nums; }
    .panel { display: grid; gap: 12px; grid-column: 2; grid-row: 1 / 3; } .presets { margin-top: 6px; }
    .row { display: flex; gap: 6px; flex-wrap: wrap; align-items: center; }
    button, select { min-height: 34px; padding: 4px 9px; color: inherit; background: var(--face); border: 1px solid var(--line); border-radius: 7px; cursor: pointer; }
    button:hover, select:hover { border-color: var(--soft); }
    button[aria-pressed="true"], #play { background: var(--accent); border-color: var(--accent); color: var(--paper); }
    #play { min-width: 72px; } .scale { display: flex; justify-content: space-between; padding: 0 5px; color: var(--soft); font-variant-numeric: tabular-nums; }
    .scale span { width: 0; display: flex; justify-content: center; font-size: 12px; }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    #plane:focus-visible { outline-offset: -3px; border-radius: 10px; }
    label, .name { display: flex; justify-content: space-between; gap: 8px; color: var(--soft); }
    output { color: var(--ink); font-variant-numeric: tabular-nums; }
    input[type=range] { width: 100%; height: 26px; margin: 0; accent-color: var(--accent); cursor: pointer; }
    select { width: 100%; } .pick { display: grid; grid-template-columns: 74px 1fr; gap: 6px; align-items: center; }
    .pick label { display: block; }
    p { margin: 0; } #says { min-height: 5.6em; } .note { color: var(--soft); font-size: 13px; }
    #status { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
    figcaption { grid-column: 1 / -1; }
    figure.narrow { grid-template: none / minmax(0, 1fr); }
    .narrow .panel { grid-area: auto; } .narrow #says { min-height: 4.2em; }
    @media (pointer: coarse) { button, select { min-height: 42px; } input[type=range] { height: 34px; } }
  </style>
  <figure role="group" aria-label="Guidance in the plane, a figure to play with">
    <div class="stage">
      <canvas id="plane" tabindex="0" role="application" aria-roledescription="plane of points" aria-describedby="keys"></canvas>
      <div class="level" aria-hidden="true"></div>
    </div>
    <p id="says"></p><p id="status" role="status" aria-live="polite"></p>
    <div class="panel">
      <div class="row">
        <button id="play">Play</button><button id="back" aria-label="Step back, towards noise">&#x2190; Step</button>
        <button id="step" aria-label="Step on, towards data">Step &#x2192;</button><button id="reset">Reset</button>
      </div>
      <div><label for="time">noise level <output id="timeSays"></output></label>
        <input id="time" type="range" min="0" max="${LAST}" step="1"></div>
      <div><label for="w">guidance weight <output id="wSays"></output></label>
        <input id="w" type="range" min="0" max="${WEIGHTS.length - 1}" step="1">
        <div class="scale" aria-hidden="true">${WEIGHTS.map(w => `<span>${w}</span>`).join('')}</div>
        <div class="row presets" role="group" aria-label="Presets of the guidance weight">${PRESETS.map(w => `<button class="preset" data-w="${w}">w = ${w}</button>`).join('')}</div></div>
      <div class="pick"><label for="scene">mixture</label><select id="scene">${scenes.map((s, k) => option(s.name, k)).join('')}</select>
        <label for="cls">class</label><select id="cls"></select>
        <label for="sampler">sampler</label><select id="sampler">${data.samplers.map((s, k) => option(s.name, k)).join('')}</select></div>
      <div><div class="name"><span>p(own class | z)</span><output id="sureSays"></output></div>
        <canvas id="sure" role="img"></canvas></div>
    </div>
    <figcaption><p class="note" id="keys">Tap or point at a point for its path; drag its ring to start it elsewhere. Keys on the plane: N and P choose a point, arrows move its start, space plays, Escape lets go.</p></figcaption>
  </figure>`;
  const $ = id => root.getElementById(id);
  const plane = $('plane'), sure = $('sure'), figure = root.querySelector('figure');

  // ---- colours, and pictures that are drawn once ----
  let ink = {}, colors = data.colors, sprites = [], clouds = [], dpr = 1, size = 0;
  function shade() {  // is the page behind the figure dark?
    let e = host, color = null;
    while (e && !color) {
      const found = getComputedStyle(e).backgroundColor.match(/[\d.]+/g)?.map(Number);
      if (found && (found.length < 4 || found[3] > .5)) color = found;
      e = e.parentElement;
    }
    const [r, g, b] = color || [255, 255, 255];
    host.toggleAttribute('data-dark', .299*r + .587*g + .114*b < 128);
    const pale = host.hasAttribute('data-dark') ? .3 : 0;
    colors = data.colors.map(hex => 'rgb(' + [1, 3, 5].map(i => Math.round(parseInt(hex.slice(i, i + 2), 16)*(1 - pale) + 255*pale)) + ')');
    const style = getComputedStyle(host);
    for (const name of ['ink', 'soft', 'line', 'paper']) ink[name] = style.getPropertyValue('--' + name).trim();
  }
  const shapes = [
    (c, x, y, r) => c.arc(x, y, r, 0, 7),
    (c, x, y, r) => { c.moveTo(x, y - 1.25*r); c.lineTo(x + 1.15*r, y + .8*r); c.lineTo(x - 1.15*r, y + .8*r); c.closePath(); },
    (c, x, y, r) => c.rect(x - .88*r, y - .88*r, 1.76*r, 1.76*r)];
  function sprite(label) {
    const r = 4*dpr*Math.min(1, .55 + size/1100), box = document.createElement('canvas');
    box.width = box.height = 2*Math.ceil(2*r);
    const c = box.getContext('2d'), middle = box.width/2;
    c.beginPath(); shapes[label % 3](c, middle, middle, r);
    c.fillStyle = colors[label]; c.fill();
    c.lineWidth = dpr*.9; c.strokeStyle = ink.paper; c.stroke();
    return box;
  }
  function cloud(k) {  // the stored densities of the classes at one level: hue and opacity
    const {side, density, classes} = scene(), box = document.createElement('canvas');
    box.width = box.height = side;
    const c = box.getContext('2d'), picture = c.createImageData(side, side);
    const hues = classes.map((_, l) => [1, 3, 5].map(i => parseInt(data.colors[l].slice(i, i + 2), 16)));
    const shares = classes.map((_, l) => i => now.cls < 0 || now.cls == l ? density[(l*(LAST + 1) + k)*side*side + i] : 0);
    for (let i = 0; i < side*side; i++) {
      const to = 4*((side - 1 - Math.floor(i/side))*side + i % side), here = shares.map(f => f(i));
      const sum = here.reduce((a, b) => a + b, 0) || 1;
      for (let j = 0; j < 3; j++) picture.data[to + j] = here.reduce((a, v, l) => a + v*hues[l][j], 0)/sum;
      picture.data[to + 3] = 105*Math.max(...here);
    }
    c.putImageData(picture, 0, 0);
    const large = document.createElement('canvas');  // enlarged well once, so that a frame can do it fast
    large.width = large.height = 6*side;
    const to = large.getContext('2d');
    to.imageSmoothingQuality = 'high';
    to.drawImage(box, 0, 0, 6*side, 6*side);
    return large;
  }
  function dress() {
    shade();
    sprites = scene().classes.map((_, c) => sprite(c));
  }
  function prepare() {
    dress();
    clouds = data.logsnr.map((_, k) => cloud(k));
  }

  // ---- drawing the plane ----
  const px = x => (x/scene().limit + 1)*size/2, py = y => (1 - y/scene().limit)*size/2;
  const fromPixel = (x, y) => [(2*x/size - 1)*scene().limit, (1 - 2*y/size)*scene().limit];
  function line(c, rows, w, from, to, color, width, dash = []) {
    c.beginPath(); c.setLineDash(dash); c.strokeStyle = color; c.lineWidth = width;
    const go = time => c.lineTo(px(along(rows, w, time, 0)), py(along(rows, w, time, 1)));
    go(from);
    for (let k = Math.floor(from) + 1; k < to; k++) go(k);
    go(to); c.stroke(); c.setLineDash([]);
  }
  function drawPath(c, rows, strong) {
    const color = colors[scene().label[rows[0][0]]];
    if (shownW > 0) line(c, rows, 0, 0, LAST, ink.soft, 1.5, [2, 4]);
    line(c, rows, shownW, 0, LAST, ink.paper, 5);
    line(c, rows, shownW, 0, LAST, color, 1.5, [5, 4]);
    line(c, rows, shownW, 0, now.time, color, 2.8);
    const dot = (time, r, fill, edge) => {
      c.beginPath(); c.arc(px(along(rows, shownW, time, 0)), py(along(rows, shownW, time, 1)), r, 0, 7);
      c.fillStyle = fill; c.fill(); c.lineWidth = 2; c.strokeStyle = edge; c.stroke();
    };
    dot(LAST, 3, color, ink.paper);
    dot(now.time, 6.5, color, ink.ink);
    if (!strong) return;
    const at = now.start || startOf(now.point);
    c.beginPath(); c.arc(px(at[0]), py(at[1]), 9, 0, 7); c.lineWidth = 3; c.strokeStyle = ink.ink; c.stroke();
  }
  function draw() {
    const c = plane.getContext('2d'), s = scene();
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    c.clearRect(0, 0, size, size);
    const [k0, k1, v] = between(now.time, LAST);
    c.imageSmoothingQuality = 'low';
    for (const [k, share] of [[k0, 1 - v], [k1, v]]) if (share) {
      c.globalAlpha = share; c.drawImage(clouds[k], 0, 0, size, size);
    }
    c.lineWidth = 1.2;
    s.classes.forEach((_, label) => {  // where each point just came from
      if (!seen(s.label.indexOf(label))) return;
      c.globalAlpha = .35; c.strokeStyle = colors[label]; c.beginPath();
      for (let i = 0; i < s.n; i++) if (s.label[i] == label) {
        const from = Math.max(0, now.time - .8);
        c.moveTo(px(value(i, shownW, from, 0)), py(value(i, shownW, from, 1)));
        if (Math.floor(from) + 1 < now.time) c.lineTo(px(value(i, shownW, Math.floor(from) + 1, 0)), py(value(i, shownW, Math.floor(from) + 1, 1)));
        c.lineTo(px(value(i, shownW, now.time, 0)), py(value(i, shownW, now.time, 1)));
      }
      c.stroke();
    });
    for (let i = 0; i < s.n; i++) {
      const box = sprites[s.label[i]], side = box.width/dpr;
      c.globalAlpha = seen(i) ? now.point < 0 ? .95 : .7 : .08;
      c.drawImage(box, px(value(i, shownW, now.time, 0)) - side/2, py(value(i, shownW, now.time, 1)) - side/2, side, side);
    }
    c.globalAlpha = 1;
    if (hover >= 0 && hover != now.point) drawPath(c, [[hover, 1]], false);
    const rows = chosen();
    if (rows) drawPath(c, rows, true);
  }

  // ---- drawing the probabilities: the mean of the points that are seen, and one point ----
  let means = {};
  function mean(w, k) {
    const key = [now.scene, now.sampler, now.cls, w, k].join();
    if (!(key in means)) {
      let sum = 0, count = 0;
      for (let i = 0; i < scene().n; i++) if (seen(i)) { sum += stored(i, w, k, 2); count++; }
      means[key] = sum/count;
    }
    return means[key];
  }
  function drawSure() {
    const c = sure.getContext('2d'), wide = sure.clientWidth, high = sure.clientHeight;
    const x = time => 26 + time/LAST*(wide - 34), y = p => 8 + (1 - p)*(high - 26);
    c.setTransform(dpr, 0, 0, dpr, 0, 0);
    c.clearRect(0, 0, wide, high);
    c.font = '12px system-ui, sans-serif'; c.fillStyle = ink.soft; c.strokeStyle = ink.line; c.lineWidth = 1;
    for (const p of [0, .5, 1]) {
      c.beginPath(); c.moveTo(x(0), y(p)); c.lineTo(x(LAST), y(p)); c.stroke();
      c.textAlign = 'right'; c.fillText(p == .5 ? '.5' : p, 20, y(p) + 4);
    }
    c.textAlign = 'left'; c.fillText('noise', x(0), high - 3);
    c.textAlign = 'right'; c.fillText('data', x(LAST), high - 3);
    const curve = (at, color, width, dash) => {
      c.beginPath(); c.strokeStyle = color; c.lineWidth = width; c.setLineDash(dash);
      for (let k = 0; k <= LAST; k++) c.lineTo(x(k), y(at(k)));
      c.stroke(); c.setLineDash([]);
    };
    if (now.w > 0) curve(k => mean(0, k), ink.soft, 1.5, [2, 4]);
    curve(k => mean(now.w, k), ink.ink, 2, []);
    const rows = hover >= 0 ? [[hover, 1]] : chosen();
    c.textAlign = 'center';
    if (rows) curve(k => along(rows, now.w, k, 2), colors[scene().label[rows[0][0]]], 2.5, []);
    c.beginPath(); c.moveTo(x(now.time), y(1) - 4); c.lineTo(x(now.time), y(0) + 4);
    c.strokeStyle = ink.ink; c.lineWidth = 1; c.stroke();
    const shown = rows ? along(rows, now.w, now.time, 2) : between(now.time, LAST).reduce(
      (sum, k, i, [k0, k1, v]) => i == 0 ? mean(now.w, k0)*(1 - v) : i == 1 ? sum + mean(now.w, k1)*v : sum, 0);
    $('sureSays').textContent = (rows ? 'this point ' : 'mean ') + shown.toFixed(2);
  }

  // ---- words ----
  const level = k => 'log-SNR ' + data.logsnr[k].toFixed(1).replace('-', '\u2212');
  function words() {
    const s = scene(), [given, spread] = s.ends[now.sampler][now.w], w = WEIGHTS[now.w];
    if (now.point < 0)
      return `At w = ${w} the points end with a mean probability of their own class of ${given.toFixed(3)} and a spread of ${spread.toFixed(2)} within a class; true examples have ${s.truth[0].toFixed(3)} and ${s.truth[1].toFixed(2)}.`;
    const rows = chosen(), label = s.classes[s.label[now.point]];
    const end = along(rows, now.w, LAST, 2).toFixed(2);
    const how = !now.start ? `Point ${now.point + 1} of ${s.n}`
      : rows.length > 1 ? 'A start of your own, its path interpolated between the three stored ones round it'
      : random() ? 'With random steps the start does not decide the path; this is the stored path whose start is nearest'
      : 'Outside the stored starts; this is the stored path whose start is nearest';
    return `${how}. Class: ${label}. At the end p(class | z) = ${end} at w = ${w}${now.w ? `, and ${along(rows, 0, LAST, 2).toFixed(2)} at w = 0 (dotted)` : ''}.`;
  }
  let telling = 0;
  function announce() {  // to those who do not see the plane; once the hand rests
    clearTimeout(telling);
    telling = setTimeout(() => {
      const k = Math.round(now.time), of = now.cls < 0 ? 'all classes' : `class ${scene().classes[now.cls]}`;
      const text = now.playing ? 'Playing.' : `${scene().name}, ${of}, ${data.samplers[now.sampler].name}, ${level(k)}: mean probability of the own class ${mean(now.w, k).toFixed(2)}. ${words()}`;
      if (text != $('status').textContent) $('status').textContent = text;
    }, 400);
  }
  function tell() {
    const k = Math.floor(now.time + 1e-6), w = WEIGHTS[now.w];
    $('time').value = k;
    $('time').setAttribute('aria-valuetext', `${level(k)}, level ${k + 1} of ${LAST + 1}`);
    $('timeSays').textContent = level(k);
    root.querySelector('.level').textContent = k == 0 ? 'noise' : k == LAST ? 'data' : level(k);
    $('w').value = now.w;
    $('w').setAttribute('aria-valuetext', `w = ${w}`);
    $('wSays').textContent = `w = ${w}`;
    for (const b of root.querySelectorAll('.preset')) b.setAttribute('aria-pressed', +b.dataset.w == w);
    $('play').textContent = now.playing ? 'Pause' : now.time >= LAST ? 'Replay' : 'Play';
    $('back').disabled = now.time <= 0; $('step').disabled = now.time >= LAST;
    const text = words();
    if (text != $('says').textContent) $('says').textContent = text;
    if (!now.playing) {
      plane.setAttribute('aria-label', `${scene().n} points of ${scene().classes.length} classes at ${level(k)}, w = ${w}, ${data.samplers[now.sampler].name}.`);
      sure.setAttribute('aria-label', `Mean probability of the own class at this level: ${mean(now.w, k).toFixed(2)}; at w = 0: ${mean(0, k).toFixed(2)}.`);
    }
  }

  // ---- time ----
  let asked = 0, before = 0, visible = true;
  function frame(at) {
    asked = 0;
    const passed = Math.max(0, Math.min(.1, (at - before)/1000));
    before = at;
    if (now.playing) {
      now.time = Math.min(LAST, now.time + passed*LAST/SECONDS);
      if (now.time >= LAST) now.playing = false;
    }
    const gap = now.w - shownW, most = passed/GLIDE*Math.max(1, Math.abs(gap));
    shownW = calm.matches || Math.abs(gap) <= most ? now.w : shownW + Math.sign(gap)*most;
    draw(); drawSure(); tell();
    if (now.playing && visible || shownW != now.w) refresh();
    if (!now.playing) announce();
  }
  function refresh() {
    if (asked) return;
    asked = requestAnimationFrame(frame);
  }
  function change(what) {
    if (!now.playing && shownW == now.w) before = performance.now();
    Object.assign(now, what);
    announce();
    refresh();
  }
  const play = () => change({playing: !now.playing, time: !now.playing && now.time >= LAST ? 0 : now.time});
  const step = by => change({playing: false, time: Math.max(0, Math.min(LAST, by > 0 ? Math.floor(now.time + 1e-6) + 1 : Math.ceil(now.time - 1e-6) - 1))});
  $('play').onclick = play;
  $('step').onclick = () => step(1);
  $('back').onclick = () => step(-1);
  $('reset').onclick = () => { hover = -1; change({playing: false, time: 0, point: -1, start: null}); };
  $('time').oninput = e => change({playing: false, time: +e.target.value});
  $('w').oninput = e => change({w: +e.target.value});
  for (const b of root.querySelectorAll('.preset')) b.onclick = () => change({w: WEIGHTS.indexOf(+b.dataset.w)});
  function fill() {
    $('cls').innerHTML = option('all', -1) + scene().classes.map(option).join('');
    $('cls').value = now.cls;
  }
  $('scene').onchange = e => { hover = -1; change({scene: +e.target.value, cls: -1, point: -1, start: null}); fill(); prepare(); };
  $('cls').onchange = e => { hover = -1; change({cls: +e.target.value, point: -1, start: null}); prepare(); };
  $('sampler').onchange = e => change({sampler: +e.target.value});

  // ---- the hand ----
  const place = e => { const box = plane.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
  function pointAt([x, y]) {
    let best = -1, least = REACH;
    for (let i = 0; i < scene().n; i++) {
      const d = Math.hypot(px(value(i, shownW, now.time, 0)) - x, py(value(i, shownW, now.time, 1)) - y);
      if (seen(i) && d < least) [best, least] = [i, d];
    }
    return best;
  }
  function onRing([x, y]) {
    if (now.point < 0) return false;
    const at = now.start || startOf(now.point);
    return Math.hypot(px(at[0]) - x, py(at[1]) - y) < REACH + 4;
  }
  const held = at => at.map(v => Math.max(-scene().limit, Math.min(scene().limit, v)));
  plane.addEventListener('touchstart', e => {  // a finger on the ring drags it instead of the page
    if (onRing(place(e.touches[0]))) e.preventDefault();
  }, {passive: false});
  plane.onpointerdown = e => {
    const at = place(e);
    if (onRing(at)) {
      dragging = true; plane.classList.add('held'); plane.setPointerCapture(e.pointerId);
      return;
    }
    change({point: pointAt(at), start: null});
  };
  plane.onpointermove = e => {
    const at = place(e);
    if (dragging) return change({start: held(fromPixel(...at))});
    plane.classList.toggle('grab', onRing(at));
    const found = e.pointerType == 'mouse' && !onRing(at) ? pointAt(at) : -1;
    if (found != hover) { hover = found; change({}); }
  };
  plane.onpointerup = plane.onpointercancel = () => { dragging = false; plane.classList.remove('held'); change({}); };
  plane.onpointerleave = () => { if (hover >= 0) { hover = -1; change({}); } };
  plane.onkeydown = e => {
    const moves = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, .1], ArrowDown: [0, -.1]};
    const next = by => { let i = now.point; do i = (i + by + scene().n) % scene().n; while (!seen(i)); return i; };
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key in moves && now.point >= 0) {
      const from = now.start || startOf(now.point);
      change({start: held(from.map((v, k) => v + moves[e.key][k]))});
    } else if (e.key == 'n') change({point: next(1), start: null});
    else if (e.key == 'p') change({point: next(now.point < 0 ? 0 : -1), start: null});
    else if (e.key == ' ') play();
    else if (e.key == 'Escape') change({point: -1, start: null});
    else return;
    e.preventDefault(); e.stopPropagation();  // the notebook has shortcuts of its own
  };

  // ---- size, theme, beginning ----
  function fit() {
    figure.classList.toggle('narrow', host.clientWidth < 640);
    dpr = window.devicePixelRatio || 1;
    size = plane.clientWidth;
    for (const canvas of [plane, sure]) {
      canvas.width = Math.round(canvas.clientWidth*dpr);
      canvas.height = Math.round(canvas.clientHeight*dpr);
    }
    if (size) { clouds.length ? dress() : prepare(); change({}); }
  }
  new ResizeObserver(fit).observe(host);
  const rethink = () => { if (size) { dress(); change({}); } };
  for (const e of [document.documentElement, document.body])
    new MutationObserver(() => setTimeout(rethink, 100)).observe(e, {attributes: true});
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => setTimeout(rethink, 100));
  let begun = calm.matches;
  new IntersectionObserver(entries => {
    visible = entries[entries.length - 1].isIntersecting;
    if (visible && !begun) { begun = true; change({playing: true}); } else if (visible) change({});
  }, {threshold: .3}).observe(host);
  fill(); fit();
  host.guidance = {  // for tests, and for a console
    now, change, chosen: part => along(chosen(), now.w, LAST, part),
    place: i => [px(value(i, shownW, now.time, 0)), py(value(i, shownW, now.time, 1))]};
}
