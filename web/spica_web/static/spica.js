"use strict";
/* Keys, filters, live pages, logs. Everything here also works by mouse and without this script. */
(() => {
  const one = (words, root = document) => root.querySelector(words);
  const all = (words, root = document) => [...root.querySelectorAll(words)];
  const typing = (node) => node && (/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName) || node.isContentEditable);

  /* The clock, in UT. */
  const clock = one("[data-clock]");
  const tick = () => { clock.textContent = new Date().toISOString().slice(11, 16); };
  if (clock) { tick(); setInterval(tick, 5000); }

  /* The theme is a cookie, so that the next page comes in it at once. */
  const press = () => all("[data-theme-choice]").forEach((b) =>
    b.setAttribute("aria-pressed", String(b.dataset.themeChoice === document.documentElement.dataset.theme)));
  all("[data-theme-choice]").forEach((b) => b.addEventListener("click", () => {
    document.documentElement.dataset.theme = b.dataset.themeChoice;
    document.cookie = `spica-theme=${b.dataset.themeChoice}; path=/; max-age=31536000; samesite=strict`;
    press();
  }));
  press();

  /* Menus close when something else is clicked. */
  document.addEventListener("click", (e) => all("details.menu[open]").forEach((m) => {
    if (!m.contains(e.target)) m.open = false;
  }));

  /* Filters: choices act at once, empty words stay out of the address. */
  all("form[data-filters]").forEach((form) => {
    const go = () => { all("input, select, textarea", form).forEach((f) => { f.disabled = f.value === ""; }); };
    form.addEventListener("submit", go);
    all("select", form).forEach((s) => s.addEventListener("change", () => form.requestSubmit()));
  });
  addEventListener("pageshow", () => all("form[data-filters] :disabled").forEach((f) => { f.disabled = false; }));
  all("textarea[data-submit]").forEach((t) => t.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); t.form.requestSubmit(); }
  }));

  /* A rule is checked while it is written. */
  all("[data-check-rule]").forEach((box) => {
    const told = document.getElementById(box.dataset.checkRule);
    let waiting = 0;
    const check = async () => {
      const rule = box.value.trim();
      if (!rule) { told.textContent = ""; return; }
      const reply = await fetch(`/api/rules/check?rule=${encodeURIComponent(rule)}`).catch(() => null);
      if (!reply || !reply.ok || box.value.trim() !== rule) return;
      const found = await reply.json();
      box.classList.toggle("wrong", !found.ok);
      told.className = found.ok ? "count" : "count bad";
      told.textContent = found.ok ? `${found.taken} of ${found.total} exposures` : found.message.replace(/^rule, /, "");
    };
    box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(check, 250); });
  });

  /* Questions before acts that end something. */
  all("form[data-ask]").forEach((f) => f.addEventListener("submit", (e) => { if (!confirm(f.dataset.ask)) e.preventDefault(); }));

  /* Rows: J and K or the arrows move, Enter opens. */
  const rows = () => all("table[data-rows] tbody tr").filter((r) => one("a", r));
  let at = -1;
  const mark = (index) => {
    const list = rows();
    if (!list.length) return;
    list.forEach((r) => r.classList.remove("at"));
    at = Math.max(0, Math.min(list.length - 1, index));
    list[at].classList.add("at");
    list[at].scrollIntoView({ block: "nearest" });
  };
  const open = () => { const row = rows()[at]; if (row) one("a", row).click(); };
  const follow = (name) => { const link = one(`[data-key="${name}"]`); if (link) link.click(); return Boolean(link); };

  /* The keys of this very page: a line stands there when what it acts on does. */
  const dialog = one("#keys");
  const ACTED_ON = {
    grading: "[data-grading]", rows: "table[data-rows]", turn: '[data-key="next"], [data-key="previous"]', up: '[data-key="up"]', slash: "[data-slash]",
    picture: "[data-viewer]", marks: "[data-draw]", map: "[data-sky]:not([data-small])", editor: "[data-editor]", judge: "[data-submit]",
  };
  const tellKeys = () => {
    all("[data-for]", dialog).forEach((line) => { line.hidden = !one(ACTED_ON[line.dataset.for], one("#main")); });
    dialog.showModal();
  };
  const ownKeys = document.body.dataset.keys === "own";
  document.addEventListener("spica-keys", tellKeys);
  all("[data-open-keys]").forEach((b) => b.addEventListener("click", (e) => { e.preventDefault(); document.dispatchEvent(new Event("spica-keys")); }));

  if (!ownKeys) document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    if (e.key === "Escape" && typing(document.activeElement)) { document.activeElement.blur(); return; }
    if (typing(e.target) || (dialog && dialog.open)) return;
    const key = e.key.length === 1 ? e.key.toLowerCase() : e.key;
    const forward = key === "j" || key === "ArrowDown" || key === "ArrowRight";
    const back = key === "k" || key === "ArrowUp" || key === "ArrowLeft";
    let done = true;
    if (key === "?") tellKeys();
    else if (/^[abcd]$/.test(key) && one("[data-grading]")) done = follow(`grade-${key.toUpperCase()}`);
    else if (key === "z") done = follow("undo");
    else if (key === "/") { const box = one("[data-slash]"); if (box) { box.focus(); box.select(); } }
    else if (forward && one("table[data-rows]")) mark(at + 1);
    else if (back && one("table[data-rows]")) mark(at - 1);
    else if (forward && key !== "ArrowDown") done = follow("next");
    else if (back && key !== "ArrowUp") done = follow("previous");
    else if (key === "u") done = follow("up");
    else if (key === "Enter" && e.target === document.body) open();
    else done = false;
    if (done) e.preventDefault();
  });

  /* The word of what was just graded leaves the address, so that a reload does not say it again. */
  const here = new URL(location.href);
  if (here.searchParams.has("graded")) {
    here.searchParams.delete("graded");
    history.replaceState(null, "", here);
  }

  /* Live pages: an event names what changed; the page is fetched again at most every three seconds, and only the
     parts that bear its name are replaced. Where somebody writes, has written or draws, a part stays as it is; focus,
     scroll and what was unfolded are kept. */
  const written = (field) => (/^(checkbox|radio)$/.test(field.type) ? field.checked !== field.defaultChecked
    : field.tagName === "SELECT" ? !field.options[field.selectedIndex]?.defaultSelected && field.selectedIndex > 0
      : field.type !== "hidden" && field.value !== field.defaultValue);
  const busy = (part) => (part.contains(document.activeElement) && typing(document.activeElement))
    || all("input, select, textarea", part).some(written) || Boolean(one('[data-draw][aria-pressed="true"]', part));
  const REACHED = "a, button, summary, [tabindex]";
  const swap = (old, fresh) => {
    const now = document.importNode(fresh, true);
    const rolled = all("*", old).filter((n) => n.scrollTop || n.scrollLeft).map((n) => [n.className, n.scrollTop, n.scrollLeft]);
    const unfolded = all("details", old).map((n) => n.open);
    const focus = old.contains(document.activeElement) ? all(REACHED, old).indexOf(document.activeElement) : -1;
    old.replaceWith(now);
    all("details", now).forEach((n, i) => { if (i in unfolded) n.open = unfolded[i]; });
    rolled.forEach(([name, top, left]) => {
      const found = all("*", now).find((n) => n.className === name && n.scrollHeight > n.clientHeight - 1);
      if (found) { found.scrollTop = top; found.scrollLeft = left; }
    });
    const again = all(REACHED, now)[focus];
    if (again) again.focus({ preventScroll: true });
  };
  window.SpicaParts = { busy, swap };
  const parts = () => all("[data-live]").filter((n) => !n.parentElement.closest("[data-live]"));
  const speaks = (word) => {
    const [noun] = word.split(":");
    return all("[data-live]").some((n) => n.dataset.live.split(" ").some((w) => w === word || w === `${noun}s`));
  };
  let last = 0;
  let planned = 0;
  const refresh = async () => {
    planned = 0;
    if (document.hidden) { planned = -1; return; }
    last = Date.now();
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!reply || !reply.ok || reply.redirected) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = new Map(all("[data-live]", page).map((n) => [n.dataset.live, n]));
    parts().forEach((old) => {
      const now = fresh.get(old.dataset.live);
      if (now && now.outerHTML !== old.outerHTML && !busy(old)) swap(old, now);
    });
    const row = rows()[at];
    if (row) row.classList.add("at");
  };
  const plan = () => {
    if (planned > 0) return;
    if (document.hidden) { planned = -1; return; }
    planned = setTimeout(refresh, Math.max(400, 3000 - (Date.now() - last)));
  };
  if (one("[data-live]") && window.EventSource && !("guest" in document.body.dataset)) {
    const source = new EventSource("/events");
    let heard = false;
    source.addEventListener("change", (e) => {
      if (e.data === "resync") { if (heard) plan(); heard = true; return; }
      if (speaks(e.data)) plan();
    });
    document.addEventListener("visibilitychange", () => { if (!document.hidden && planned === -1) { planned = 0; plan(); } });
    addEventListener("pagehide", () => source.close());
  }

  /* Logs grow at the end; who reads further up is left in peace. */
  all("[data-log]").forEach((box) => {
    let start = 0;
    const read = async () => {
      const reply = await fetch(`${box.dataset.log}&start=${start}`).catch(() => null);
      if (!reply || !reply.ok) { setTimeout(read, 4000); return; }
      const text = await reply.text();
      const low = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      if (text) box.append(text);
      if (low) box.scrollTop = box.scrollHeight;
      start = Number(reply.headers.get("X-Log-Next"));
      if (reply.headers.get("X-Log-Live") === "1") setTimeout(read, text ? 500 : 1500);
      else if (!box.textContent) box.textContent = "The log is empty.";
    };
    read();
  });
})();
