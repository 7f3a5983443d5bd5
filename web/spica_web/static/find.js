"use strict";
/* The find box suggests while one writes. Without this script it is a plain form. */
(() => {
  const box = document.querySelector("input.find");
  if (!box) return;
  const list = document.createElement("div");
  list.className = "suggest";
  list.id = "suggest";
  list.hidden = true;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "found");
  document.body.append(list);
  Object.entries({ role: "combobox", "aria-controls": "suggest", "aria-expanded": "false", "aria-autocomplete": "list" })
    .forEach(([name, value]) => box.setAttribute(name, value));

  let at = -1;
  let waiting = 0;
  let asked = "";
  const links = () => [...list.querySelectorAll("a")];

  const place = () => {
    const rect = box.getBoundingClientRect();
    const left = Math.max(8, Math.min(rect.left, innerWidth - list.offsetWidth - 8));
    list.style.setProperty("left", `${left}px`);
    list.style.setProperty("top", `${rect.bottom + 4}px`);
  };
  const close = () => {
    list.hidden = true;
    at = -1;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  };
  const mark = (index) => {
    const all = links();
    if (!all.length) return;
    at = (index + all.length) % all.length;
    all.forEach((a, i) => a.setAttribute("aria-selected", String(i === at)));
    box.setAttribute("aria-activedescendant", all[at].id);
    all[at].scrollIntoView({ block: "nearest" });
  };
  const show = (found) => {
    list.replaceChildren();
    let n = 0;
    found.groups.forEach((group) => {
      const head = document.createElement("h3");
      head.textContent = group.title;
      head.setAttribute("role", "presentation");
      list.append(head);
      group.hits.forEach((hit) => {
        const link = document.createElement("a");
        link.href = hit.link;
        link.id = `suggest-${n++}`;
        link.tabIndex = -1;
        link.setAttribute("role", "option");
        link.setAttribute("aria-selected", "false");
        const name = document.createElement("b");
        name.textContent = hit.text;
        const note = document.createElement("span");
        note.textContent = hit.note;
        link.append(name, note);
        list.append(link);
      });
    });
    at = -1;
    if (!n || document.activeElement !== box) { close(); return; }
    list.hidden = false;
    box.setAttribute("aria-expanded", "true");
    place();
  };
  const ask = async () => {
    const words = box.value.trim();
    asked = words;
    if (words.length < 2) { close(); return; }
    const reply = await fetch(`/api/find?q=${encodeURIComponent(words)}`, { headers: { Accept: "application/json" } }).catch(() => null);
    if (!reply || !reply.ok || asked !== words || box.value.trim() !== words) return;
    show(await reply.json());
  };
  box.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(ask, 140); });
  box.addEventListener("keydown", (e) => {
    if (list.hidden) return;
    if (e.key === "ArrowDown") { e.preventDefault(); mark(at + 1); }
    else if (e.key === "ArrowUp") { e.preventDefault(); mark(at < 0 ? -1 : at - 1); }
    else if (e.key === "Enter" && at >= 0) { e.preventDefault(); location.href = links()[at].href; }
    else if (e.key === "Escape") { e.stopPropagation(); close(); }
  });
  box.addEventListener("blur", () => setTimeout(close, 160));
  list.addEventListener("mousedown", (e) => e.preventDefault());
  addEventListener("resize", close);
})();
