"use strict";
// What is shown: the data, the filters, and which worker is in which lane.
const started = performance.now();
const data = JSON.parse(document.getElementById("data").textContent);
const [PID, ROW, FROM, TO, FLAGS, CALLS, RSS, TTY, FINDINGS, END, SERVED] = Array.from({ length: 11 }, (_, n) => n);
const INHERITED = 1, STALE = 2;
const $ = (id) => document.getElementById(id);
const view = { from: 0, to: Math.max(1, data.lasted_ms) };
const filter = { row: "", finding: "", text: "", stale: false };
let lanes = [];
let chosen = -1;

const hue = (row) => (row * 137.508 + 210) % 360;
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
const colour = (row) => `hsl(${hue(row)} ${dark() ? "45% 58%" : "48% 52%"})`;
const ended = (worker) => worker[TO] === null;

function passes(worker) {
  if (filter.row !== "" && worker[ROW] !== Number(filter.row)) return false;
  if (filter.finding !== "" && !worker[FINDINGS].includes(Number(filter.finding))) return false;
  if (filter.stale && !(worker[FLAGS] & STALE)) return false;
  if (filter.text === "") return true;
  const row = data.sessions[worker[ROW]];
  return `${worker[PID]} ${row.session} ${row.gateway}`.toLowerCase().includes(filter.text);
}

// A heading for each session, then its workers. Workers that never lived at the same time share a
// lane; a lane's workers are in order of time.
function arrange() {
  lanes = [];
  let group = null;
  let open = [];
  for (let index = 0; index < data.workers.length; index++) {
    const worker = data.workers[index];
    if (!passes(worker)) continue;
    if (group !== worker[ROW]) {
      group = worker[ROW];
      open = [];
      lanes.push({ head: group, workers: [] });
    }
    const end = worker[TO] ?? data.lasted_ms;
    let lane = open.find((lane) => lane.until < worker[FROM]);
    if (!lane) {
      lane = { head: null, row: group, workers: [], until: 0 };
      open.push(lane);
      lanes.push(lane);
    }
    lane.workers.push(index);
    lane.until = end;
  }
  const shown = lanes.reduce((sum, lane) => sum + lane.workers.length, 0);
  if (chosen >= 0 && !passes(data.workers[chosen])) chosen = -1;
  return shown;
}

const pad = (n, width = 2) => String(n).padStart(width, "0");
// Local time with its zone.
function clock(ms, whole) {
  const date = new Date(data.began_ms + ms);
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  if (!whole) return time;
  const offset = -date.getTimezoneOffset();
  const zone = `${offset < 0 ? "-" : "+"}${pad(Math.floor(Math.abs(offset) / 60))}${pad(Math.abs(offset) % 60)}`;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${time} ${zone}`;
}
function span(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${Math.round(ms)} ms`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
const size = (kib) => (kib < 10485760 ? `${Math.round(kib / 1024)} MiB` : `${(kib / 1048576).toFixed(1)} GiB`);
