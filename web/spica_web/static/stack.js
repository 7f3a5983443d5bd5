"use strict";
/* A source of the catalogue is shown in the picture: the address ends in #at=x,y in pixels of the stack. */
(() => {
  const box = document.querySelector("[data-viewer]");
  const show = () => {
    const found = /^#at=(-?[0-9.]+),(-?[0-9.]+)$/.exec(location.hash);
    if (!found || !box) return;
    if (!box.viewer) { setTimeout(show, 100); return; }
    box.viewer.zoomTo("full", Number(found[1]), Number(found[2]));
    box.scrollIntoView({ block: "nearest" });
  };
  addEventListener("hashchange", show);
  addEventListener("load", show);
})();
/* What has changed since the stack was planned is judged when the page stands. */
document.querySelectorAll("[data-fragment]").forEach(async (box) => {
  const reply = await fetch(box.dataset.fragment).catch(() => null);
  if (reply && reply.ok && !reply.redirected) box.innerHTML = await reply.text();
});
