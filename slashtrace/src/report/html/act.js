// What people do: filters, zoom, selection, sorting. Text of the report only ever becomes text.
function zoom(factor, around) {
  const at = around ?? (view.from + view.to) / 2;
  const least = Math.max(1, data.lasted_ms / 1e6);
  const length = Math.min(Math.max((view.to - view.from) * factor, least), data.lasted_ms || 1);
  const share = (at - view.from) / (view.to - view.from);
  pan(at - share * length - view.from, length);
}
function pan(by, length = view.to - view.from) {
  const from = Math.min(Math.max(view.from + by, 0), Math.max(0, data.lasted_ms - length));
  view.from = from;
  view.to = from + length;
  redraw();
}
function showAll() { view.from = 0; view.to = Math.max(1, data.lasted_ms); redraw(); }
function act(what) {
  const step = (view.to - view.from) / 5;
  ({ in: () => zoom(0.5), out: () => zoom(2), left: () => pan(-step), right: () => pan(step), all: showAll })[what]();
}

function applyFilter() {
  const shown = arrange();
  measure();
  $("count").textContent = `${shown} of ${data.workers.length} workers` +
    (data.workers_omitted ? ` (${data.workers_omitted} more are not in this file)` : "");
  const away = (element, gone) => element.classList.toggle("away", gone);
  const key = filter.row === "" ? null : data.sessions[Number(filter.row)].session;
  const rows = new Set(lanes.filter((lane) => lane.head !== null).map((lane) => lane.head));
  for (const row of document.querySelectorAll("#sessions tbody tr")) away(row, !rows.has(Number(row.dataset.row)));
  for (const element of document.querySelectorAll(".findings li, .tree li[data-session]")) {
    const own = element.dataset.session;
    away(element, key !== null && own !== "" && own !== key);
  }
  for (const item of document.querySelectorAll(".findings li")) {
    item.classList.toggle("chosen", filter.finding !== "" && item.dataset.finding === filter.finding);
  }
  if (chosen < 0) $("details").hidden = true;
  redraw();
}

function line(list, name, value) {
  const dt = document.createElement("dt"), dd = document.createElement("dd");
  dt.textContent = name;
  dd.textContent = value;
  list.append(dt, dd);
}
function showDetails() {
  const box = $("details");
  box.replaceChildren();
  box.hidden = chosen < 0;
  if (chosen < 0) return;
  const worker = data.workers[chosen], row = data.sessions[worker[ROW]];
  const list = document.createElement("dl");
  line(list, "worker", `${worker[PID]}${worker[FLAGS] & STALE ? " – nobody uses it" : ""}`);
  line(list, "session", row.session);
  line(list, "gateway", row.gateway);
  if (worker[TTY] !== null) line(list, "terminal", `pts/${worker[TTY]}`);
  const before = worker[FLAGS] & INHERITED ? "before the recording" : clock(worker[FROM], true);
  line(list, "spawned", before);
  const to = worker[TO] ?? data.lasted_ms;
  const end = worker[TO] === null ? "lives" : `${clock(worker[TO], true)}: ${worker[END] ?? "how it ended is not known"}`;
  line(list, "ended", `${end} (seen for ${span(to - worker[FROM])})`);
  line(list, "calls", worker[SERVED] === null ? `${worker[CALLS].length} times active` : String(worker[SERVED]));
  if (worker[RSS] !== null) line(list, "memory", size(worker[RSS]));
  for (const index of worker[FINDINGS]) line(list, data.findings[index].kind, data.findings[index].text);
  box.append(list);
}

function choose(index, details) {
  chosen = index;
  const n = lanes.findIndex((lane) => lane.workers.includes(index));
  if (n >= 0) {
    const scroll = $("scroll"), height = scroll.clientHeight;
    if (offsets[n] < scroll.scrollTop || offsets[n + 1] > scroll.scrollTop + height) {
      scroll.scrollTop = Math.max(0, offsets[n] - height / 2);
    }
  }
  if (details || !$("details").hidden) showDetails();
  redraw();
}

function under(event) {
  const box = $("lanes").getBoundingClientRect();
  const lane = lanes[laneAt(event.clientY - box.top + $("scroll").scrollTop)];
  const at = view.from + ((event.clientX - box.left - LEFT) / (box.width - 2 * LEFT)) * (view.to - view.from);
  const slack = ((view.to - view.from) / box.width) * 3;
  const hit = lane?.workers.find((index) => {
    const worker = data.workers[index];
    return at >= worker[FROM] - slack && at <= (worker[TO] ?? data.lasted_ms) + slack;
  });
  return [hit ?? -1, at];
}

function onKey(event) {
  const order = lanes.flatMap((lane) => lane.workers);
  const move = (by) => {
    if (order.length === 0) return;
    const at = order.indexOf(chosen);
    choose(order[Math.min(Math.max(at < 0 ? 0 : at + by, 0), order.length - 1)], false);
  };
  const keys = {
    ArrowDown: () => move(1), ArrowUp: () => move(-1), PageDown: () => move(20), PageUp: () => move(-20),
    Home: () => move(-order.length), End: () => move(order.length),
    ArrowLeft: () => act("left"), ArrowRight: () => act("right"), "+": () => act("in"), "=": () => act("in"),
    "-": () => act("out"), 0: () => act("all"), Enter: () => chosen >= 0 && showDetails(),
    Escape: () => { $("details").hidden = true; },
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function wirePointer() {
  const canvas = $("lanes");
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, moved: false }; });
  window.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const by = event.clientX - drag.x;
    if (Math.abs(by) < 3 && !drag.moved) return;
    drag.moved = true;
    drag.x = event.clientX;
    pan((-by / canvas.getBoundingClientRect().width) * (view.to - view.from));
  });
  window.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved && event.target === canvas) choose(under(event)[0], true);
    drag = null;
  });
  canvas.addEventListener("mousemove", (event) => {
    const worker = data.workers[under(event)[0]];
    const row = worker && data.sessions[worker[ROW]];
    canvas.title = worker ? `worker ${worker[PID]}, ${row.session}, from ${clock(worker[FROM], true)}` : "";
  });
  canvas.addEventListener("wheel", (event) => {
    // Without a key it scrolls, as everywhere.
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    const by = event.deltaY || event.deltaX;
    if (event.ctrlKey) zoom(by > 0 ? 1.25 : 0.8, under(event)[1]);
    else pan((by / 1000) * (view.to - view.from));
  }, { passive: false });
}

function wireSorting() {
  const body = document.querySelector("#sessions tbody");
  document.querySelectorAll("#sessions th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      document.querySelectorAll("#sessions th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[column].textContent.trim();
      const number = (text) => Number(text.replace(/[^0-9.]/g, ""));
      const numeric = head.classList.contains("n");
      const compare = (a, b) => (numeric ? number(value(a)) - number(value(b)) : value(a).localeCompare(value(b)));
      body.append(...[...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
    });
  });
}

function option(select, value, text) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  select.append(element);
}

function start() {
  $("filters").hidden = $("chart").hidden = $("theme").hidden = false;
  data.sessions.forEach((row, index) => option($("f-session"), index, `${row.session} (${row.gateway})`));
  data.findings.forEach((finding, index) => option($("f-finding"), index, `${finding.kind} ${finding.session ?? ""} (${finding.workers})`));
  for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = colour(Number(swatch.dataset.row));
  const read = () => {
    Object.assign(filter, {
      row: $("f-session").value, finding: $("f-finding").value,
      text: $("f-text").value.trim().toLowerCase(), stale: $("f-stale").checked,
    });
    applyFilter();
  };
  $("filters").addEventListener("input", read);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("click", (event) => {
    const what = event.target.dataset?.zoom;
    if (what) act(what);
  });
  for (const button of document.querySelectorAll(".show")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const index = button.closest("li").dataset.finding;
      $("f-finding").value = filter.finding === index ? "" : index;
      $("f-session").value = "";
      read();
      $("timeline").scrollIntoView();
      $("scroll").focus({ preventScroll: true });
    });
  }
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    hatch = null;
    for (const swatch of document.querySelectorAll(".swatch")) swatch.style.background = colour(Number(swatch.dataset.row));
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { hatch = null; redraw(); });
  $("scroll").addEventListener("scroll", redraw);
  $("scroll").addEventListener("keydown", onKey);
  window.addEventListener("resize", redraw);
  wirePointer();
  wireSorting();
  read();
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const shown = () => lanes.reduce((sum, lane) => sum + lane.workers.length, 0);
    window.__slashtrace = {
      ready_ms: performance.now(), script_ms: performance.now() - started, workers: data.workers.length,
      shown, chosen: () => (chosen < 0 ? null : data.workers[chosen][PID]), view,
    };
  }));
}
start();
