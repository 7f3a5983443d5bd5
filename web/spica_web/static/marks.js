"use strict";
/* Image page: shapes drawn in the viewer become marks; detectors and neighbours by the viewer. */
(() => {
  const one = (words, root = document) => root.querySelector(words);
  const box = one("[data-viewer]");
  const viewer = () => box && box.viewer;
  const said = (words, bad = false) => {
    const note = one("[data-mark-note]");
    if (note) { note.textContent = words; note.classList.toggle("bad", bad); }
  };
  const press = (shape) => document.querySelectorAll("[data-draw]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.draw === shape)));

  const refresh = async () => {
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!reply || !reply.ok) return;
    const fresh = one("[data-marks]", new DOMParser().parseFromString(await reply.text(), "text/html"));
    const old = one("[data-marks]");
    if (fresh && old) old.replaceWith(document.importNode(fresh, true));
  };

  document.addEventListener("click", (e) => {
    const draw = e.target.closest("[data-draw]");
    if (draw && viewer()) {
      const shape = draw.getAttribute("aria-pressed") === "true" ? null : draw.dataset.draw;
      viewer().draw(shape);
      press(shape);
      said(!shape ? "" : !viewer().shown ? "The picture is still coming; draw when it stands." : shape === "circle" ? "Press in the middle, drag to the rim; Escape leaves." : "Click the corners; double click or Enter ends, Escape leaves.");
    }
    const goto = e.target.closest("[data-goto]");
    if (goto && viewer()) {
      viewer().goto(Number(goto.dataset.goto));
      box.scrollIntoView({ block: "nearest", behavior: "smooth" });
    }
  });
  document.addEventListener("keydown", (e) => { if (e.key === "Escape") { press(null); said(""); } });

  /* A shape is kept at once; where that fails it is said, and nothing is on the picture that is not in the survey. */
  if (box) box.addEventListener("shape", async (e) => {
    const panel = one("[data-marks]");
    press(null);
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
  });

  /* A mark that was taken back leaves the picture with the page; one of another person comes with the list. */
  if (box) new MutationObserver((changes) => {
    if (changes.some((c) => [...c.addedNodes].some((n) => n.nodeType === 1 && (n.matches("[data-marks]") || one("[data-marks]", n))))) {
      if (viewer() && viewer().refreshMarks) viewer().refreshMarks();
    }
  }).observe(document.getElementById("main"), { childList: true, subtree: true });

  /* The next picture is there before it is asked for. */
  const next = one("a[data-next]");
  if (box && next) box.addEventListener("shown", () => viewer().prefetch(Number(next.dataset.next)), { once: true });
})();
