"use strict";
/* The sky map: HEALPix cells on the whole sky (Mollweide's projection) or in the tangent plane, outlines where few are
   in view. Drag moves, the wheel zooms, a click lists the exposures there. */
(() => {
  const RAD = Math.PI / 180;
  const STOPS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37]];
  const GRADES = { A: "#46c488", B: "#31bcc4", C: "#e5ad42", D: "#f2706c" };
  const WIDE = 120;
  const STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];

  const colour = (t) => {
    const x = Math.max(0, Math.min(1, t)) * (STOPS.length - 1);
    const i = Math.min(STOPS.length - 2, Math.floor(x));
    return [0, 1, 2].map((k) => Math.round(STOPS[i][k] + (STOPS[i + 1][k] - STOPS[i][k]) * (x - i)));
  };

  /* The nested pixel of a direction (Gorski et al. 2005, ApJ 622, 759, section 5). */
  const spread = (v) => {
    let x = v & 0x7fff;
    x = (x | (x << 8)) & 0x00ff00ff;
    x = (x | (x << 4)) & 0x0f0f0f0f;
    x = (x | (x << 2)) & 0x33333333;
    return (x | (x << 1)) & 0x55555555;
  };
  const pixelOf = (order, ra, dec) => {
    const side = 2 ** order;
    const z = Math.sin(dec * RAD);
    const za = Math.abs(z);
    const tt = ((((ra % 360) + 360) % 360) / 90) % 4;
    let face;
    let ix;
    let iy;
    if (za <= 2 / 3) {
      const t1 = side * (0.5 + tt);
      const t2 = side * z * 0.75;
      const jp = Math.floor(t1 - t2);
      const jm = Math.floor(t1 + t2);
      const fp = Math.floor(jp / side);
      const fm = Math.floor(jm / side);
      face = fp === fm ? (fp % 4) + 4 : fp < fm ? fp % 4 : (fm % 4) + 8;
      ix = jm & (side - 1);
      iy = side - (jp & (side - 1)) - 1;
    } else {
      const n = Math.min(3, Math.floor(tt));
      const tp = tt - n;
      const root = side * Math.sqrt(3 * (1 - za));
      const jp = Math.min(side - 1, Math.floor(tp * root));
      const jm = Math.min(side - 1, Math.floor((1 - tp) * root));
      if (z >= 0) { face = n; ix = side - jm - 1; iy = side - jp - 1; } else { face = n + 8; ix = jp; iy = jm; }
    }
    return face * side * side + spread(ix) + 2 * spread(iy);
  };

  /* Projections: from a place of the plot (x right, y up, in units of the view's half height) to a direction, and back. */
  const mollweide = {
    sky(x, y) {
      const s = y / Math.SQRT2;
      if (Math.abs(s) > 1) return null;
      const theta = Math.asin(s);
      const c = Math.cos(theta);
      const lon = c < 1e-9 ? 0 : (Math.PI * x) / (2 * Math.SQRT2 * c);
      if (Math.abs(lon) > Math.PI) return null;
      return [lon / RAD, Math.asin(Math.max(-1, Math.min(1, (2 * theta + Math.sin(2 * theta)) / Math.PI))) / RAD];
    },
    plane(lon, lat) {
      let theta = lat * RAD;
      const target = Math.PI * Math.sin(lat * RAD);
      for (let i = 0; i < 30; i++) {
        const slope = 2 + 2 * Math.cos(2 * theta);
        if (slope < 1e-9) break;
        const step = (2 * theta + Math.sin(2 * theta) - target) / slope;
        theta -= step;
        if (Math.abs(step) < 1e-9) break;
      }
      return [((2 * Math.SQRT2) / Math.PI) * lon * RAD * Math.cos(theta), Math.SQRT2 * Math.sin(theta)];
    },
  };
  const tangent = (ra0, dec0) => {
    const sd = Math.sin(dec0 * RAD);
    const cd = Math.cos(dec0 * RAD);
    return {
      sky(xi, eta) {
        const rho = Math.hypot(xi, eta);
        if (rho === 0) return [ra0, dec0];
        const c = Math.atan(rho);
        const sc = Math.sin(c);
        const cc = Math.cos(c);
        const dec = Math.asin(Math.max(-1, Math.min(1, cc * sd + (eta * sc * cd) / rho)));
        return [ra0 + Math.atan2(xi * sc, rho * cd * cc - eta * sd * sc) / RAD, dec / RAD];
      },
      plane(ra, dec) {
        const a = (ra - ra0) * RAD;
        const d = dec * RAD;
        const cosc = sd * Math.sin(d) + cd * Math.cos(d) * Math.cos(a);
        if (cosc < 0.05) return null;
        return [(Math.cos(d) * Math.sin(a)) / cosc, (cd * Math.sin(d) - sd * Math.cos(d) * Math.cos(a)) / cosc];
      },
    };
  };

  const start = (box) => {
    const canvas = box.querySelector("canvas");
    const said = box.querySelector(".skysaid");
    const pen = canvas.getContext("2d");
    const small = "small" in box.dataset;
    const units = Object.fromEntries((box.dataset.units || "depth=mag").split(";").filter(Boolean).map((w) => w.split("=")));
    const view = {
      ra: "ra" in box.dataset ? Number(box.dataset.ra) : 180,
      dec: "dec" in box.dataset ? Number(box.dataset.dec) : 0,
      fov: "fov" in box.dataset ? Number(box.dataset.fov) : "ra" in box.dataset ? 6 : 360,
    };
    let cells = null;
    let values = new Map();
    let shapes = [];
    let low = 0;
    let high = 1;
    let asked = "";
    let waiting = 0;

    const whole = () => view.fov > WIDE;
    const geometry = () => {
      const width = canvas.width;
      const height = canvas.height;
      if (whole()) {
        const unit = Math.min(width / (4 * Math.SQRT2), height / (2 * Math.SQRT2)) * 0.97;
        const sky = (px, py) => {
          const at = mollweide.sky((width / 2 - px) / unit, (height / 2 - py) / unit);
          return at && [at[0] + 180, at[1]];
        };
        const point = (ra, dec) => {
          const [x, y] = mollweide.plane(((((ra % 360) + 360) % 360) - 180), dec);
          return [width / 2 - x * unit, height / 2 - y * unit];
        };
        return { sky, point, unit };
      }
      const unit = height / 2 / Math.tan(Math.min(view.fov, WIDE) / 2 * RAD);
      const to = tangent(view.ra, view.dec);
      return {
        sky: (px, py) => to.sky((width / 2 - px) / unit, (height / 2 - py) / unit),
        point: (ra, dec) => { const p = to.plane(ra, dec); return p && [width / 2 - p[0] * unit, height / 2 - p[1] * unit]; },
        unit,
      };
    };
    const radius = () => {
      if (whole()) return 180;
      const t = Math.tan(view.fov / 2 * RAD);
      return Math.min(180, Math.atan(t * Math.hypot(1, canvas.width / canvas.height)) / RAD);
    };

    const ink = () => {
      const list = cells ? cells[box.dataset.what === "time" ? "time" : box.dataset.what] : [];
      const known = list.filter((v) => v !== null && v > 0).sort((a, b) => a - b);
      low = known.length ? known[Math.floor(0.02 * (known.length - 1))] : 0;
      high = known.length ? known[Math.ceil(0.98 * (known.length - 1))] : 1;
      if (box.dataset.what === "n" || box.dataset.what === "time") low = 0;
      if (high <= low) { low -= 0.5; high += 0.5; }
      values = new Map();
      if (cells) cells.pixel.forEach((p, i) => values.set(p, i));
      const flip = box.dataset.what === "seeing";
      const table = [];
      for (let i = 0; i < 256; i++) table.push(colour(flip ? 1 - i / 255 : i / 255));
      box.inks = list.map((v) => (v === null ? [70, 80, 95] : table[Math.round(255 * Math.max(0, Math.min(1, (v - low) / (high - low))))]));
      const bar = box.querySelector(".inks");
      if (bar) {
        const brush = bar.getContext("2d");
        for (let x = 0; x < 120; x++) { brush.fillStyle = `rgb(${table[Math.round(x / 119 * 255)]})`; brush.fillRect(x, 0, 1, 10); }
        const unit = units[box.dataset.what] || "";
        const short = (v) => (box.dataset.what === "n" ? Math.round(v).toLocaleString("en").replace(/,/g, " ") : box.dataset.what === "time" ? `${(v / 3600).toFixed(1)} h` : v.toFixed(2));
        box.querySelector("[data-low]").textContent = known.length ? short(Math.max(low, 0)) : "";
        box.querySelector("[data-high]").textContent = known.length ? `${short(high)}${unit && box.dataset.what !== "time" ? ` ${unit}` : ""}` : "";
      }
    };

    const paint = () => {
      const rect = canvas.getBoundingClientRect();
      canvas.width = Math.max(50, Math.round(rect.width));
      canvas.height = Math.max(50, Math.round(rect.height));
      const { sky, point } = geometry();
      const picture = pen.createImageData(canvas.width, canvas.height);
      const data = picture.data;
      for (let py = 0, at = 0; py < canvas.height; py++) {
        for (let px = 0; px < canvas.width; px++, at += 4) {
          const place = sky(px + 0.5, py + 0.5);
          if (!place) { data[at] = 8; data[at + 1] = 11; data[at + 2] = 16; data[at + 3] = 255; continue; }
          const index = cells ? values.get(pixelOf(cells.order, place[0], place[1])) : undefined;
          const ink = index === undefined ? [20, 26, 35] : box.inks[index];
          data[at] = ink[0]; data[at + 1] = ink[1]; data[at + 2] = ink[2]; data[at + 3] = 255;
        }
      }
      pen.putImageData(picture, 0, 0);
      grid(point, sky);
      outlines(point);
      if (document.activeElement === canvas && !whole()) cross();
    };
    const path = (places, point) => {
      pen.beginPath();
      let last = null;
      places.forEach(([ra, dec]) => {
        const p = point(ra, dec);
        if (!p || (last && Math.abs(p[0] - last[0]) > canvas.width / 2)) { last = p; if (p) pen.moveTo(p[0], p[1]); return; }
        if (last) pen.lineTo(p[0], p[1]); else pen.moveTo(p[0], p[1]);
        last = p;
      });
      pen.stroke();
    };
    const grid = (point) => {
      pen.lineWidth = 1;
      pen.strokeStyle = "rgba(138,160,189,0.22)";
      pen.fillStyle = "#93a5bd";
      pen.font = "11px system-ui, sans-serif";
      if (whole()) {
        for (let dec = -60; dec <= 60; dec += 30) path(Array.from({ length: 73 }, (_, i) => [0.001 + i * 4.9999, dec]), point);
        for (let ra = 0; ra < 360; ra += 30) path(Array.from({ length: 61 }, (_, i) => [ra || 0.001, -90 + i * 3]), point);
        path(Array.from({ length: 61 }, (_, i) => [359.999, -90 + i * 3]), point);
        [60, 120, 180, 240, 300].forEach((ra) => { const p = point(ra, 0); pen.textAlign = "center"; pen.fillText(`${ra}°`, p[0], p[1] - 4); });
        return;
      }
      const high = Math.min(90, view.dec + view.fov);
      const lowest = Math.max(-90, view.dec - view.fov);
      const step = STEPS.find((s) => view.fov / s <= 5) || 30;
      const cosd = Math.max(0.02, Math.cos(Math.min(89, Math.abs(view.dec) + view.fov / 2) * RAD));
      const wide = Math.min(180, (view.fov * canvas.width) / canvas.height / cosd);
      const stepRa = STEPS.find((s) => wide / s <= 7) || 30;
      const digits = (s) => Math.max(0, Math.ceil(-Math.log10(s) - 1e-9));
      for (let k = Math.ceil(lowest / step); k * step <= high; k++) {
        path(Array.from({ length: 61 }, (_, i) => [view.ra + ((i - 30) / 30) * wide, k * step]), point);
        const p = point(view.ra, k * step);
        if (p && p[1] > 20 && p[1] < canvas.height - 20) { pen.textAlign = "left"; pen.fillText(`${(k * step).toFixed(digits(step)).replace("-", "−")}°`, 6, p[1] - 3); }
      }
      for (let k = Math.ceil((view.ra - wide) / stepRa); k * stepRa <= view.ra + wide; k++) {
        path(Array.from({ length: 31 }, (_, i) => [k * stepRa, lowest + ((high - lowest) * i) / 30]), point);
        const p = point(k * stepRa, view.dec);
        if (p && p[0] > 40 && p[0] < canvas.width - 40) { pen.textAlign = "center"; pen.fillText(`${((((k * stepRa) % 360) + 360) % 360).toFixed(digits(stepRa))}°`, p[0], canvas.height - 6); }
      }
    };
    const outlines = (point) => {
      shapes.forEach((s) => {
        pen.strokeStyle = s.kind === "stack" ? "#dfe9f7" : GRADES[s.grade] || "#8d99ab";
        pen.lineWidth = s.kind === "stack" ? 2 : 1;
        pen.setLineDash(s.kind === "stack" ? [5, 3] : []);
        s.polygons.forEach((flat) => {
          const places = [];
          for (let i = 0; i < flat.length; i += 2) places.push([flat[i], flat[i + 1]]);
          if (places.length) path([...places, places[0]], point);
        });
      });
      pen.setLineDash([]);
    };
    const cross = () => {
      const x = canvas.width / 2;
      const y = canvas.height / 2;
      pen.strokeStyle = "#ffffff";
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x - 10, y); pen.lineTo(x - 3, y); pen.moveTo(x + 3, y); pen.lineTo(x + 10, y);
      pen.moveTo(x, y - 10); pen.lineTo(x, y - 3); pen.moveTo(x, y + 3); pen.lineTo(x, y + 10);
      pen.stroke();
    };

    const words = () => {
      const p = new URLSearchParams({ radius: radius().toFixed(2), ra: (((view.ra % 360) + 360) % 360).toFixed(2), dec: view.dec.toFixed(2) });
      if (box.dataset.filter) p.set("filter", box.dataset.filter);
      return p.toString();
    };
    const load = async () => {
      const query = words();
      if (asked === query) return;
      asked = query;
      const [first, second] = await Promise.all([
        fetch(`/sky/cells.json?${query}`).catch(() => null),
        !whole() && view.fov < 12 ? fetch(`/sky/shapes.json?${query}`).catch(() => null) : null,
      ]);
      if (asked !== query) return;
      if (!first || !first.ok) { said.textContent = "The map could not be read; reload the page."; asked = ""; return; }
      cells = await first.json();
      shapes = second && second.ok ? (await second.json()).shapes : [];
      ink();
      paint();
      box.dataset.ready = String(cells.pixel.length);
      if (small) said.textContent = cells.pixel.length ? "Depth of all filters. Open the map to look closer." : "";
    };
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(load, 120); };
    const keep = () => {
      if (small) return;
      const here = new URL(location.href);
      if (whole()) ["ra", "dec", "fov"].forEach((k) => here.searchParams.delete(k));
      else {
        here.searchParams.set("ra", ((((view.ra % 360) + 360) % 360)).toFixed(4));
        here.searchParams.set("dec", view.dec.toFixed(4));
        here.searchParams.set("fov", view.fov.toPrecision(4));
      }
      history.replaceState(null, "", here);
      document.querySelectorAll("form[data-filters] input[type=hidden]").forEach((f) => { f.remove(); });
      const form = document.querySelector("form[data-filters]");
      if (form && !whole()) ["ra", "dec", "fov"].forEach((k) => {
        const field = document.createElement("input");
        field.type = "hidden"; field.name = k; field.value = here.searchParams.get(k);
        form.append(field);
      });
    };
    const moved = () => { view.dec = Math.max(-90, Math.min(90, view.dec)); keep(); paint(); soon(); };
    const zoom = (factor, at) => {
      if (whole() && factor < 1) {
        const place = at || [view.ra, view.dec];
        view.ra = place[0]; view.dec = place[1]; view.fov = 60;
      } else {
        const before = at;
        view.fov = Math.max(0.05, view.fov * factor);
        if (view.fov > WIDE) { view.fov = 360; }
        else if (before) { view.ra += (before[0] - view.ra) * (1 - factor) * 0.9; view.dec += (before[1] - view.dec) * (1 - factor) * 0.9; }
      }
      moved();
    };
    const placeOf = (e) => {
      const rect = canvas.getBoundingClientRect();
      return geometry().sky(e.clientX - rect.left, e.clientY - rect.top);
    };
    const list = (place) => {
      const size = whole() ? 1.5 : Math.max(0.02, view.fov / 30);
      const parts = [`within(${((((place[0] % 360) + 360) % 360)).toFixed(4)}, ${place[1].toFixed(4)}, ${Math.max(size, 0.6).toFixed(3)})`];
      if (box.dataset.filter) parts.push(`filter = "${box.dataset.filter}"`);
      location.href = `/exposures?rule=${encodeURIComponent(parts.join(" and "))}`;
    };

    let held = null;
    canvas.addEventListener("pointerdown", (e) => { held = { x: e.clientX, y: e.clientY, moved: false, at: placeOf(e) }; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (held && !small && !whole() && (held.moved || Math.hypot(e.clientX - held.x, e.clientY - held.y) > 4)) {
        const { unit } = geometry();
        view.ra += ((e.clientX - held.x) / unit / RAD) / Math.max(0.02, Math.cos(view.dec * RAD));
        view.dec += (e.clientY - held.y) / unit / RAD;
        held = { ...held, x: e.clientX, y: e.clientY, moved: true };
        moved();
        return;
      }
      if (small) return;
      const place = placeOf(e);
      if (!place) { said.textContent = ""; return; }
      const index = cells ? values.get(pixelOf(cells.order, place[0], place[1])) : undefined;
      const ra = ((place[0] % 360) + 360) % 360;
      const spot = `RA ${ra.toFixed(3)}° dec ${place[1].toFixed(3).replace("-", "−")}°`;
      said.textContent = index === undefined ? `${spot}: no exposure` :
        `${spot}: ${cells.n[index]} exposures, ${(cells.time[index] / 3600).toFixed(2)} h, depth ${cells.depth[index] === null ? "unknown" : cells.depth[index].toFixed(2)} mag, best seeing ${cells.seeing[index] === null ? "unknown" : cells.seeing[index].toFixed(2)} arcsec; click lists them`;
    });
    canvas.addEventListener("pointerup", (e) => {
      const was = held;
      held = null;
      if (!was || was.moved) return;
      if (small) { location.href = "/sky"; return; }
      const place = placeOf(e);
      if (place) list(place);
    });
    if (!small) {
      canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(e.deltaY < 0 ? 1 / 1.4 : 1.4, placeOf(e)); }, { passive: false });
      const acts = { in: () => zoom(1 / 1.6, centreOfCells()), out: () => zoom(1.6, null), whole: () => { view.fov = 360; moved(); } };
      const centreOfCells = () => {
        if (!whole() || !cells || !cells.pixel.length) return null;
        const link = document.querySelector("[data-sky-go]");
        if (!link) return null;
        const p = new URL(link.href).searchParams;
        return [Number(p.get("ra")), Number(p.get("dec"))];
      };
      document.querySelectorAll("[data-sky-act]").forEach((b) => b.addEventListener("click", () => acts[b.dataset.skyAct]()));
      document.addEventListener("keydown", (e) => {
        if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName)) return;
        const step = view.fov / 8;
        const turn = step / Math.max(0.02, Math.cos(view.dec * RAD));
        const keys = {
          "+": acts.in, "=": acts.in, "-": acts.out, 0: acts.whole,
          ArrowLeft: () => { view.ra += turn; moved(); }, ArrowRight: () => { view.ra -= turn; moved(); },
          ArrowUp: () => { view.dec += step; moved(); }, ArrowDown: () => { view.dec -= step; moved(); },
          "?": () => document.dispatchEvent(new Event("spica-keys")),
        };
        if (e.key === "Enter" && e.target === canvas && !whole()) { e.preventDefault(); list([view.ra, view.dec]); return; }
        if (!keys[e.key] || (whole() && e.key.startsWith("Arrow"))) return;
        e.preventDefault();
        keys[e.key]();
      });
      canvas.addEventListener("focus", paint);
      canvas.addEventListener("blur", paint);
    }
    new ResizeObserver(() => { if (cells) { paint(); soon(); } }).observe(canvas);
    box.skymap = { pixelOf, view, get cells() { return cells; } };
    paint();
    load();
  };
  document.querySelectorAll("[data-sky]").forEach(start);
})();
