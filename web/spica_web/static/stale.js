"use strict";
/* The list of stale stacks: marks, all, a range with shift, and how many the button plans. */
(() => {
  const form = document.querySelector("form[data-pick]");
  const button = form && form.querySelector("button[data-plan]");
  if (!button) return;
  const boxes = [...form.querySelectorAll(".pick input[name=stack]")];
  const whole = form.querySelector("[data-mark-all]");
  let last = null;
  const count = () => {
    const marked = boxes.filter((b) => b.checked).length;
    button.textContent = marked ? `${button.dataset.plan} ${marked}` : `${button.dataset.plan} the marked`;
    button.disabled = marked === 0;
    whole.checked = marked > 0 && marked === boxes.length;
    whole.indeterminate = marked > 0 && !whole.checked;
  };
  whole.hidden = boxes.length === 0;
  whole.addEventListener("change", () => { boxes.forEach((b) => { b.checked = whole.checked; }); count(); });
  boxes.forEach((box, at) => box.addEventListener("click", (e) => {
    if (e.shiftKey && last !== null) boxes.slice(Math.min(last, at), Math.max(last, at) + 1).forEach((b) => { b.checked = box.checked; });
    last = at;
    count();
  }));
  addEventListener("pageshow", count);
  count();
})();
