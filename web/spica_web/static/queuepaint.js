"use strict";
/* How the grading room draws what it knows of an image: facts, proposal, measures on their distributions, history. */
window.QueuePaint = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 160;
  const FLOOR = 19;
  const DASH = "–";

  const node = (tag, words = {}, ...inner) => {
    const made = document.createElement(tag);
    Object.entries(words).forEach(([k, v]) => {
      if (v === null || v === undefined || v === false) return;
      if (k === "text") made.textContent = v;
      else if (k === "class") made.className = v;
      else made.setAttribute(k, v === true ? "" : v);
    });
    made.append(...inner.filter((i) => i !== null && i !== undefined && i !== false));
    return made;
  };
  const shape = (tag, words) => {
    const made = document.createElementNS(SVG, tag);
    Object.entries(words).forEach(([k, v]) => made.setAttribute(k, v));
    return made;
  };
  const address = (picture) => (picture ? `/files/${picture.file_id}/${encodeURIComponent(picture.name)}` : null);
  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  const fixed = (value, digits) => (known(value)
    ? value.toFixed(digits).replace(/\B(?=(\d{3})+(?!\d)(?=\.|$))/g, "\u202f").replace("-", "−") : DASH);

  const letter = (grade, source, big = false) => node("span", {
    class: `grade ${grade || "none"} ${grade ? source : ""}${big ? " big" : ""}`,
    title: grade ? `grade ${grade} by ${source === "human" ? "a person" : "the machine"}` : "no grade yet",
    text: grade || DASH,
  });

  /* The strip of a measure, as the pages draw it: counts of the filter, limits as ranges, this value as a tick. */
  const strip = (spread, value, limits) => {
    const drawing = shape("svg", { class: "strip", viewBox: `0 0 ${WIDTH} 24`, width: WIDTH, height: 24, "aria-hidden": "true" });
    if (!spread || !(spread.high > spread.low)) return drawing;
    const span = spread.high - spread.low;
    let low = known(value) ? Math.max(spread.low - span, Math.min(spread.low, value)) : spread.low;
    let high = known(value) ? Math.min(spread.high + span, Math.max(spread.high, value)) : spread.high;
    const pad = 0.03 * (high - low);
    low -= pad;
    high += pad;
    const x = (v) => 1.5 + (WIDTH - 3) * Math.min(1, Math.max(0, (v - low) / (high - low)));
    const most = Math.max(1, ...spread.counts);
    const step = span / spread.counts.length;
    const bars = spread.counts.map((count, i) => {
      if (!count) return "";
      const x0 = x(spread.low + i * step);
      const x1 = x(spread.low + (i + 1) * step);
      const h = Math.max(1.5, (FLOOR - 2) * Math.sqrt(count / most));
      return `M${x0.toFixed(1)} ${FLOOR}V${(FLOOR - h).toFixed(1)}H${Math.max(x1 - 0.6, x0 + 0.6).toFixed(1)}V${FLOOR}Z`;
    });
    ranges(limits, low, high, x).forEach((r) => drawing.append(r));
    drawing.append(shape("path", { class: "bars", d: bars.join("") }));
    if (known(value)) drawing.append(shape("path", { class: "tick", d: `M${x(value).toFixed(1)} 1V${FLOOR + 3}` }));
    return drawing;
  };

  const ranges = (limits, low, high, x) => {
    if (!limits) return [shape("rect", { class: "rule", x: 1.5, y: FLOOR + 1, width: WIDTH - 3, height: 1 })];
    const steps = ["a", "b", "c"].map((k) => [k.toUpperCase(), limits[k]]).filter(([, v]) => known(v));
    const edges = [limits.high ? low : high, ...steps.map(([, v]) => v), limits.high ? high : low];
    return [...steps.map(([k]) => k), "D"].map((k, i) => {
      const [x0, x1] = [x(edges[i]), x(edges[i + 1])].sort((a, b) => a - b);
      return x1 - x0 > 0.05
        ? shape("rect", { class: `band g${k}`, x: x0.toFixed(1), y: FLOOR + 1, width: (x1 - x0).toFixed(1), height: 3 }) : "";
    }).filter(Boolean);
  };

  const list = (words) => `/exposures?${new URLSearchParams(words)}`;

  const facts = (box, item) => {
    const said = [
      node("a", { class: "name", href: `/images/${item.id}`, text: item.name, title: "page of this exposure" }),
      item.object && node("a", { href: list({ object: item.object }), text: item.object }),
      item.filter && node("span", { text: item.filter }),
      known(item.exptime_s) && node("span", { text: `${fixed(item.exptime_s, 0)} s` }),
      known(item.airmass) && node("span", { text: `airmass ${fixed(item.airmass, 2)}` }),
      item.night && node("a", { href: list({ night: item.night }), text: item.night }),
      item.run && node("a", { href: list({ rule: `run = "${item.run.replaceAll('"', "")}"` }), text: `run ${item.run}` }),
      item.n_marks > 0 && node("a", { href: `/images/${item.id}`, class: "warn", text: item.n_marks === 1 ? "1 mark" : `${item.n_marks} marks` }),
      ...item.tags.map((t) => node("span", { class: "tag", text: t })),
    ];
    box.replaceChildren(...said.filter(Boolean));
  };

  const verdict = (box, item) => {
    const shown = item.given ? [item.given, "human"] : item.own ? [item.own.grade, "human"] : item.machine ? [item.machine.grade, "machine"] : [null, ""];
    const why = node("div", { class: "why" });
    if (item.blind) why.append(node("p", { class: "dim", text: "Blind: other grades and the machine's are shown after yours." }));
    else if (!item.machine) why.append(node("p", { class: "dim", text: "The machine has no proposal." }));
    else {
      const line = node("p", {}, node("span", { class: "dim", text: "machine " }), node("b", { text: item.machine.grade }));
      line.append(item.machine.reasons.length
        ? node("span", { text: ` ${item.machine.reasons.join("; ")}` }) : node("span", { class: "dim", text: " all measures within its limits" }));
      why.append(line);
    }
    box.replaceChildren(letter(...shown, true), why);
  };

  const measures = (box, item, spreads, limits) => {
    box.querySelectorAll("[data-measure]").forEach((row) => {
      const name = row.dataset.measure;
      const value = item.measures[name];
      const cell = row.querySelector(".value");
      cell.replaceChildren(
        known(value) ? fixed(value, Number(row.dataset.digits)) : node("span", { class: "dim", text: DASH }),
        node("span", { class: "unit", text: known(value) ? row.dataset.unit : "" }),
      );
      row.querySelector("[data-strip]").replaceChildren(strip(spreads[name], value, limits[name]));
    });
  };

  const history = (box, item) => {
    const rows = item.history.map((g) => node(
      "li", {},
      node("span", { class: `grade ${g.grade} ${g.source}${g.withdrawn ? " withdrawn" : ""}`, text: g.grade }),
      node("div", { class: "said" }, g.source === "machine" ? "machine" : node("b", { text: g.person || "command line" }),
        g.withdrawn ? node("span", { class: "dim", text: " taken back" }) : "", g.comment ? ` · ${g.comment}` : ""),
      node("time", { text: g.at.slice(0, 16).replace("T", " ") }),
    ));
    if (!rows.length) rows.push(node("li", { class: "dim none", text: item.blind ? "Hidden until you have graded." : "Nobody has graded it yet." }));
    box.replaceChildren(...rows);
  };

  const plots = (box, item) => {
    box.replaceChildren(...item.plots.map((p) => node(
      "button", { type: "button", class: "thumb", "data-plot": address(p), title: p.name },
      node("img", { src: address(p), alt: p.name, loading: "lazy", decoding: "async" }),
    )));
  };

  /* How many of each letter, as a pie with its counts. */
  const pie = (counts) => {
    const total = counts.reduce((a, b) => a + b, 0);
    const drawing = shape("svg", { class: "pie", viewBox: "-50 -50 100 100", role: "img", "aria-label": counts.map((n, i) => `${"ABCD"[i]} ${n}`).join(", ") });
    let turn = -Math.PI / 2;
    counts.forEach((n, i) => {
      if (!n) return;
      const end = turn + (2 * Math.PI * n) / total;
      const at = (a) => `${(48 * Math.cos(a)).toFixed(2)} ${(48 * Math.sin(a)).toFixed(2)}`;
      drawing.append(n === total ? shape("circle", { r: 48, class: `g${"ABCD"[i]}` })
        : shape("path", { class: `g${"ABCD"[i]}`, d: `M0 0L${at(turn)}A48 48 0 ${n * 2 > total ? 1 : 0} 1 ${at(end)}Z` }));
      turn = end;
    });
    return drawing;
  };

  return { node, address, fixed, known, letter, facts, verdict, measures, history, plots, pie };
})();
