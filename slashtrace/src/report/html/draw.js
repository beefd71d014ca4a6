// Drawing. Only the lanes in sight are drawn, at most once a frame.
const LEFT = 8, HEAD = 18;
let hatch = null;

const laneHeight = () => (lanes.length > 1200 ? 5 : lanes.length > 160 ? 9 : 14);
const heightOf = (lane) => (lane.head === null ? laneHeight() : HEAD);
let offsets = [0];

function measure() {
  offsets = [0];
  for (const lane of lanes) offsets.push(offsets[offsets.length - 1] + heightOf(lane));
  const all = offsets[offsets.length - 1];
  $("spacer").style.height = `${Math.max(all, 24)}px`;
}

function prepare(canvas, height) {
  // As wide as what is beside the scroll bar, so that all three have one axis.
  const width = $("scroll").clientWidth;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.height = `${height}px`;
  canvas.style.width = `${width}px`;
  const paint = canvas.getContext("2d");
  paint.setTransform(ratio, 0, 0, ratio, 0, 0);
  paint.clearRect(0, 0, width, height);
  return [paint, width];
}

const x = (ms, width) => LEFT + ((ms - view.from) / (view.to - view.from)) * (width - 2 * LEFT);
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function ticks(width) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5,
    216e5, 432e5, 864e5, 1728e5, 6048e5];
  const wanted = (view.to - view.from) / Math.max(2, width / 110);
  const step = steps.find((step) => step >= wanted) ?? steps[steps.length - 1];
  const found = [];
  const zone = new Date(data.began_ms).getTimezoneOffset() * 6e4;
  let at = Math.ceil((view.from + data.began_ms - zone) / step) * step - data.began_ms + zone;
  for (; at <= view.to && found.length < 100; at += step) found.push(at);
  return [found, step];
}

function drawAxis() {
  const [paint, width] = prepare($("axis"), 24);
  const [marks, step] = ticks(width);
  paint.font = "11px system-ui, sans-serif";
  paint.fillStyle = token("--quiet");
  for (const at of marks) {
    const milli = step < 1000 ? `.${pad(((Math.round(data.began_ms + at) % 1000) + 1000) % 1000, 3)}` : "";
    paint.fillText(clock(at) + milli, x(at, width) + 2, 15);
    paint.fillRect(x(at, width), 4, 1, 20);
  }
}

function pattern(paint) {
  if (!hatch) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const on = tile.getContext("2d");
    on.strokeStyle = token("--leak");
    on.globalAlpha = 0.75;
    on.lineWidth = 1.2;
    on.beginPath();
    for (const at of [-8, 0, 8]) { on.moveTo(at, 8); on.lineTo(at + 8, 0); }
    on.stroke();
    hatch = paint.createPattern(tile, "repeat");
  }
  return hatch;
}

function drawLines(paint, width, height) {
  for (const event of data.events) {
    if (event.at < view.from || event.at > view.to) continue;
    if (filter.row !== "" && event.row !== null && event.row !== Number(filter.row)) continue;
    const [stroke, dash] = {
      "terminal-closed": ["#7b4fc9", [5, 3]], "gateway-exit": [token("--leak"), []],
      "finding-opened": [token("--cost"), [1, 3]], "gap": [token("--leak"), [2, 2]],
    }[event.kind] ?? [null, []];
    if (!stroke) continue;
    paint.strokeStyle = stroke;
    paint.setLineDash(dash);
    paint.beginPath();
    paint.moveTo(x(event.at, width), 0);
    paint.lineTo(x(event.at, width), height);
    paint.stroke();
  }
  paint.setLineDash([]);
}

function drawBar(paint, width, index, top, height) {
  const worker = data.workers[index];
  const to = worker[TO] ?? data.lasted_ms;
  if (to < view.from || worker[FROM] > view.to) return;
  const left = Math.max(x(worker[FROM], width), 0);
  const right = Math.min(x(to, width), width);
  const long = Math.max(right - left, 1.5);
  paint.fillStyle = colour(worker[ROW]);
  if (worker[FLAGS] & INHERITED && left < 40 && long > 20) {
    // It was there before: where it began is not known.
    const fade = paint.createLinearGradient(left, 0, left + 18, 0);
    fade.addColorStop(0, "transparent");
    fade.addColorStop(1, colour(worker[ROW]));
    paint.fillStyle = fade;
  }
  paint.fillRect(left, top, long, height);
  if (worker[FLAGS] & STALE) { paint.fillStyle = pattern(paint); paint.fillRect(left, top, long, height); }
  if (height >= 5) {
    paint.fillStyle = token("--ink");
    for (const call of worker[CALLS]) {
      if (call >= view.from && call <= view.to) paint.fillRect(x(call, width), top, 1, height);
    }
  }
  if (index === chosen) {
    paint.strokeStyle = token("--accent");
    paint.lineWidth = 2;
    paint.strokeRect(left - 1, top - 1, long + 2, height + 2);
    paint.lineWidth = 1;
  }
}

function drawLanes() {
  const scroll = $("scroll");
  const all = offsets[offsets.length - 1];
  const height = Math.min(Math.max(all, 24), 480);
  const [paint, width] = prepare($("lanes"), height);
  const above = scroll.scrollTop;
  paint.strokeStyle = token("--grid");
  for (const at of ticks(width)[0]) {
    paint.beginPath(); paint.moveTo(x(at, width), 0); paint.lineTo(x(at, width), height); paint.stroke();
  }
  for (let n = laneAt(above); n < lanes.length && offsets[n] < above + height; n++) {
    const lane = lanes[n], top = offsets[n] - above;
    if (lane.head !== null) {
      const row = data.sessions[lane.head];
      paint.font = "11px system-ui, sans-serif";
      paint.fillStyle = token("--quiet");
      const unused = row.stale ? `, ${row.stale} unused` : "";
      paint.fillText(`${row.session}  ·  ${row.gateway}  ·  ${row.live} live${unused}`.slice(0, 200), LEFT, top + 13);
    } else {
      const gap = laneHeight() > 6 ? 2 : 1;
      for (const index of lane.workers) drawBar(paint, width, index, top + 1, laneHeight() - gap);
    }
  }
  if (lanes.length === 0) {
    paint.fillStyle = token("--quiet");
    paint.fillText("no worker passes the filter", LEFT, 15);
  }
  drawLines(paint, width, height);
}

// The lane at a height, by halving.
function laneAt(y) {
  let low = 0, high = lanes.length;
  while (low < high) { const mid = (low + high) >> 1; if (offsets[mid + 1] <= y) low = mid + 1; else high = mid; }
  return low;
}

function drawSeries() {
  const height = 120;
  const [paint, width] = prepare($("series"), height);
  const points = data.series;
  if (points.length === 0) return;
  const most = (field) => points.reduce((most, point) => Math.max(most, point[field] ?? 0), 0);
  const draw = (field, top, stroke, step) => {
    if (top === 0) return;
    paint.strokeStyle = stroke;
    paint.lineWidth = 1.5;
    paint.beginPath();
    let begun = false, last = 0;
    for (const point of points) {
      if (point[field] === null) continue;
      const at = x(point[0], width), y = height - 16 - (point[field] / top) * (height - 34);
      if (!begun) paint.moveTo(at, y); else { if (step) paint.lineTo(at, last); paint.lineTo(at, y); }
      begun = true; last = y;
    }
    if (begun) paint.lineTo(x(data.lasted_ms, width), last);
    paint.stroke();
    paint.lineWidth = 1;
  };
  paint.strokeStyle = token("--rule");
  paint.strokeRect(LEFT, 16.5, width - 2 * LEFT, height - 33);
  const memory = Math.max(most(2), most(3));
  draw(3, memory, token("--fine"), false);
  draw(2, memory, "#c2762b", false);
  draw(1, most(1), token("--accent"), true);
  drawLines(paint, width, height - 16);
  paint.font = "11px system-ui, sans-serif";
  paint.fillStyle = token("--accent");
  paint.fillText(`${most(1)} live at most`, LEFT + 4, 12);
  paint.fillStyle = "#c2762b";
  const label = `memory up to ${size(memory)}`;
  paint.fillText(label, width - LEFT - 4 - paint.measureText(label).width, 12);
}

let pending = false;
function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => { pending = false; drawAxis(); drawLanes(); drawSeries(); });
}
