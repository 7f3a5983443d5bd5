"use strict";
/* Deep zoom into exposures and stacks. The mosaic (8-bit companded JPEG) shows at once, tiles of the pixels follow on
   zoom; the stretch is a table of 256 colours made here. Mosaic pixels: full pixels, y up, (0, 0) the centre of the
   lower left one. Sky positions are linear in each detector: good to arcseconds, for reading, not for measuring. */
(() => {
  const KEPT_TILES = 200, KEPT_PICTURES = 8, LOADS = 6, MAX_ZOOM = 32, BLINK_MS = 500;
  const RAD = Math.PI / 180;
  const INK = { source: "#74b2ff", star: "#46c488", mark: "#ff7b76", detector: "rgb(255 255 255 / 55%)", mask: "#ff9d2e",
    line: "#ffffff", shade: "rgb(0 0 0 / 70%)", draft: "#ffd76a" };
  /* low and high: sigma of a full pixel from the level of the sky */
  const PRESETS = [
    { kind: "asinh", low: -1.5, high: 40 }, { kind: "linear", low: -1, high: 3 },
    { kind: "sqrt", low: -1, high: 12 }, { kind: "log", low: -1, high: 500 },
  ];
  const CURVES = {
    linear: (t) => t, sqrt: Math.sqrt, asinh: (t) => Math.asinh(20 * t) / Math.asinh(20),
    log: (t) => Math.log1p(1000 * t) / Math.log1p(1000),
  };
  const PLAIN = { softening: 0.25, low: Math.asinh(-20), high: Math.asinh(2e5), first: 16, no_pixel: 8, level: 0, sigma: 1 };
  const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
  const typing = (n) => n && (/^(INPUT|TEXTAREA|SELECT)$/.test(n.tagName) || n.isContentEditable);
  const step = (c) => (c.high - c.low) / (255 - c.first);
  const relative = (v, c) => v <= c.no_pixel ? NaN : c.softening * Math.sinh(c.low + step(c) * (v - c.first));

  /* 256 colours, as the bytes R G B A lie in memory. */
  function makeTable(stretch, c) {
    const table = new Uint32Array(256), curve = CURVES[stretch.kind];
    for (let v = 0; v < 256; v += 1) {
      const t = (relative(v, c) - stretch.low) / (stretch.high - stretch.low);
      if (!(t === t)) continue;
      let grey = Math.round(255 * curve(clamp(t, 0, 1)));
      if (stretch.invert) grey = 255 - grey;
      table[v] = (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0;
    }
    return table;
  }

  /* A decoded picture: its grey values, and a canvas with the colours of a stretch. */
  class Raster {
    constructor(bitmap, plain) {
      this.width = bitmap.width; this.height = bitmap.height; this.stamp = null;
      this.canvas = document.createElement("canvas");
      this.canvas.width = this.width; this.canvas.height = this.height;
      this.ink = this.canvas.getContext("2d", { willReadFrequently: !plain });
      this.ink.drawImage(bitmap, 0, 0);
      bitmap.close();
      if (plain) return;
      this.image = this.ink.getImageData(0, 0, this.width, this.height);
      const all = this.image.data;
      this.grey = new Uint8Array(this.width * this.height);
      for (let i = 0, j = 0; i < this.grey.length; i += 1, j += 4) this.grey[i] = all[j];
    }
    painted(table) {
      if (this.grey && this.stamp !== table) {
        const out = new Uint32Array(this.image.data.buffer), grey = this.grey;
        for (let i = 0; i < grey.length; i += 1) out[i] = table[grey[i]];
        this.ink.putImageData(this.image, 0, 0);
        this.stamp = table;
      }
      return this.canvas;
    }
    tint(colour) {
      this.ink.globalCompositeOperation = "source-in"; this.ink.fillStyle = colour;
      this.ink.fillRect(0, 0, this.width, this.height);
    }
  }

  async function fetchJson(url) {
    const reply = await fetch(url, { headers: { accept: "application/json" } });
    const told = await reply.json().catch(() => null);
    if (!reply.ok || told === null) throw new Error(told?.error?.message || `${url}: ${reply.status}`);
    return told;
  }
  async function fetchRaster(url, plain, signal) {
    const reply = await fetch(url, { signal });
    if (!reply.ok) throw new Error(`${url}: ${reply.status}`);
    return new Raster(await createImageBitmap(await reply.blob(), { colorSpaceConversion: "none" }), plain);
  }

  /* One image: what /view says of it, its mosaic, its tiles. */
  class Picture {
    constructor(info, raster) {
      this.info = info; this.raster = raster;
      this.id = info.image; this.plain = !info.companding;
      this.c = info.companding || PLAIN;
      this.width = info.width || (raster ? raster.width : 1);
      this.height = info.height || (raster ? raster.height : 1);
      this.factor = info.picture?.factor || (raster ? Math.max(this.width / raster.width, this.height / raster.height) : 1);
      this.tiles = new Map(); this.pending = new Map(); this.failed = new Set(); this.extra = {};
    }
    static async load(id, url) {
      const early = url ? fetchRaster(url, !/\.jpe?g($|\?)/.test(url)).catch(() => null) : null;
      const info = await fetchJson(`/images/${id}/view`);
      let raster = early && (!info.picture || info.picture.url.split("/")[2] === url.split("/")[2]) ? await early : null;
      if (!raster && info.picture) raster = await fetchRaster(info.picture.url, !info.companding);
      return new Picture(info, raster);
    }
    detectorAt(x, y) {
      return this.info.detectors.findLast((d) =>
        x >= d.x - 0.5 && x < d.x + d.n_x - 0.5 && y >= d.y - 0.5 && y < d.y + d.n_y - 0.5) || null;
    }
    skyAt(x, y) {
      const d = this.detectorAt(x, y), p = d && d.sky, s = this.info.sky;
      if (!p || !s) return null;
      const [u, v] = [x - d.x, y - d.y];
      const xi = (p[0] + p[1] * u + p[2] * v) * RAD, eta = (p[3] + p[4] * u + p[5] * v) * RAD;
      const [sin, cos] = [Math.sin(s.dec_deg * RAD), Math.cos(s.dec_deg * RAD)];
      const depth = cos - eta * sin, ra = s.ra_deg + Math.atan2(xi, depth) / RAD;
      return { ra: ((ra % 360) + 360) % 360, dec: Math.atan2(sin + eta * cos, Math.hypot(xi, depth)) / RAD };
    }
    /* Where a place of the sky lies: on the detector that holds it, else by the first one. */
    pixelOf(ra, dec) {
      const s = this.info.sky, turn = (ra - s.ra_deg) * RAD;
      const [sin0, cos0] = [Math.sin(s.dec_deg * RAD), Math.cos(s.dec_deg * RAD)];
      const [sin, cos] = [Math.sin(dec * RAD), Math.cos(dec * RAD)];
      const depth = sin * sin0 + cos * cos0 * Math.cos(turn);
      const xi = cos * Math.sin(turn) / depth / RAD, eta = (cos0 * sin - sin0 * cos * Math.cos(turn)) / depth / RAD;
      let first = null;
      for (const d of this.info.detectors.filter((one) => one.sky)) {
        const [a, b, c, e, f, g] = d.sky, det = b * g - c * f;
        const u = ((xi - a) * g - (eta - e) * c) / det, v = ((eta - e) * b - (xi - a) * f) / det;
        const at = { x: u + d.x, y: v + d.y };
        if (u >= -0.5 && v >= -0.5 && u < d.n_x - 0.5 && v < d.n_y - 0.5) return at;
        first = first || at;
      }
      return first;
    }
    valueAt(x, y, level) {
      const size = 2 ** level, side = this.info.tile * size;
      const [tx, ty] = [Math.floor((x + 0.5) / side), Math.floor((y + 0.5) / side)];
      const tile = this.tiles.get(`tiles/${level}/${tx}/${ty}`);
      const [raster, bin, x0, y0] = tile ? [tile, size, tx * side, ty * side] : [this.raster, this.factor, 0, 0];
      if (!raster || !raster.grey) return null;
      const [i, j] = [Math.floor((x + 0.5 - x0) / bin), raster.height - 1 - Math.floor((y + 0.5 - y0) / bin)];
      if (i < 0 || j < 0 || i >= raster.width || j >= raster.height) return null;
      const value = this.c.level + this.c.sigma * relative(raster.grey[j * raster.width + i], this.c);
      return Number.isFinite(value) ? { value, bin } : null;
    }
    /* Fetch JSON of an overlay once. */
    async more(name) {
      const url = this.info.urls[name];
      if (url && !this.extra[name]) this.extra[name] = fetchJson(url).catch(() => null);
      return this.extra[name] || null;
    }
  }

  const pictures = new Map();  /* promises by id, newest last */
  function picture(id, url) {
    const kept = pictures.get(id), found = kept || Picture.load(id, url);
    if (!kept) found.catch(() => pictures.delete(id));
    pictures.delete(id); pictures.set(id, found);
    if (pictures.size > KEPT_PICTURES) pictures.delete(pictures.keys().next().value);
    return found;
  }

  const two = (n, digits = 0) => n.toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  function sexagesimal(value, digits) {
    const units = Math.round(Math.abs(value) * 3600 * 10 ** digits), second = 10 ** digits * 60;
    return `${two(Math.floor(units / second / 60))}:${two(Math.floor(units / second) % 60)}:${two((units % second) / 10 ** digits, digits)}`;
  }
  const skyText = (s) => `${sexagesimal(s.ra / 15, 2)} ${s.dec < 0 ? "−" : "+"}${sexagesimal(s.dec, 1)}`;

  class SpicaViewer {
    constructor(element, options = {}) {
      this.element = element; element.viewer = this;
      this.keys = Boolean(options.keys);
      this.on = { sources: false, masks: false, marks: true, detectors: false, compass: true };
      this.preset = 0; this.stretch = { ...PRESETS[0], invert: false };
      this.table = makeTable(this.stretch, PLAIN);
      this.view = { x: 0, y: 0, scale: 1 }; this.fitted = true;
      this.shown = null; this.other = null; this.swapped = false; this.asked = 0;
      this.wanted = []; this.draft = null; this.mode = null;
      this.build();
      this.listen();
      if (options.image) this.show(options.image, options).catch(() => {});
    }

    /* What others call ------------------------------------------------------------------------------------------- */
    async show(id, { mosaicUrl, view } = {}) {
      const begun = performance.now(), asked = this.asked += 1;
      this.blink(null);
      try {
        const found = await picture(id, mosaicUrl);
        if (asked !== this.asked) return;
        if (this.shown) this.drop(this.shown);
        this.shown = found; this.draft = null; delete found.extra.marks;
        if (view) { this.fitted = false; this.view = { ...view }; } else this.fit();
        const { available, reason, cure } = found.info;
        this.say(found.raster ? (available ? "" : `mosaic only: ${[reason, cure].filter(Boolean).join("; ")}`)
          : "no picture yet: it is made when the image is assessed");
        this.paint();
      } catch (trouble) {
        if (asked === this.asked) { this.shown = null; this.say(trouble.message); this.paint(); }
        throw trouble;
      }
      this.controls();
      this.tell("shown", { image: id, ms: performance.now() - begun });
    }
    prefetch(id, mosaicUrl) {
      return picture(id, mosaicUrl).then((p) => { p.raster?.painted(this.table); }).catch(() => {});
    }
    setStretch({ low = this.stretch.low, high = this.stretch.high, kind = this.stretch.kind, invert = this.stretch.invert }) {
      if (!(kind in CURVES) || !(high > low)) return;
      this.stretch = { low, high, kind, invert };
      this.table = makeTable(this.stretch, PLAIN); this.controls(); this.later();
    }
    nextStretch() { this.setStretch(PRESETS[this.preset = (this.preset + 1) % PRESETS.length]); }
    toggle(name, to = !this.on[name]) {
      if (name in this.on) { this.on[name] = to; this.controls(); this.later(); }
    }
    blink(id) {
      clearInterval(this.blinking);
      this.blinking = null;
      if (this.other) { this.drop(this.other); this.other = null; this.swapped = false; this.label(); this.later(); }
      const asked = this.blinkAsked = (this.blinkAsked || 0) + 1;
      this.controls();
      if (!id || !this.shown) return Promise.resolve();
      return picture(id).then((found) => {
        if (asked !== this.blinkAsked) return;
        this.other = found;
        const swap = () => { this.swapped = !this.swapped; this.label(); this.later(); };
        this.blinking = setInterval(swap, BLINK_MS);
        swap();
        this.controls();
      }).catch((trouble) => this.say(trouble.message));
    }
    zoomTo(scale, x = this.view.x, y = this.view.y) {
      if (scale === "fit") { this.fit(); this.later(); return; }
      this.fitted = false;
      this.view = { x, y, scale: this.bounded(scale === "full" ? 1 / devicePixelRatio : scale) };
      this.later();
    }
    goto(number) {
      const d = this.shown?.info.detectors.find((one) => one.number === number);
      if (!d) return;
      this.zoomTo(Math.min(this.canvas.clientWidth / d.n_x, this.canvas.clientHeight / d.n_y) * 0.96,
        d.x + (d.n_x - 1) / 2, d.y + (d.n_y - 1) / 2);
    }
    /* Let a person draw: "circle" (drag from its centre) or "polygon" (click corners, double click or Enter closes). */
    draw(shape) {
      this.mode = shape; this.draft = null; this.element.classList.toggle("drawing", Boolean(shape)); this.later();
    }
    refreshMarks() { if (this.shown) delete this.shown.extra.marks; this.later(); }

    /* View ------------------------------------------------------------------------------------------------------- */
    bounded(scale) { return clamp(scale, this.fitScale() / 4, MAX_ZOOM / devicePixelRatio); }
    fitScale() {
      const p = this.shown;
      return p ? Math.min(this.canvas.clientWidth / p.width, this.canvas.clientHeight / p.height) * 0.985 || 1 : 1;
    }
    fit() {
      const p = this.shown; this.fitted = true;
      if (p) this.view = { x: (p.width - 1) / 2, y: (p.height - 1) / 2, scale: this.fitScale() };
    }
    zoomBy(factor, sx = this.canvas.clientWidth / 2, sy = this.canvas.clientHeight / 2) {
      const before = this.toMosaic(sx, sy);
      this.fitted = false;
      this.view.scale = this.bounded(this.view.scale * factor);
      const after = this.toMosaic(sx, sy);
      this.view.x += before.x - after.x; this.view.y += before.y - after.y;
      this.later();
    }
    pan(dx, dy) { this.fitted = false; this.view.x -= dx / this.view.scale; this.view.y += dy / this.view.scale; this.later(); }
    toMosaic(sx, sy) {
      return { x: this.view.x + (sx - this.canvas.clientWidth / 2) / this.view.scale,
        y: this.view.y - (sy - this.canvas.clientHeight / 2) / this.view.scale };
    }
    resize() {
      const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight].map((v) => Math.round(v * devicePixelRatio));
      if (!w || !h || (this.canvas.width === w && this.canvas.height === h)) return;
      this.canvas.width = w; this.canvas.height = h;
      if (this.fitted) this.fit();
      this.paint();
    }
    /* The view of the picture that blinks: the same sky where both know it, else the same pixels. */
    frameOf(p) {
      const r = this.view.scale * devicePixelRatio, base = this.shown;
      const mine = p !== base && p.info.sky && base.info.sky ? base.skyAt(this.view.x, this.view.y) : null;
      if (!mine) return { x: this.view.x, y: this.view.y, r };
      return { ...p.pixelOf(mine.ra, mine.dec), r: r * p.info.sky.scale_arcsec / base.info.sky.scale_arcsec };
    }

    /* Drawing ---------------------------------------------------------------------------------------------------- */
    later() {
      if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
    }
    paint() {
      const ink = this.ink, { width, height } = this.canvas;
      ink.setTransform(1, 0, 0, 1, 0, 0);
      ink.clearRect(0, 0, width, height);
      const p = this.swapped && this.other ? this.other : this.shown;
      if (!p) return;
      const f = this.frameOf(p);
      this.sx = (x) => width / 2 + (x - f.x) * f.r;
      this.sy = (y) => height / 2 - (y - f.y) * f.r;
      if (p.raster) {
        const [w, h] = [p.raster.width * p.factor, p.raster.height * p.factor];
        ink.imageSmoothingEnabled = true;
        ink.drawImage(p.raster.painted(this.table), this.sx(-0.5), this.sy(h - 0.5), w * f.r, h * f.r);
      }
      this.wanted = [];
      this.level = clamp(Math.floor(Math.log2(1 / f.r) + 1e-6), 0, p.info.levels);
      if (p.info.urls.tiles && p.factor * f.r > 1.15) this.drawTiles(p, "tiles", f);
      if (this.on.masks && p.info.urls.masks) this.drawTiles(p, "masks", f);
      this.pump(p);
      if (p === this.shown) this.overlay(p, f.r);
      if (this.on.compass) this.compass(p, f.r);
    }
    drawTiles(p, kind, { x: cx, y: cy, r }) {
      const top = Math.min(p.info.levels, this.level + 2);
      for (let level = top; level >= this.level; level -= 1) {
        const side = p.info.tile * 2 ** level, { width, height } = this.canvas;
        const range = (a, b, n) => [Math.max(0, Math.floor(a / side)), Math.min(Math.ceil(n / side) - 1, Math.floor(b / side))];
        const [x0, x1] = range(cx - width / 2 / r, cx + width / 2 / r, p.width);
        const [y0, y1] = range(cy - height / 2 / r, cy + height / 2 / r, p.height);
        this.ink.imageSmoothingEnabled = r * 2 ** level < 2;
        this.ink.globalAlpha = kind === "masks" ? 0.5 : 1;
        for (let y = y0; y <= y1; y += 1) for (let x = x0; x <= x1; x += 1) {
          const key = `${kind}/${level}/${x}/${y}`, tile = p.tiles.get(key);
          const [left, right] = [this.sx(x * side - 0.5), this.sx((x + 1) * side - 0.5)].map(Math.round);
          const [above, below] = [this.sy((y + 1) * side - 0.5), this.sy(y * side - 0.5)].map(Math.round);
          if (tile) {
            p.tiles.delete(key); p.tiles.set(key, tile);
            if (kind === "tiles") this.ink.clearRect(left, above, right - left, below - above);
            if (kind === "tiles" || level === this.level) this.ink.drawImage(tile.painted(this.table), left, above, right - left, below - above);
          } else if (level === this.level && !p.failed.has(key)) {
            const off = Math.hypot((left + right - width) / 2, (above + below - height) / 2);
            this.wanted.push({ key, kind, level, x, y, off });
          }
        }
        this.ink.globalAlpha = 1;
      }
    }
    /* Fetch what is seen, the middle first; what is not seen any more is let go. */
    pump(p) {
      const keys = new Set(this.wanted.map((t) => t.key));
      for (const [key, stop] of p.pending) if (!keys.has(key)) stop.abort();
      this.wanted.sort((a, b) => a.off - b.off);
      for (const t of this.wanted) {
        if (p.pending.size >= LOADS) break;
        if (!p.pending.has(t.key)) this.fetchTile(p, t);
      }
    }
    async fetchTile(p, t) {
      const stop = new AbortController();
      p.pending.set(t.key, stop);
      try {
        const url = p.info.urls[t.kind].replace("{level}", t.level).replace("{x}", t.x).replace("{y}", t.y);
        const tile = await fetchRaster(url, t.kind === "masks", stop.signal);
        if (t.kind === "masks") tile.tint(INK.mask);
        p.tiles.set(t.key, tile);
        if (p.tiles.size > KEPT_TILES) p.tiles.delete(p.tiles.keys().next().value);
      } catch (trouble) {
        if (trouble.name !== "AbortError") { p.failed.add(t.key); this.say("some full pixels could not be read; look again later"); }
      } finally {
        p.pending.delete(t.key);
        this.later();
      }
    }
    drop(p) {
      for (const stop of p.pending.values()) stop.abort();
      p.tiles.clear(); p.failed.clear();
    }

    overlay(p, r) {
      const ink = this.ink, dpr = devicePixelRatio;
      ink.lineWidth = 1.25 * dpr;
      ink.font = `${11 * dpr}px system-ui, sans-serif`;
      if (this.on.detectors) for (const d of p.info.detectors) {
        const [x, y, w, h] = [this.sx(d.x - 0.5), this.sy(d.y + d.n_y - 0.5), d.n_x * r, d.n_y * r];
        ink.strokeStyle = INK.detector;
        ink.strokeRect(x, y, w, h);
        if (w > 40 * dpr) this.text(d.name || String(d.number), x + 5 * dpr, y + 14 * dpr);
      }
      if (this.on.sources) this.given(p, "sources", (s) => {
        for (const star of [0, 1]) {
          ink.beginPath();
          for (let i = 0; i < s.n; i += 1) if (s.star[i] === star) this.ring(s.x[i], s.y[i], Math.max(4 * dpr, 7 * r));
          ink.strokeStyle = star ? INK.star : INK.source;
          ink.stroke();
        }
      });
      ink.lineWidth = 2 * dpr;
      if (this.on.marks) this.given(p, "marks", (list) => {
        ink.strokeStyle = INK.mark;
        for (const m of Array.isArray(list) ? list : []) { ink.beginPath(); this.outline(m, r); ink.stroke(); }
      });
      if (this.draft) { ink.strokeStyle = INK.draft; ink.beginPath(); this.outline(this.draft, r, this.draft.open); ink.stroke(); }
      if (this.draft?.cross) this.cross(this.sx(this.draft.x_pix.at(-1)), this.sy(this.draft.y_pix.at(-1)), dpr);
    }
    /* Where the keys draw; open in the middle, so that the pixel is seen. */
    cross(x, y, dpr) {
      for (const [width, colour] of [[5, INK.shade], [2, INK.draft]]) {
        this.ink.lineWidth = width * dpr; this.ink.strokeStyle = colour; this.ink.beginPath();
        for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
          this.ink.moveTo(x + 4 * dx * dpr, y + 4 * dy * dpr); this.ink.lineTo(x + 16 * dx * dpr, y + 16 * dy * dpr);
        }
        this.ink.stroke();
      }
    }
    given(p, name, act) {
      const here = `${name}:here`;
      if (p.extra[here]) act(p.extra[here]);
      if (!p.extra[name]) p.more(name)?.then((told) => { if (told) { p.extra[here] = told; this.later(); } });
    }
    ring(x, y, radius) {
      const [sx, sy] = [this.sx(x), this.sy(y)];
      if (sx < -radius || sy < -radius || sx > this.canvas.width + radius || sy > this.canvas.height + radius) return;
      this.ink.moveTo(sx + radius, sy);
      this.ink.arc(sx, sy, radius, 0, 2 * Math.PI);
    }
    outline(m, r, open = false) {
      if (m.shape === "circle") { this.ring(m.x_pix[0], m.y_pix[0], m.radius_pix * r); return; }
      m.x_pix.forEach((x, i) => this.ink[i ? "lineTo" : "moveTo"](this.sx(x), this.sy(m.y_pix[i])));
      if (!open) this.ink.closePath();
    }
    text(words, x, y) {
      this.ink.lineWidth = 3 * devicePixelRatio; this.ink.strokeStyle = INK.shade; this.ink.strokeText(words, x, y);
      this.ink.fillStyle = INK.line; this.ink.fillText(words, x, y); this.ink.lineWidth = 1.25 * devicePixelRatio;
    }
    compass(p, r) {
      const sky = p.info.sky, ink = this.ink, dpr = devicePixelRatio;
      if (!sky) return;
      ink.font = `${11 * dpr}px system-ui, sans-serif`;
      const [cx, cy, long] = [this.canvas.width - 46 * dpr, 46 * dpr, 26 * dpr];
      const bar = (points) => {
        for (const [width, colour] of [[4, INK.shade], [1.5, INK.line]]) {
          ink.lineWidth = width * dpr; ink.strokeStyle = colour; ink.beginPath();
          points.forEach(([x, y], i) => ink[i ? "lineTo" : "moveTo"](x, y)); ink.stroke();
        }
      };
      for (const [words, [dx, dy]] of [["N", sky.north], ["E", sky.east]]) {
        const tip = [cx + dx * long, cy - dy * long], back = (turn) => [tip[0] - (dx * Math.cos(turn) - dy * Math.sin(turn)) * 7 * dpr,
          tip[1] + (dx * Math.sin(turn) + dy * Math.cos(turn)) * 7 * dpr];
        bar([[cx, cy], tip]);
        bar([back(0.5), tip, back(-0.5)]);
        this.text(words, cx + dx * (long + 11 * dpr) - 4 * dpr, cy - dy * (long + 11 * dpr) + 4 * dpr);
      }
      const per = sky.scale_arcsec / r, goal = 120 * dpr * per;  /* arcsec a device pixel; of the bar */
      const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000];
      const length = steps.findLast((s) => s <= goal) || steps[0], w = length / per;
      const words = length >= 3600 ? `${length / 3600}°` : length >= 60 ? `${length / 60}′` : `${length}″`;
      const [x, y] = [14 * dpr, this.canvas.height - 16 * dpr];
      bar([[x, y - 5 * dpr], [x, y], [x + w, y], [x + w, y - 5 * dpr]]);
      this.text(words, x + w / 2 - 8 * dpr, y - 8 * dpr);
    }

    /* Words ------------------------------------------------------------------------------------------------------ */
    tell(name, detail) { this.element.dispatchEvent(new CustomEvent(name, { detail, bubbles: true })); }
    say(words) { this.note.textContent = words; this.note.title = words; }
    label() {
      const p = this.swapped && this.other ? this.other : this.shown;
      this.element.classList.toggle("swapped", this.swapped);
      this.badge.textContent = this.other && p ? p.info.name : "";
    }
    cursor(sx, sy) {
      const p = this.shown;
      if (!p) return;
      const { x, y } = this.toMosaic(sx, sy), d = p.detectorAt(x, y), sky = p.skyAt(x, y), v = p.valueAt(x, y, this.level);
      const inside = d ? `${d.name || d.number}  ${Math.round(x - d.x)} ${Math.round(y - d.y)}` : `${Math.round(x)} ${Math.round(y)}`;
      const adu = v ? `${v.value.toPrecision(Math.abs(v.value) < 1e4 ? 4 : 5)} ADU${v.bin > 1 ? ` (mean of ${v.bin}²)` : ""}` : "";
      this.readout.textContent = [inside, sky ? skyText(sky) : "", adu].filter(Boolean).join("   ");
      this.tell("cursor", { x, y, detector: d ? d.number : null, ra: sky ? sky.ra : null, dec: sky ? sky.dec : null,
        value: v ? v.value : null });
    }

    /* The box: canvas, bar of buttons, read-out --------------------------------------------------------------------- */
    build() {
      const make = (tag, name, parent, words = "") => {
        const n = Object.assign(document.createElement(tag), { className: name, textContent: words });
        parent.append(n);
        return n;
      };
      const e = this.element;
      e.classList.add("viewer"); e.replaceChildren();
      this.canvas = make("canvas", "viewer-canvas", e);
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", "picture; plus and minus zoom, arrows move, 0 shows all");
      this.ink = this.canvas.getContext("2d");
      this.badge = make("p", "viewer-badge", e);
      this.panel = make("div", "viewer-panel", e); this.panel.hidden = true;
      const bar = make("div", "viewer-bar", e), foot = make("p", "viewer-foot", e);
      bar.setAttribute("role", "toolbar"); bar.setAttribute("aria-label", "picture");
      this.readout = make("span", "viewer-readout", foot);
      this.note = make("span", "viewer-note", foot);
      this.note.setAttribute("role", "status");
      this.buttons = {};
      const button = (name, words, title, act, parent = bar) => {
        const b = this.buttons[name] = Object.assign(make("button", "viewer-button", parent, words), { type: "button", title });
        b.dataset.act = name; b.addEventListener("click", act);
        return b;
      };
      button("fit", "Fit", "the whole picture (0)", () => this.zoomTo("fit"));
      button("full", "1:1", "its own pixels (F)", () => this.zoomTo("full"));
      button("out", "−", "zoom out (-)", () => this.zoomBy(1 / 1.5)).setAttribute("aria-label", "zoom out");
      button("in", "+", "zoom in (+)", () => this.zoomBy(1.5)).setAttribute("aria-label", "zoom in");
      button("stretch", "asinh", "stretch: choose; S for the next", () => { this.panel.hidden = !this.panel.hidden; this.controls(); });
      button("sources", "Sources", "detected sources, stars green (O)", () => this.toggle("sources"));
      button("masks", "Masks", "pixels without weight (M)", () => this.toggle("masks"));
      button("marks", "Marks", "marked regions (G)", () => this.toggle("marks"));
      button("detectors", "Detectors", "outlines of the detectors", () => this.toggle("detectors"));
      button("compass", "Compass", "north, east and scale", () => this.toggle("compass"));
      button("blink", "Blink", "against another image (space)", () => this.blinkOther());
      this.kind = make("select", "", make("label", "", this.panel, "stretch"));
      for (const name of Object.keys(CURVES)) make("option", "", this.kind, name).value = name;
      this.kind.addEventListener("change", () => this.setStretch({ kind: this.kind.value }));
      const slider = (words, low, high, act) => {
        const s = make("input", "", make("label", "", this.panel, words));
        s.type = "range"; s.min = low; s.max = high; s.step = 0.01;
        s.addEventListener("input", () => act(Number(s.value)));
        return s;
      };
      this.low = slider("black", -10, 10, (v) => this.setStretch({ low: v, high: Math.max(this.stretch.high, v + 0.1) }));
      this.high = slider("white", -0.3, 4.7, (v) => this.setStretch({ high: Math.max(10 ** v, this.stretch.low + 0.1) }));
      button("invert", "Invert", "dark on white", () => this.setStretch({ invert: !this.stretch.invert }), this.panel);
      this.controls();
      new ResizeObserver(() => this.resize()).observe(this.canvas);
    }
    controls() {
      const b = this.buttons, urls = this.shown?.info.urls || {}, press = (n, to) => b[n].setAttribute("aria-pressed", String(to));
      for (const name of Object.keys(this.on)) press(name, this.on[name]);
      for (const name of ["sources", "masks", "marks"]) b[name].disabled = Boolean(this.shown) && !urls[name];
      press("invert", this.stretch.invert); press("blink", Boolean(this.blinking));
      b.blink.disabled = !this.otherId();
      b.stretch.textContent = this.stretch.kind;
      b.stretch.setAttribute("aria-expanded", String(!this.panel.hidden));
      b.stretch.disabled = Boolean(this.shown?.plain);
      this.kind.value = this.stretch.kind; this.low.value = this.stretch.low; this.high.value = Math.log10(Math.max(this.stretch.high, 0.1));
    }
    otherId() { return Number(this.element.dataset.blink) || this.shown?.info.blink || null; }
    blinkOther() { return this.blink(this.blinking ? null : this.otherId()); }

    listen() {
      const c = this.canvas, here = (e) => { const box = c.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
      let drag = null;
      c.addEventListener("mousedown", (e) => e.preventDefault());  /* the keys stay with the page */
      c.addEventListener("wheel", (e) => {
        e.preventDefault();
        this.zoomBy(Math.exp(-clamp(e.deltaY * (e.deltaMode ? 16 : 1), -240, 240) * 0.002), ...here(e));
      }, { passive: false });
      c.addEventListener("pointerdown", (e) => {
        if (e.button || !this.shown) return;
        try { c.setPointerCapture(e.pointerId); } catch { /* the pointer has left already */ }
        drag = here(e);
        const at = this.toMosaic(...drag);
        if (this.mode === "circle") this.draft = { shape: "circle", x_pix: [at.x], y_pix: [at.y], radius_pix: 0 };
        if (this.mode === "polygon") this.corner(at);
      });
      c.addEventListener("pointermove", (e) => {
        const now = here(e), at = this.toMosaic(...now), d = this.draft;
        if (drag && this.mode === "circle" && d) { d.radius_pix = Math.hypot(at.x - d.x_pix[0], at.y - d.y_pix[0]); this.later(); }
        else if (this.mode === "polygon") { if (d && !d.cross) { d.x_pix[d.x_pix.length - 1] = at.x; d.y_pix[d.y_pix.length - 1] = at.y; this.later(); } }
        else if (drag) { this.pan(now[0] - drag[0], now[1] - drag[1]); drag = now; }
        this.cursor(...now);
      });
      const end = () => { drag = null; if (this.mode === "circle" && this.draft) this.finish(this.draft.radius_pix * this.view.scale > 2); };
      c.addEventListener("pointerup", end);
      c.addEventListener("pointercancel", () => { drag = null; this.draft = null; this.later(); });
      c.addEventListener("dblclick", () => { if (this.mode === "polygon") this.finish(true); });
      c.addEventListener("keydown", (e) => this.move(e));
      document.addEventListener("keydown", (e) => {
        if (!this.element.isConnected || e.ctrlKey || e.metaKey || e.altKey || typing(e.target)) return;
        if (this.mode && (e.key === "Escape" || e.key === "Enter")) { e.preventDefault(); this.finish(e.key === "Enter"); return; }
        if (this.keys) this.press(e);
      });
    }
    /* The last corner follows the pointer until it is set. */
    corner(at) {
      const d = this.draft;
      if (!d) { this.draft = { shape: "polygon", x_pix: [at.x, at.x], y_pix: [at.y, at.y], radius_pix: null, open: true }; return; }
      const n = d.x_pix.length, near = 8 / this.view.scale;
      if (n > 3 && Math.hypot(at.x - d.x_pix[0], at.y - d.y_pix[0]) < near) { this.finish(true); return; }
      d.x_pix[n - 1] = at.x; d.y_pix[n - 1] = at.y;
      if (n > 1 && Math.hypot(at.x - d.x_pix[n - 2], at.y - d.y_pix[n - 2]) < 2 / this.view.scale) return;  /* a double click */
      d.x_pix.push(at.x); d.y_pix.push(at.y);
    }
    finish(good) {
      const d = this.draft, polygon = d?.shape === "polygon";
      if (polygon) { d.x_pix.pop(); d.y_pix.pop(); }
      if (d && good && !(polygon && d.x_pix.length < 3)) {
        this.draw(null);
        this.tell("shape", { shape: d.shape, x_pix: d.x_pix, y_pix: d.y_pix, radius_pix: d.radius_pix });
      } else if (!good && !d) this.draw(null); else { this.draft = null; this.later(); }
    }
    move(e) {
      const by = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[e.key];
      if (by) { e.preventDefault(); e.stopPropagation(); this.pan(...by); } else if (!this.keys) this.press(e, "+-=0");
    }
    press(e, only = null) {
      const acts = {
        s: () => this.nextStretch(), f: () => this.zoomTo(this.fitted ? "full" : "fit"), m: () => this.toggle("masks"),
        o: () => this.toggle("sources"), g: () => this.toggle("marks"), 0: () => this.zoomTo("fit"),
        "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1 / 1.5),
        " ": () => { if (this.otherId()) this.blinkOther(); },
      };
      const act = acts[e.key.toLowerCase()];
      if (!act || (only && !only.includes(e.key)) || (e.key === " " && e.target.tagName === "BUTTON")) return;
      e.preventDefault(); act();
    }
  }

  window.SpicaViewer = SpicaViewer;
  document.querySelectorAll("[data-viewer]").forEach((n) => new SpicaViewer(n, {
    image: Number(n.dataset.image) || null, mosaicUrl: n.dataset.mosaic, keys: "keys" in n.dataset }));
})();
