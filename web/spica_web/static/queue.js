"use strict";
/* The grading room. A grade shows at once and is saved behind the picture; the next pictures are decoded before. */
(() => {
  const paint = window.QueuePaint;
  const one = (words, root = document) => root.querySelector(words);
  const all = (words, root = document) => [...root.querySelectorAll(words)];
  const typing = (n) => n && (/^(TEXTAREA|SELECT)$/.test(n.tagName) || (n.tagName === "INPUT" && n.type !== "button"));
  const keys = one("#queue-keys");
  all('[data-act="keys"]').forEach((b) => b.addEventListener("click", () => keys.showModal()));
  const room = one("[data-room]");
  if (!room) return;

  const LOW = 8;
  const BATCH = 12;
  const AHEAD = 5;
  const BEAT_MS = 60000;
  const CALM_MS = 2000;
  const LONGEST_S = 600;
  const FILM = [10, 26];
  const part = Object.fromEntries(["stage", "ending", "film", "told", "facts", "verdict", "measures", "plots", "history", "message", "comment", "last"]
    .map((name) => [name, one(`[data-${name}]`, room)]));
  const queue = JSON.parse(room.dataset.queue);
  const viewer = new window.SpicaViewer(part.stage, { keys: false });

  const items = [];
  const byId = new Map();
  const done = [];
  const spreads = {};
  const limits = {};
  const nodes = new Map();
  let at = -1;
  let first = Number(room.dataset.first) || null;
  let more = true;
  let asking = null;
  let retry = 0;
  let progress = null;
  let delta = 0;
  let acted = -Infinity;
  let over = false;

  /* Time before a picture: only while the page is seen and in front. */
  const watch = { since: 0, go() { this.since = document.visibilityState === "visible" && !this.away ? performance.now() : 0; }, stop(item) {
    if (item && this.since) item.seen = Math.min(LONGEST_S, (item.seen || 0) + (performance.now() - this.since) / 1000);
    this.since = 0;
  } };
  const current = () => (over ? null : items[at] || null);
  document.addEventListener("visibilitychange", () => {
    watch.stop(current());
    watch.go();
    if (!document.hidden) ask(0);
  });
  addEventListener("blur", () => { watch.stop(current()); watch.away = true; });
  addEventListener("focus", () => { watch.stop(current()); watch.away = false; watch.go(); });

  /* Acts that are on their way. */
  const outbox = new window.GradeOutbox(room.dataset.person, {
    changed: () => paintUnsaved(),
    sent(act, reply) {
      acted = performance.now();
      const item = byId.get(act.image);
      const given = done.find((d) => d.key === act.key);
      if (given) given.gradeId = reply.grade_id;
      if (!item) return;
      const wasBlind = item.blind;
      Object.assign(item, reply.item);
      if (wasBlind && act.kind === "grade") reveal(item);
      if (item === current()) paintSide(item);
    },
    refused(act, message) {
      const item = byId.get(act.image);
      tell(`${act.name}: ${message}`);
      if (!item || act.kind !== "grade") return;
      const i = done.findIndex((d) => d.key === act.key);
      if (i >= 0) { item.given = done[i].before; done.splice(i, 1); delta -= 1; }
      show(items.indexOf(item), true);
    },
  });

  const tell = (words) => { part.message.textContent = words; part.message.hidden = !words; };
  const paintUnsaved = () => {
    const box = one("[data-unsaved]");
    const n = outbox.size;
    room.dataset.pending = n;
    box.classList.toggle("bad", Boolean(outbox.trouble) && n > 0);
    if (!n || (n < 3 && !outbox.trouble)) { box.replaceChildren(); return; }
    box.textContent = n === 1 ? "1 grade not saved yet" : `${n} grades not saved yet`;
    if (outbox.trouble === "login") {
      box.append(" ", paint.node("a", { href: `/login?next=${encodeURIComponent(location.pathname + location.search)}`, text: "log in again" }));
    }
  };
  const reveal = (item) => {
    const others = item.history.filter((g) => !g.mine && !g.withdrawn && g.source === "human").map((g) => `${g.person || "command line"} ${g.grade}`);
    const said = [...others, item.machine && `machine ${item.machine.grade}`].filter(Boolean).join(", ");
    part.last.textContent = `${item.name}: you ${item.given || "–"}, ${said}`;
  };

  /* What comes next. */
  const open = (from) => {
    const after = items.findIndex((i, n) => n > from && !i.given);
    return after >= 0 ? after : items.findIndex((i) => !i.given);
  };
  const ahead = () => items.reduce((n, i, k) => n + (k > at && !i.given && !i.skipped ? 1 : 0), 0);
  const ask = (n) => {
    if (asking) return asking;
    asking = fetchNext(n).finally(() => { asking = null; });
    return asking;
  };
  const fetchNext = async (n) => {
    const pending = new Set(outbox.acts.map((a) => a.image));
    const hold = items.filter((i) => !i.given || pending.has(i.id)).map((i) => i.id).slice(-200);
    const body = { queue, n, have: items.map((i) => i.id).slice(-4000), hold, first, spreads: Object.keys(spreads) };
    const calm = !outbox.size && performance.now() - acted > CALM_MS;
    const before = acted;
    let reply = null;
    let said = null;
    try {
      reply = await fetch("/api/queue/next", {
        method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(body), signal: AbortSignal.timeout(20000),
      });
      said = await reply.json();
    } catch { said = null; }
    if (!said || !reply.ok) {
      if (said && said.error && reply.status < 500) tell(said.error.message);
      clearTimeout(retry);
      if (!reply || reply.status >= 500) retry = setTimeout(() => fill(), 3000);
      return;
    }
    if (first && said.refused) tell(said.refused);
    first = null;
    Object.assign(spreads, said.spreads);
    Object.assign(limits, said.limits);
    /* Counts that may or may not hold an act which was just saved are not believed: the own sum goes on. */
    if (!progress || (calm && !outbox.size && acted === before)) {
      progress = said.progress;
      delta = outbox.acts.reduce((d, a) => d + (a.kind === "grade" ? 1 : -1), 0);
    }
    if (n) more = said.items.length >= n;
    dropLost(hold, new Set(said.held), pending);
    const tail = items.findIndex((i, k) => k > at && i.skipped);
    const fresh = said.items.filter((i) => !byId.has(i.id));
    fresh.forEach((i) => byId.set(i.id, i));
    items.splice(tail < 0 ? items.length : tail, 0, ...fresh);
    paintTallies();
    const here = current();
    if (here && fresh.length) { paintFilm(); prefetch(); paintSide(here); }
  };
  const dropLost = (hold, held, pending) => {
    const here = current();
    hold.filter((id) => !held.has(id) && !pending.has(id)).forEach((id) => {
      const item = byId.get(id);
      if (item.given) return;
      if (item === here) { tell(`${item.name} is with somebody else by now, or graded; your grade would be one more`); return; }
      items.splice(items.indexOf(item), 1);
      byId.delete(id);
    });
    if (here) at = items.indexOf(here);
  };
  const fill = async () => {
    if (more && ahead() < LOW) await ask(BATCH);
    if (!current()) { const next = open(-1); if (next >= 0) show(next); else if (!more) end(); }
  };
  const prefetch = () => {
    const next = items.filter((i, n) => n > at && !i.given).slice(0, AHEAD);
    next.forEach((i) => viewer.prefetch(i.id, picture(i)));
    const here = current();
    if (here && here.previous) viewer.prefetch(here.previous.id, picture(here.previous));
  };
  const picture = (item) => paint.address(item.mosaic || item.preview);

  /* Show one image; `since` is when the key went down, for the figure of the time to the next picture. */
  const show = (index, keepMessage = false, since = 0) => {
    const item = items[index];
    if (!item) return;
    const before = current();
    watch.stop(before);
    if (before && before !== item) before.draft = part.comment.value;
    if (over) { over = false; part.ending.hidden = true; part.stage.hidden = false; part.told.hidden = false; }
    at = index;
    if (!keepMessage) tell("");
    part.comment.value = item.draft || "";
    part.stage.dataset.blink = item.previous ? item.previous.id : "";
    room.classList.remove("waiting");
    const painted = () => requestAnimationFrame(() => setTimeout(() => {
      if (since) performance.measure("spica-next-image", { start: since, end: performance.now(), detail: { image: item.id } });
    }));
    viewer.show(item.id, { mosaicUrl: picture(item) }).then(painted, () => null);
    paintSide(item);
    paintFilm();
    paintTallies();
    watch.go();
    history.replaceState(null, "", addressOf(item));
    setTimeout(() => { prefetch(); fill(); });
  };
  const addressOf = (item) => {
    const here = new URL(location.href);
    if (item) here.searchParams.set("image", item.id); else here.searchParams.delete("image");
    return here;
  };

  /* The acts. */
  const grade = (letter, since) => {
    const item = current();
    if (!item) return;
    watch.stop(item);
    const comment = part.comment.value.trim() || null;
    const seconds = Math.round((item.seen || 0) * 10) / 10;
    const body = { image_id: item.id, grade: letter, comment, seconds, blind: item.blind, known: item.known, kind: queue.kind };
    const key = outbox.add({ kind: "grade", image: item.id, name: item.name, body });
    done.push({ item, key, letter, comment, seconds, before: item.given || null });
    item.given = letter;
    item.draft = "";
    item.seen = 0;
    part.comment.value = "";
    delta += 1;
    part.last.textContent = `${item.name} ${letter}`;
    onward(since);
  };
  const onward = (since) => {
    const next = open(at);
    if (next >= 0) { show(next, false, since); return; }
    if (more || asking) {
      room.classList.add("waiting");
      part.last.textContent = "the next images are on their way";
      at = items.length;
      ask(BATCH).then(() => { const found = open(-1); if (found >= 0) show(found, false, since); else if (!more) end(); });
      return;
    }
    end();
  };
  const undo = (which = done[done.length - 1]) => {
    if (!which) { part.last.textContent = "nothing to take back in this session"; return; }
    done.splice(done.indexOf(which), 1);
    const { item } = which;
    item.given = which.before;
    delta -= 1;
    if (!outbox.cancel(which.key)) {
      outbox.add({ kind: "undo", image: item.id, name: item.name, of: which.key, body: { grade_id: which.gradeId || 0 } });
    }
    item.draft = which.comment || "";
    const here = current();
    if (here === item) part.comment.value = item.draft;
    show(items.indexOf(item));
    part.last.textContent = `${item.name}: ${which.letter} taken back`;
  };
  const move = (step, since) => {
    if (over) { if (step < 0 && items.length) show(items.length - 1, false, since); return; }
    const to = at + step;
    if (to >= 0 && to < items.length) show(to, false, since);
    else if (step > 0) onward(since);
  };
  const skip = (since) => {
    const item = current();
    if (!item || item.given) { move(1, since); return; }
    item.skipped = true;
    item.draft = part.comment.value;
    watch.stop(item);
    items.push(...items.splice(at, 1));
    at -= 1;
    const next = items.findIndex((i, n) => n > at && !i.given);
    part.last.textContent = `${item.name} comes again at the end`;
    at = Math.max(at, 0);
    show(next, false, since);
  };
  const blink = () => {
    const item = current();
    if (item && item.previous) viewer.blink(viewer.blinking ? null : item.previous.id);
  };
  let whole = true;
  const zoom = () => { whole = !whole; viewer.zoomTo(whole ? "fit" : "full"); };
  const classic = (words) => {
    const now = part.comment.value.split("; ").map((w) => w.trim()).filter(Boolean);
    part.comment.value = (now.includes(words) ? now.filter((w) => w !== words) : [...now, words]).join("; ");
  };
  const acts = {
    previous: (t) => move(-1, t), next: (t) => move(1, t), skip, undo: () => undo(), blink,
    stretch: () => viewer.nextStretch(), masks: () => viewer.toggle("masks"), sources: () => viewer.toggle("sources"),
    marks: () => viewer.toggle("marks"), full: zoom, keys: () => keys.showModal(),
  };

  /* What is drawn. */
  const paintSide = (item) => {
    paint.facts(part.facts, item);
    paint.verdict(part.verdict, item);
    paint.measures(part.measures, item, spreads[item.filter] || {}, (!item.blind && limits[`${item.instrument} ${item.filter}`]) || {});
    paint.plots(part.plots, item);
    paint.history(part.history, item);
    all("[data-grade]").forEach((b) => {
      const letter = item.given || (item.own && item.own.grade);
      b.classList.toggle("now", letter === b.dataset.grade);
    });
  };
  const frame = (item) => {
    let made = nodes.get(item.id);
    if (!made) {
      made = paint.node("li", {}, paint.node("button", { type: "button", "data-go": item.id, title: item.name },
        item.preview || item.mosaic ? paint.node("img", { src: paint.address(item.preview || item.mosaic), alt: "", decoding: "async" }) : paint.node("span", { class: "dim", text: "–" }),
        paint.node("b", {})));
      nodes.set(item.id, made);
    }
    const letter = item.given || (item.own ? item.own.grade : "");
    made.className = letter ? `given ${letter}` : item.skipped ? "later" : "";
    one("b", made).textContent = letter;
    one("button", made).setAttribute("aria-label", `${item.name}${letter ? `, graded ${letter}` : ""}`);
    return made;
  };
  const paintFilm = () => {
    const from = Math.max(0, at - FILM[0]);
    const shown = items.slice(from, from + FILM[0] + FILM[1]);
    if (nodes.size > 300) nodes.clear();
    part.film.replaceChildren(...shown.map(frame));
    all("[aria-current]", part.film).forEach((n) => n.removeAttribute("aria-current"));
    const here = items[at] && nodes.get(items[at].id);
    if (here) {
      one("button", here).setAttribute("aria-current", "true");
      part.film.scrollLeft = here.offsetLeft - part.film.clientWidth * 0.3;
    }
  };
  const paintTallies = () => {
    room.dataset.given = done.length;
    if (!progress) return;
    const n = Math.max(0, Math.min(progress.total, progress.done + delta));
    one("[data-done]").replaceChildren(paint.node("b", { text: String(n) }), ` of ${progress.total}`);
    const bar = one("[data-progress]");
    bar.max = Math.max(1, progress.total);
    bar.value = n;
    const mean = done.length ? done.reduce((s, d) => s + d.seconds, 0) / done.length : progress.mean_seconds;
    one("[data-pace]").textContent = paint.known(mean) ? `${mean.toFixed(1)} s/image` : "";
    const differ = one("[data-differ]");
    const words = { ...queue, kind: "disagree" };
    differ.textContent = `${progress.disagree} disagree`;
    differ.href = `/grade?${new URLSearchParams(Object.entries(words).filter(([, v]) => v))}`;
  };

  /* The end of the queue, and a queue without images. */
  const end = () => {
    watch.stop(current());
    over = true;
    at = items.length;
    paintFilm();
    paintTallies();
    part.stage.hidden = true;
    part.told.hidden = true;
    part.ending.hidden = false;
    part.ending.replaceChildren(...(done.length ? summary() : emptiness()));
    history.replaceState(null, "", addressOf(null));
  };
  const again = () => paint.node("button", { type: "button", "data-again": true, text: "Look again" });
  const waits = () => (progress && progress.unready
    ? paint.node("p", {}, paint.node("a", { href: "/exposures?state=registered", text: String(progress.unready) }),
      progress.unready === 1 ? " exposure waits for its quality." : " exposures wait for their quality.") : "");
  const ways = () => {
    const narrowed = queue.rule || queue.object || queue.filter || queue.night;
    const of = (words) => `/grade?${new URLSearchParams(Object.entries(words).filter(([, v]) => v))}`;
    return paint.node("p", { class: "ways" },
      narrowed && paint.node("a", { class: "button", href: of({ kind: queue.kind, order: queue.order }), text: "Same queue, whole survey" }),
      queue.kind !== "second" && paint.node("a", { class: "button", href: of({ ...queue, kind: "second" }), text: "Second opinions" }),
      queue.kind !== "disagree" && paint.node("a", { class: "button", href: of({ ...queue, kind: "disagree" }), text: "Grades that differ" }),
      paint.node("a", { class: "button", href: "/exposures", text: "List of exposures" }), again());
  };
  const emptiness = () => {
    const said = { ungraded: "No ungraded exposures match.", second: "No exposure waits for your second opinion.", disagree: "No grades differ that you have not settled.", all: "No exposures match." };
    return [paint.node("h2", { text: said[queue.kind] }),
      waits(), paint.node("p", { class: "dim", text: "Images that another grader has before the eyes come back here when they are let go." }), ways()];
  };
  const summary = () => {
    const counts = [..."ABCD"].map((l) => done.filter((d) => d.letter === l).length);
    const mean = done.reduce((s, d) => s + d.seconds, 0) / done.length;
    const rows = done.slice(-100).reverse().map((d) => paint.node("li", {},
      paint.letter(d.letter, "human"), paint.node("a", { href: `/images/${d.item.id}`, text: d.item.name }),
      paint.node("span", { class: "dim", text: [`${d.seconds.toFixed(1)} s`, d.comment].filter(Boolean).join(" · ") }),
      paint.node("button", { type: "button", "data-back": d.key, text: "Take back" })));
    return [paint.node("h2", { text: "The end of this queue" }),
      paint.node("div", { class: "sum" }, paint.pie(counts), paint.node("dl", {},
        ...[...[..."ABCD"].map((l, i) => [paint.letter(l, "human"), String(counts[i])]), ["graded", String(done.length)], ["mean time", `${mean.toFixed(1)} s`]]
          .map(([k, v]) => paint.node("div", {}, paint.node("dt", {}, k), paint.node("dd", { text: v }))))),
      waits(), ways(), paint.node("ol", { class: "backs" }, ...rows)];
  };

  /* Keys and mouse. */
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (typing(e.target)) {
      if (e.key === "Escape" || (e.key === "Enter" && e.target === part.comment)) { e.preventDefault(); e.target.blur(); part.stage.focus({ preventScroll: true }); }
      return;
    }
    const since = performance.now();
    const key = e.key.length === 1 ? e.key.toLowerCase() : e.key;
    const pressed = e.target.closest && e.target.closest("button, a, summary");
    if (pressed && (key === "Enter" || key === " ") && pressed.matches(":focus-visible")) return;
    const held = { j: "next", ArrowRight: "next", ArrowDown: "next", k: "previous", ArrowLeft: "previous", ArrowUp: "previous" };
    const single = { n: "skip", z: "undo", " ": "blink", s: "stretch", m: "masks", o: "sources", g: "marks", f: "full", "?": "keys" };
    let used = true;
    if (/^[abcd]$/.test(key)) { if (!e.repeat) grade(key.toUpperCase(), since); }
    else if (held[key]) acts[held[key]](since);
    else if (single[key]) { if (!e.repeat) acts[single[key]](since); }
    else if (key === "/") { part.comment.focus(); part.comment.select(); }
    else if (/^[1-9]$/.test(key)) classic(one("span", all("[data-classic]")[Number(key) - 1]).textContent);
    else if ("+=".includes(key)) viewer.zoomBy(1.5);
    else if (key === "-") viewer.zoomBy(1 / 1.5);
    else if (key === "0") { whole = true; viewer.zoomTo("fit"); }
    else used = false;
    if (used) e.preventDefault();
  });
  room.addEventListener("click", (e) => {
    const since = performance.now();
    const button = e.target.closest("button");
    if (!button || part.stage.contains(button)) return;
    const words = button.dataset;
    if (words.grade) grade(words.grade, since);
    else if (words.act) acts[words.act](since);
    else if (words.go) show(items.indexOf(byId.get(Number(words.go))), false, since);
    else if (words.back) undo(done.find((d) => d.key === words.back));
    else if ("again" in words) { more = true; fill(); }
    else if ("classic" in words) { classic(one("span", button).textContent); one("details.classic").open = false; part.comment.focus(); }
    else if (words.plot) enlarge(words.plot, button.title);
  });
  const enlarge = (address, name) => {
    one("[data-plot-name]").textContent = name;
    one("[data-plot-picture]").src = address;
    one("[data-plot-picture]").alt = name;
    one("#plot").showModal();
  };
  document.addEventListener("spica-keys", () => { one("#keys").close(); keys.showModal(); });

  /* Claims go on while the page is seen, and end with it. */
  setInterval(() => { if (!document.hidden) ask(0); }, BEAT_MS);
  addEventListener("pagehide", () => {
    const pending = new Set(outbox.acts.map((a) => a.image));
    const ids = items.filter((i) => !i.given && !pending.has(i.id)).map((i) => i.id).slice(-200);
    if (ids.length) fetch("/api/queue/release", { method: "POST", keepalive: true, headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ids }) }).catch(() => null);
  });
  addEventListener("pageshow", (e) => { if (e.persisted) ask(0); });

  outbox.run();
  paintUnsaved();
  fill();
})();
