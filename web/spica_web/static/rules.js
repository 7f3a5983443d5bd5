"use strict";
/* The rule room: marks under faults, words that fit, counts while one types, distributions with cuts, the sky.
   Without this script the form judges as well; the lists are then those of the rule that was sent. */
(() => {
  const one = (words, root = document) => root.querySelector(words);
  const all = (words, root = document) => [...root.querySelectorAll(words)];
  const SVG = "http://www.w3.org/2000/svg";
  const draw = (name, values, ...inside) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  };
  const make = (name, className, ...inside) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    node.append(...inside);
    return node;
  };
  const room = one("[data-rule-room]");
  if (!room) return;
  const form = one("#ruleform"), box = one("textarea[name=rule]", room), ink = one(".ink", room);
  const editor = one("[data-editor]", room), popup = one("#words"), fault = one("[data-fault]", room), told = one("#check");
  editor.classList.add("live");

  /* Values as the pages write them. */
  const whole = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+(?!\d))/g, " ");
  const fixed = (v, digits) => v === null || v === undefined ? "–" : v.toFixed(digits).replace("-", "−");
  const short = (v) => String(Number(v.toPrecision(4))).replace("-", "−");
  const two = (n) => String(n).padStart(2, "0");
  const span = (s) => {
    if (s < 10) return `${s.toFixed(1)} s`;
    const n = Math.round(s);
    if (n < 60) return `${n} s`;
    if (n < 3600) return `${Math.floor(n / 60)} min ${two(n % 60)} s`;
    if (n < 86400) return `${Math.floor(n / 3600)} h ${two(Math.floor(n % 3600 / 60))} min`;
    return `${Math.floor(n / 86400)} d ${Math.floor(n % 86400 / 3600)} h`;
  };
  const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;

  /* Asking: only the newest question of a kind counts. */
  const asked = {};
  const ask = async (kind, address, read = "json") => {
    if (asked[kind]) asked[kind].abort();
    const stop = asked[kind] = new AbortController();
    try {
      const reply = await fetch(address, { signal: stop.signal, headers: { accept: "application/json, text/html" } });
      return reply.ok ? await reply[read]() : null;
    } catch (error) {
      if (error.name !== "AbortError") told.textContent = "the server does not answer; the rule is kept here";
      return null;
    }
  };
  const words = () => {
    const found = new URLSearchParams();
    for (const name of ["rule", "object", "filter", "night"]) {
      const value = (form.elements[name] || {}).value || "";
      if (value.trim()) found.set(name, value.trim());
    }
    return found;
  };

  /* The mark under a fault: the same text behind the box, with a wavy line. */
  let wrong = null;
  const paint = () => {
    const text = box.value;
    ink.replaceChildren();
    if (wrong && wrong.start <= text.length) {
      const end = Math.max(wrong.end, wrong.start + 1);
      ink.append(text.slice(0, wrong.start), make("mark", "", text.slice(wrong.start, end) || "\u00a0"), text.slice(end));
    } else ink.append(text);
    ink.append("\n");
    ink.scrollTop = box.scrollTop;
  };
  box.addEventListener("scroll", () => { ink.scrollTop = box.scrollTop; });
  const tellFault = (found) => {
    box.classList.toggle("wrong", !found.ok);
    box.setAttribute("aria-invalid", String(!found.ok));
    wrong = null;
    fault.replaceChildren();
    if (found.ok) return paint();
    const start = found.column ? Math.min(found.column - 1, box.value.length) : 0;
    const length = found.word && box.value.slice(start, start + found.word.length) === found.word ? found.word.length : 1;
    wrong = { start, end: start + length };
    const said = found.message.replace(/^rule, /, "");
    const line = make("div", "faultword", said[0].toUpperCase() + said.slice(1) + (/[.?!]$/.test(said) ? "" : "."));
    line.setAttribute("role", "alert");
    if (found.suggestion) {
      const cure = make("button", "plain", `Write ${found.suggestion}`);
      cure.type = "button";
      cure.addEventListener("click", () => replace(start, start + length, found.suggestion));
      line.append(" ", cure);
    }
    fault.append(line);
    told.className = "count bad";
    told.textContent = said;
    return paint();
  };

  /* Counts while one types. */
  const figures = () => one("[data-live=figures]");
  const put = (name, text) => { const node = one(`[data-fig=${name}]`); if (node) node.textContent = text; };
  const tell = (found) => {
    told.className = "count";
    told.textContent = `${whole(found.taken)} of ${plural(found.candidates, "exposure")}`;
    const panel = figures();
    if (!panel) return;
    const out = found.candidates - found.taken, [inside, outside] = all("dd .fig", panel);
    inside.textContent = whole(found.taken);
    outside.textContent = whole(out);
    const largest = found.largest;
    put("exptime", span(found.exptime_s));
    put("groups", whole(found.n_groups));
    put("seeing", fixed(largest.seeing_arcsec, 2));
    put("depth", fixed(largest.limiting_mag, 2));
    put("age", span(found.age_s));
    put("notes", (found.unknown ? `${whole(found.unknown)} are out because a value is unknown. ` : "")
      + (found.unusable ? `${whole(found.unusable)} cannot be used at all. ` : "")
      + (found.n_groups > 1 ? "Seeing and depth are those of the largest stack. " : ""));
    one("svg.split rect", panel).setAttribute("width", (found.candidates ? 100 * found.taken / found.candidates : 0).toFixed(2));
    one("svg.split", panel).setAttribute("aria-label", `${found.taken} in, ${out} out`);
    best = found.best;
  };
  let best = [], waiting = 0, later = 0;
  const judge = async () => {
    const query = words();
    if (!query.get("rule")) { wrong = null; told.textContent = ""; fault.replaceChildren(); box.classList.remove("wrong"); paint(); return; }
    const found = await ask("preview", `/api/rules/preview?${query}`);
    if (!found) return;
    if (words().get("rule") !== query.get("rule")) return;
    tellFault(found);
    all("[data-live]").forEach((n) => n.classList.toggle("stale", !found.ok));
    if (!found.ok) return;
    tell(found.found);
    all("[data-rule-copy]").forEach((n) => { n.value = query.get("rule"); });
    clearTimeout(later);
    later = setTimeout(() => { spread(query); refresh(query); }, 120);
  };
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(judge, 120); };

  /* The lists and the address follow a moment later; what is typed meanwhile stays. */
  const refresh = async (query) => {
    const saved = form.elements.saved;
    if (saved) query.set("saved", saved.value);
    const text = await ask("page", `/rules?${query}`, "text");
    if (text === null) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    history.replaceState(null, "", `/rules?${query}`);
    if (!figures()) { location.reload(); return; }
    for (const part of all("[data-live]")) {
      const fresh = one(`[data-live=${part.dataset.live}]`, page);
      if (fresh) part.replaceWith(document.importNode(fresh, true));
    }
  };

  /* Distributions with the cuts drawn. */
  const spread = async (query) => {
    const panel = one("[data-spreads]");
    if (!panel) return;
    const found = await ask("spreads", `/api/rules/spreads?${query}`);
    if (!found || !found.ok) return;
    one(".spreads", panel).replaceChildren(...found.fields.map(bars));
    panel.hidden = found.fields.length === 0;
    sky(found.coverage);
  };
  const bars = (f) => {
    const n = f.candidates.length, top = Math.max(1, ...f.candidates), width = 200 / n;
    const height = (c) => c ? Math.max(1.5, 58 * Math.sqrt(c / top)) : 0;
    const path = (counts) => counts.map((c, i) => c ? `M${(i * width).toFixed(2)} 60v${-height(c).toFixed(2)}h${(width * 0.86).toFixed(2)}v${height(c).toFixed(2)}z` : "").join("");
    const at = (v) => 200 * (v - f.low) / (f.high - f.low);
    const inside = f.cuts.filter((c) => c.value >= f.low && c.value <= f.high);
    const svg = draw("svg", { viewBox: "0 0 200 64", preserveAspectRatio: "none", role: "img",
      "aria-label": `${f.field}: median ${fixed(f.median_taken, 3)} of what is in, ${fixed(f.median, 3)} of all` },
    draw("path", { class: "all", d: path(f.candidates) }), draw("path", { class: "in", d: path(f.taken) }),
    draw("path", { class: "axis", d: "M0 60.5H200" }),
    ...inside.map((c) => draw("path", { class: "cut", d: `M${at(c.value).toFixed(2)} 0V64` })));
    const scale = make("div", "scale", make("span", "", short(f.low)),
      ...(f.cuts.length ? [make("b", "", f.cuts.slice(0, 3).map((c) => `${c.operator} ${short(c.value)}`).join("  "))] : []),
      make("span", "", short(f.high)));
    const head = make("h3", "", f.field, make("span", "dim", `median in ${f.median_taken === null ? "–" : short(f.median_taken)}${f.unit ? ` ${f.unit}` : ""}`));
    head.title = f.text;
    const block = make("div", "spread", head, svg, scale);
    if (f.field === "seeing" && best.length) {
      const shares = make("div", "shares", "keep the best");
      for (const share of best) {
        const button = make("button", "", `${share.percent} %`);
        button.type = "button";
        button.title = `and seeing <= ${share.seeing_arcsec.toFixed(4)}`;
        button.addEventListener("click", () => tighten(share.seeing_arcsec));
        shares.append(button);
      }
      block.append(shares);
    }
    return block;
  };
  const tighten = (seeing) => {
    const text = box.value.trim(), bare = /\bor\b/i.test(text) ? `(${text})` : text;
    replace(0, box.value.length, `${bare} and seeing <= ${(Math.ceil(seeing * 1e4) / 1e4).toString()}`);
  };

  /* The sky: cells of what is in, and of what is out alone. */
  const sky = (c) => {
    const panel = one("[data-coverage]");
    panel.hidden = !c;
    if (!c) return;
    const most = Math.max(1, ...c.cells.map((cell) => cell.n_in));
    const svg = draw("svg", { viewBox: `0 0 ${c.width} ${c.height}`, role: "img", "aria-label": `${c.cells.filter((x) => x.n_in).length} cells of the sky hold exposures that are in` },
      draw("path", { class: "grid", d: c.grid }));
    for (const cell of c.cells) {
      const step = cell.n_in ? `q${Math.min(4, Math.floor(4.999 * Math.sqrt(cell.n_in / most)))}` : "none";
      svg.append(draw("path", { class: `cell ${step}`, d: cell.path }, draw("title", {},
        `${plural(cell.n_in, "exposure")} in (${span(cell.exptime_s)}), ${whole(cell.n_out)} out, at ${cell.ra_deg.toFixed(3)} ${cell.dec_deg.toFixed(3)}`)));
    }
    for (const label of c.labels) svg.append(draw("text", { x: label.x, y: label.y, ...(label.x > 10 ? { class: "mid" } : {}) }, label.text));
    one(".skymap", panel).replaceChildren(svg);
    const size = c.size_deg < 1 ? `${short(c.size_deg * 60)}′` : `${short(c.size_deg)}°`;
    one("[data-coverage-note]", panel).textContent = `cells of ${size}: blue in, up to ${plural(most, "exposure")}; red out only`
      + (c.unplaced ? `; ${whole(c.unplaced)} without a place` : "");
  };

  /* Words that fit: a combobox with a list, as WAI-ARIA has it. */
  let offered = { start: 0, end: 0, suggestions: [] }, active = -1;
  const set = (name, value) => box.setAttribute(name, value);
  set("role", "combobox"); set("aria-autocomplete", "list"); set("aria-haspopup", "listbox"); set("aria-controls", "words"); set("aria-expanded", "false");
  const close = () => {
    if (asked.words) asked.words.abort();
    popup.hidden = true; active = -1; set("aria-expanded", "false"); box.removeAttribute("aria-activedescendant");
  };
  const choose = (index) => {
    active = index;
    const rows = all("[role=option]", popup);
    rows.forEach((row, i) => row.setAttribute("aria-selected", String(i === index)));
    if (index < 0) { box.removeAttribute("aria-activedescendant"); return; }
    set("aria-activedescendant", rows[index].id);
    rows[index].scrollIntoView({ block: "nearest" });
  };
  const replace = (start, end, text) => {
    box.focus();
    box.setSelectionRange(start, end);
    if (!document.execCommand("insertText", false, text)) {  // keeps what Ctrl+Z takes back
      box.setRangeText(text, start, end, "end");
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };
  const accept = (index) => {
    const word = offered.suggestions[index];
    if (!word) return;
    const { start, end } = offered, next = box.value.slice(end, end + 1);
    close();
    replace(start, end, word.text + (/\($/.test(word.text) || next === " " || next === ")" ? "" : " "));
    if (word.kind !== "value") setTimeout(() => offer(true), 0);
  };
  const place = () => {
    const mark = make("span");
    ink.replaceChildren(box.value.slice(0, offered.start), mark, box.value.slice(offered.start) || "\u00a0");
    const left = Math.min(mark.offsetLeft, Math.max(0, editor.clientWidth - 388));
    popup.style.left = `${Math.max(0, left)}px`;
    popup.style.top = `${Math.min(mark.offsetTop - box.scrollTop + 24, box.offsetHeight + 2)}px`;
    paint();
  };
  const offer = async (always) => {
    const at = box.selectionStart, text = box.value;
    const found = await ask("words", `/api/rules/complete?${new URLSearchParams({ rule: text, at })}`);
    if (!found) return;
    if (box.value !== text || box.selectionStart !== at || document.activeElement !== box) return;
    const typed = text.slice(found.start, at);
    const only = found.suggestions.length === 1 && found.suggestions[0].text === typed;
    if (!always && (!typed || only || !found.suggestions.length)) { close(); return; }
    offered = found;
    const rows = found.suggestions.map((word, i) => {
      const row = make("li", word.kind, make("code", "", word.text), make("span", "", word.meaning));
      row.id = `word${i}`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", "false");
      row.title = word.meaning;
      row.addEventListener("mousedown", (e) => { e.preventDefault(); accept(i); });
      return row;
    });
    const hint = make("li", "hint", found.hint);
    hint.setAttribute("role", "presentation");
    popup.replaceChildren(...rows, hint);
    place();
    popup.hidden = false;
    set("aria-expanded", "true");
    choose(-1);
    popup.scrollTop = 0;
  };
  editor.addEventListener("keydown", (e) => {
    if (e.target !== box || e.isComposing) return;
    const rows = offered.suggestions.length, open = !popup.hidden;
    const stop = () => { e.preventDefault(); e.stopImmediatePropagation(); };
    if (e.ctrlKey && (e.key === " " || e.code === "Space")) { stop(); offer(true); return; }
    if (!open || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "ArrowDown" && rows) { stop(); choose((active + 1) % rows); }
    else if (e.key === "ArrowUp" && rows) { stop(); choose((active + rows - (active < 0 ? 0 : 1)) % rows); }
    else if (e.key === "Enter" && active >= 0) { stop(); accept(active); }
    else if (e.key === "Tab" && !e.shiftKey && rows) { stop(); accept(Math.max(0, active)); }
    else if (e.key === "Escape") { stop(); close(); }
    else if (e.key === "ArrowLeft" || e.key === "ArrowRight" || e.key === "Home" || e.key === "End") close();
  }, true);
  box.addEventListener("blur", close);
  box.addEventListener("click", close);
  box.addEventListener("input", () => {
    wrong = null;
    paint();
    soon();
    const before = box.value.slice(0, box.selectionStart);
    if (/[\w"'(]$/.test(before)) offer(false); else close();
  });

  /* The circle belongs to one mode; the choices of the editor go with the plan. */
  const mode = one("[data-mode]");
  const areas = () => all("[data-area]").forEach((n) => { n.hidden = mode.value !== "area"; });
  if (mode) { mode.addEventListener("change", areas); areas(); }
  const plan = one("form.launch");
  if (plan) plan.addEventListener("submit", () => all("[data-copy]", plan).forEach((n) => { n.value = form.elements[n.dataset.copy].value; }));

  paint();
  if (box.value.trim()) {
    const query = words();
    ask("preview", `/api/rules/preview?${query}`).then((found) => {
      if (!found) return;
      tellFault(found);
      if (found.ok) { best = found.found.best; spread(query); }
    });
  }
})();
