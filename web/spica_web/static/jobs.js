"use strict";
/* Lists of jobs: marks, and rows that follow what happens. An event names a job; only rows that are shown and have changed
   are fetched, all of a moment in one request; counts come along. Slow parts follow at their own pace. */
(() => {
  const one = (words, root = document) => root.querySelector(words);
  const all = (words, root = document) => [...root.querySelectorAll(words)];
  const ROWS_MS = 1000;
  const COUNTS_MS = 5000;
  const SLOW_MS = 4000;
  const GRAPH_MS = 1500;
  const MAX_IDS = 200;

  /* A date acts at once, as the choices beside it do. */
  all("input[data-go]").forEach((box) => box.addEventListener("change", () => {
    if (box.value === "" || box.validity.valid) box.form.requestSubmit();
  }));

  /* Marks: all, a range with shift, and how many. */
  const body = one("[data-job-rows]");
  const table = body && body.closest("table");
  const boxes = () => all(".pick input[name=job]", body);
  const bulk = one("[data-bulk]");
  const whole = table && one("[data-mark-all]", table);
  let lastBox = null;
  const count = () => {
    const marked = boxes().filter((b) => b.checked).length;
    one("[data-marked]", bulk).textContent = marked ? `${marked} marked` : "";
    all("button", bulk).forEach((b) => { b.disabled = marked === 0; });
    whole.checked = marked > 0 && marked === boxes().length;
    whole.indeterminate = marked > 0 && !whole.checked;
  };
  if (bulk && body) {
    whole.hidden = false;
    whole.addEventListener("change", () => { boxes().forEach((b) => { b.checked = whole.checked; }); count(); });
    body.addEventListener("click", (e) => {
      if (!e.target.matches(".pick input")) return;
      const list = boxes();
      const from = list.indexOf(lastBox);
      const to = list.indexOf(e.target);
      if (e.shiftKey && from >= 0) list.slice(Math.min(from, to), Math.max(from, to) + 1).forEach((b) => { b.checked = e.target.checked; });
      lastBox = e.target;
      count();
    });
    addEventListener("pageshow", count);
    count();
  }

  /* The word of what was just ordered leaves the address, so that a reload does not say it again. */
  const here = new URL(location.href);
  const said = ["ordered", "refused", "more", "moved"];
  if (said.some((w) => here.searchParams.has(w))) {
    said.forEach((w) => here.searchParams.delete(w));
    history.replaceState(null, "", here);
  }

  const spaced = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u2009");
  const tell = (header) => {
    if (!header) return;
    const counts = JSON.parse(header);
    const total = Object.values(counts).reduce((a, b) => a + b, 0);
    all("[data-count]").forEach((n) => {
      const now = spaced(n.dataset.count === "all" ? total : counts[n.dataset.count] || 0);
      if (n.textContent !== now) n.textContent = now;
    });
  };

  const changed = new Set();
  const shown = new Set();
  let newest = 0;
  let arrived = 0;
  const look = () => {
    shown.clear();
    if (body) all("tr[data-job]", body).forEach((r) => { shown.add(Number(r.dataset.job)); });
    newest = Math.max(newest, ...shown);
  };

  const announce = () => {
    if (!body || !("first" in body.dataset) || !arrived) return;
    let note = one(".fresh-note");
    if (!note) {
      note = document.createElement("div");
      note.className = "foot fresh-note";
      note.append(Object.assign(document.createElement("a"), { href: location.href }));
      table.before(note);
    }
    note.firstChild.textContent = `${arrived} new ${arrived === 1 ? "job" : "jobs"}: show`;
  };

  const swap = (fresh) => {
    const old = one(`tr[data-job="${fresh.dataset.job}"]`, body);
    if (!old || old.contains(document.activeElement)) return;
    const now = document.importNode(fresh, true);
    const box = one(".pick input", now);
    const was = one(".pick input", old);
    if (box && was) box.checked = was.checked;
    if (old.classList.contains("at")) now.classList.add("at");
    if (old.dataset.state !== now.dataset.state) now.classList.add("changed");
    old.replaceWith(now);
  };

  let waiting = 0;
  let due = 0;
  const fetchRows = async () => {
    waiting = 0;
    if (document.hidden) return;
    const ids = [...changed].slice(0, MAX_IDS);
    ids.forEach((i) => changed.delete(i));
    announce();
    const reply = await fetch(`/jobs/rows?ids=${ids.join(",")}&plan=${body.dataset.jobRows}`.replace(/&plan=$/, "")).catch(() => null);
    if (reply && reply.ok && !reply.redirected) {
      tell(reply.headers.get("X-Job-Counts"));
      all("tr[data-job]", new DOMParser().parseFromString(await reply.text(), "text/html")).forEach(swap);
      if (bulk) count();
    }
    if (changed.size) soon();
  };
  const soon = () => {
    if (!body || (waiting && (due === ROWS_MS || !changed.size))) return;
    clearTimeout(waiting);
    due = changed.size ? ROWS_MS : COUNTS_MS;
    waiting = setTimeout(fetchRows, due);
  };

  /* Parts that need the whole page again: seldom. */
  let slow = 0;
  const fetchSlow = async () => {
    slow = 0;
    if (document.hidden) return;
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!reply || !reply.ok || reply.redirected) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    all("[data-slow]").forEach((old) => {
      const now = one(`[data-slow="${old.dataset.slow}"]`, page);
      if (now && now.outerHTML !== old.outerHTML && !window.SpicaParts.busy(old)) window.SpicaParts.swap(old, now);
    });
  };
  const graph = one("[data-job-graph]");
  let drawing = 0;
  const fetchGraph = async () => {
    drawing = 0;
    if (document.hidden) return;
    const reply = await fetch(graph.dataset.jobGraph).catch(() => null);
    if (!reply || !reply.ok || reply.redirected) return;
    const drawn = one("svg", new DOMParser().parseFromString(await reply.text(), "text/html"));
    if (drawn && !graph.contains(document.activeElement)) graph.replaceChildren(document.importNode(drawn, true));
  };

  if (!(body || one("[data-slow]")) || !window.EventSource || "guest" in document.body.dataset) return;
  look();
  const hear = (noun, id) => {
    if (noun === "job" && body) {
      if (shown.has(id)) {
        changed.add(id);
        if (graph && !drawing) drawing = setTimeout(fetchGraph, GRAPH_MS);
      } else if (id > newest) {
        newest = id;
        arrived += 1;
      }
      soon();
    }
    if ((noun === "job" || noun === "node" || noun === "plan") && one("[data-slow]") && !slow) slow = setTimeout(fetchSlow, SLOW_MS);
  };
  const all_again = () => { shown.forEach((i) => changed.add(i)); hear("plan", 0); soon(); if (graph && !drawing) drawing = setTimeout(fetchGraph, GRAPH_MS); };
  const source = new EventSource("/events");
  let heard = false;
  source.addEventListener("change", (e) => {
    if (e.data === "resync") { if (heard) all_again(); heard = true; return; }
    const [noun, id] = e.data.split(":");
    hear(noun, Number(id));
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && heard) all_again(); });
  addEventListener("pagehide", () => source.close());
})();
