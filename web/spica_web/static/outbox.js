"use strict";
/* Acts that are not saved yet: sent one after the other in the order they were done, kept until the survey has them. */
window.GradeOutbox = class GradeOutbox {
  static WAITS_MS = [1000, 2000, 4000, 8000, 15000];

  static LIMIT_MS = 15000;

  /* `told` has sent(act, reply), refused(act, message) and changed(): what became of acts that were added or found. */
  constructor(person, told) {
    this.prefix = `spica-outbox:${person}:`;
    this.told = told;
    this.acts = [];
    this.busy = false;
    this.trouble = "";
    this.timer = 0;
    this.restore();
    addEventListener("online", () => this.run());
    addEventListener("beforeunload", (e) => { if (this.acts.length) e.preventDefault(); });
  }

  get size() { return this.acts.length; }

  /* An act: {kind: "grade" | "undo", image, name, body}; of an undo, `of` is the key of the grade it takes back. */
  add(act) {
    const made = { ...act, key: GradeOutbox.key(), at: Date.now(), tries: 0 };
    this.acts.push(made);
    this.keep(made);
    this.told.changed();
    this.run();
    return made.key;
  }

  /* Drop an act that was never sent; false where it may have reached the survey. */
  cancel(key) {
    const act = this.acts.find((a) => a.key === key);
    if (!act || act.tries) return false;
    this.drop(act);
    this.told.changed();
    return true;
  }

  static key() {
    return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  restore() {
    try {
      for (let i = 0; i < localStorage.length; i += 1) {
        const name = localStorage.key(i);
        if (name.startsWith(this.prefix)) this.acts.push({ ...JSON.parse(localStorage.getItem(name)), tries: 1 });
      }
    } catch { /* a browser without storage keeps them in memory */ }
    this.acts.sort((a, b) => a.at - b.at);
  }

  keep(act) {
    try { localStorage.setItem(this.prefix + act.key, JSON.stringify(act)); act.kept = true; } catch { /* in memory */ }
  }

  /* Whether another page of this browser has sent a kept act in the meantime. */
  gone(act) {
    try { return Boolean(act.kept) && localStorage.getItem(this.prefix + act.key) === null; } catch { return false; }
  }

  drop(act) {
    this.acts = this.acts.filter((a) => a !== act);
    try { localStorage.removeItem(this.prefix + act.key); } catch { /* in memory */ }
  }

  async run() {
    clearTimeout(this.timer);
    if (this.busy) return;
    this.busy = true;
    while (this.acts.length) {
      const act = this.acts[0];
      if (this.gone(act)) { this.drop(act); continue; }
      act.tries += 1;
      const wait = await this.send(act);
      this.told.changed();
      if (wait) { this.timer = setTimeout(() => this.run(), wait); break; }
    }
    this.busy = false;
  }

  /* Send one act; return how long to wait before it is tried again, 0 where it is over. */
  async send(act) {
    let reply = null;
    let said = null;
    try {
      reply = await fetch(`/api/queue/${act.kind}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(act.body),
        signal: AbortSignal.timeout(GradeOutbox.LIMIT_MS),
      });
      said = await reply.json();
    } catch { said = null; }
    const lost = !reply || !said;
    if (!lost && reply.ok) {
      this.trouble = "";
      this.drop(act);
      this.acts.filter((a) => a.of === act.key).forEach((a) => { a.body.grade_id = said.grade_id; this.keep(a); });
      this.told.sent(act, said);
      return 0;
    }
    const status = reply ? reply.status : 0;
    if (lost || status >= 500 || [401, 403, 408, 429].includes(status)) {
      this.trouble = status === 401 || status === 403 ? "login" : "away";
      return GradeOutbox.WAITS_MS[Math.min(act.tries, GradeOutbox.WAITS_MS.length) - 1];
    }
    this.drop(act);
    this.acts.filter((a) => a.of === act.key).forEach((a) => this.drop(a));
    this.told.refused(act, said.error ? said.error.message : `the survey answered ${status}; reload the page`);
    return 0;
  }
};
