"use strict";
/* Image page: shapes drawn in the viewer, by pointer or by keys, become marks; detectors and neighbours by the viewer. */
(() => {
  const one = (words, root = document) => root.querySelector(words);
  const all = (words) => [...document.querySelectorAll(words)];
  const REMOVE = '[data-marks] form[action^="/marks/"] button';
  const box = one("[data-viewer]");
  const viewer = () => box && box.viewer;
  let last = ["", false];
  const said = (words, bad = false) => {
    last = [words, bad];
    const note = one("[data-mark-note]");
    if (note) { note.textContent = words; note.classList.toggle("bad", bad); }
  };
  const press = (shape) => all("[data-draw]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.draw === shape)));

  const refresh = async () => {
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!reply || !reply.ok) return;
    const fresh = one("[data-marks]", new DOMParser().parseFromString(await reply.text(), "text/html"));
    const old = one("[data-marks]");
    if (fresh && old) window.SpicaParts.swap(old, fresh);
  };
  const goOn = (node) => { if (node) node.focus({ preventScroll: true }); };
  const button = (shape) => one(`[data-draw="${shape}"]`);

  const FIRST = {
    pointer: { circle: "Press in the middle, drag to the rim; or use the arrows. Escape leaves.",
      polygon: "Click the corners; double click or Enter ends. Or use the arrows. Escape leaves." },
    keys: { circle: "Arrows move the circle, with Shift finely; + and - change its radius; Enter keeps it, Escape leaves.",
      polygon: "Arrows move the cross, with Shift finely; space or Enter sets a corner, Backspace takes it back; C or Enter twice closes, Escape leaves." },
  };
  let byKeys = false;
  const start = (shape, keys) => {
    byKeys = keys;
    viewer().draw(shape);
    press(shape);
    if (!viewer().shown) said("The picture is still coming; draw when it stands.");
    else if (keys) begin(); else said(FIRST.pointer[shape]);
  };
  const leave = () => {
    const shape = viewer().mode;
    viewer().draw(null);
    press(null);
    said(byKeys ? "Nothing was marked." : "");
    if (byKeys) goOn(button(shape));
    rest();
  };
  const rest = () => { byKeys = false; viewer().canvas.setAttribute("role", "img"); };

  document.addEventListener("click", (e) => {
    const draw = e.target.closest("[data-draw]");
    if (draw && viewer()) {
      if (draw.getAttribute("aria-pressed") === "true") leave(); else start(draw.dataset.draw, !e.detail);
    }
    const goto = e.target.closest("[data-goto]");
    if (goto && viewer()) {
      viewer().goto(Number(goto.dataset.goto));
      box.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }
  });

  /* By keys: the last corner of the draft, or the middle of its circle, is a cross that the arrows move. Steps are of
     the screen, so that zooming makes them finer. */
  const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const COARSE = 10, RADIUS = 40, GROW = 1.1, MARGIN = 24;
  const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
  const begin = () => {
    const v = viewer(), shape = v.mode, { x, y } = v.view;
    byKeys = true;
    if (!v.draft) v.draft = { shape, x_pix: [x], y_pix: [y], radius_pix: shape === "circle" ? RADIUS / v.view.scale : null, open: shape === "polygon" };
    v.draft.cross = true;
    v.canvas.setAttribute("role", "application");
    box.scrollIntoView({ block: "nearest" });
    goOn(v.canvas);
    move([0, 0], 0);
    said(FIRST.keys[shape]);
  };
  const move = ([dx, dy], pixels) => {
    const v = viewer(), d = v.draft, last = d.x_pix.length - 1, { view, canvas } = v;
    const x = d.x_pix[last] = clamp(d.x_pix[last] + dx * pixels / view.scale, 0, v.shown.width - 1);
    const y = d.y_pix[last] = clamp(d.y_pix[last] + dy * pixels / view.scale, 0, v.shown.height - 1);
    const [w, h] = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    if (!v.fitted) {
      view.x = clamp(view.x, x - (w - MARGIN) / view.scale, x + (w - MARGIN) / view.scale);
      view.y = clamp(view.y, y - (h - MARGIN) / view.scale, y + (h - MARGIN) / view.scale);
    }
    v.later();
    v.cursor(w + (x - view.x) * view.scale, h - (y - view.y) * view.scale);
  };
  const corners = () => {
    const n = viewer().draft.x_pix.length - 1;
    said(`${n} ${n === 1 ? "corner" : "corners"}${n < 3 ? "; three at least" : "; C closes"}.`);
  };
  const close = () => { if (viewer().draft.x_pix.length > 3) viewer().finish(true); else corners(); };
  const set = (closes) => {
    const v = viewer(), d = v.draft, n = d.x_pix.length;
    if (n > 1 && Math.hypot(d.x_pix[n - 1] - d.x_pix[n - 2], d.y_pix[n - 1] - d.y_pix[n - 2]) * v.view.scale < 0.5) { if (closes) close(); return; }
    d.x_pix.push(d.x_pix[n - 1]); d.y_pix.push(d.y_pix[n - 1]);
    v.later();
    corners();
  };
  const back = () => {
    const d = viewer().draft, n = d.x_pix.length;
    if (n > 1) { d.x_pix.splice(n - 2, 1); d.y_pix.splice(n - 2, 1); viewer().later(); }
    corners();
  };
  const grow = (by) => { const d = viewer().draft; d.radius_pix = Math.max(d.radius_pix * by, 2 / viewer().view.scale); viewer().later(); };
  const KEYED = {
    circle: { Enter: () => viewer().finish(true), "+": () => grow(GROW), "=": () => grow(GROW), "-": () => grow(1 / GROW) },
    polygon: { Enter: () => set(true), " ": () => set(false), c: close, Backspace: back },
  };
  const quiet = (e) => e.ctrlKey || e.metaKey || e.altKey || e.isComposing || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) || one("dialog[open]");
  /* What these keys do elsewhere, or a grade that would leave the page, waits until the mark is drawn. */
  const drawing = (e) => {
    const v = viewer(), key = e.key.length === 1 ? e.key.toLowerCase() : e.key;
    if (key === "Escape") { leave(); return true; }
    if (!v.shown) return false;
    if (STEP[key]) {
      if (!v.draft?.cross) begin();
      move(STEP[key], e.shiftKey ? 1 : COARSE);
      return true;
    }
    if (!v.draft?.cross || (/^(Enter| )$/.test(key) && e.target.closest("a, button, summary"))) return false;
    const act = KEYED[v.mode][key];
    if (act && !(e.repeat && /^(Enter| |c)$/.test(key))) act();
    return Boolean(act) || /^[abcdjkuz]$/.test(key);
  };
  if (box) document.addEventListener("keydown", (e) => {
    if (viewer()?.mode && !quiet(e) && drawing(e)) { e.preventDefault(); e.stopPropagation(); }
  }, true);
  document.addEventListener("keydown", (e) => {
    const shape = { r: "circle", p: "polygon" }[e.key.toLowerCase()];
    if (shape && viewer() && button(shape) && !quiet(e)) { e.preventDefault(); start(shape, true); }
  });
  if (box) box.addEventListener("shown", () => { if (viewer().mode && byKeys) begin(); });

  /* A shape is kept at once; where that fails it is said, and nothing is on the picture that is not in the survey. */
  if (box) box.addEventListener("shape", async (e) => {
    const panel = one("[data-marks]");
    const keyed = byKeys;
    press(null);
    rest();
    if (!panel || !one("[data-draw]", panel)) return;
    const comment = one("[data-mark-comment]", panel);
    said("Keeping the mark…");
    const body = JSON.stringify({ ...e.detail, radius_pix: e.detail.radius_pix ?? null, comment: comment.value || null });
    const reply = await fetch(`/api/images/${panel.dataset.marks}/marks`, {
      method: "POST", body, headers: { "Content-Type": "application/json", Accept: "application/json" },
    }).catch(() => null);
    if (!reply || !reply.ok) {
      const told = reply && await reply.json().catch(() => null);
      said((told && told.error && told.error.message) || "the mark was not kept: the server is away; draw it again", true);
      return;
    }
    comment.value = "";
    viewer().refreshMarks();
    await refresh();
    said("Marked. The next stack gives these pixels no weight.");
    if (keyed) goOn(button(e.detail.shape));
  });

  /* A mark is taken back in place, and the next one that can be is under the key. */
  document.addEventListener("submit", async (e) => {
    const form = e.target.closest('form[action^="/marks/"]');
    if (!form || !window.SpicaParts) return;
    e.preventDefault();
    const at = all(REMOVE).indexOf(one("button", form));
    const reply = await fetch(`/api${form.getAttribute("action")}`, { method: "POST", headers: { Accept: "application/json" } }).catch(() => null);
    if (!reply || !reply.ok) {
      const told = reply && await reply.json().catch(() => null);
      said((told && told.error && told.error.message) || "the mark still stands: the server is away; remove it again", true);
      return;
    }
    await refresh();
    said("Removed. The next stack uses these pixels again.");
    const left = all(REMOVE);
    goOn(left[Math.min(at, left.length - 1)] || button("circle"));
  });

  /* A mark that was taken back leaves the picture with the page; one of another person comes with the list. What was
     said last stays. */
  if (box) new MutationObserver((changes) => {
    if (changes.some((c) => [...c.addedNodes].some((n) => n.nodeType === 1 && (n.matches("[data-marks]") || one("[data-marks]", n))))) {
      if (viewer() && viewer().refreshMarks) viewer().refreshMarks();
      if (last[0]) said(...last);
    }
  }).observe(document.getElementById("main"), { childList: true, subtree: true });

  /* The next picture is there before it is asked for. */
  const next = one("a[data-next]");
  if (box && next) box.addEventListener("shown", () => viewer().prefetch(Number(next.dataset.next)), { once: true });
})();
