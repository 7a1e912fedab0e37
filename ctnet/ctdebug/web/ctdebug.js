// The page of package ctdebug. It gets the whole table once, then what has changed each second, and
// makes elements only for the rows that can be seen. All text comes from other programs: it goes
// into the page as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const HISTORY = 60; // updates that a sparkline shows

// el makes an element. Strings among the children become text.
function el(tag, attrs = {}, ...children) {
  const e = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value);
  }
  e.append(...children);
  return e;
}

// ---- What the server says

// The columns of a row as table.go has them: those that stay, then those that change.
const FIRST = ["n", "id", "network", "remote", "pair", "worker", "segment", "slot", "born", "recvSize", "sendSize"];
const CHANGING = ["state", "local", "moved", "recvQueue", "sendQueue", "recvHigh", "sendHigh", "asleep",
  "recvBytes", "sendBytes", "recvOps", "sendOps", "recvStalls", "sendStalls", "recvStalled", "sendStalled",
  "recvPolls", "sendPolls", "recvWakes", "sendWakes", "recvElided", "sendElided"];
const COUNTERS = CHANGING.indexOf("recvBytes"); // from here on a change is a difference

const rows = new Map(); // by number
const pairs = new Map();
let app = null, totals = null, listeners = [], fallbacks = [];
let clock = 0;    // the server's, at the last update, in ms
let tick = 0;     // number of updates
const sums = { recv: new Float32Array(HISTORY), send: new Float32Array(HISTORY), stall: new Float32Array(HISTORY) };
const cost = { bytes: 0, total: 0, apply: 0, updates: 0 };

class Row {
  constructor(values, now) {
    FIRST.forEach((name, i) => { this[name] = values[i]; });
    CHANGING.forEach((name, i) => { this[name] = values[FIRST.length + i]; });
    this.at = now; // when recvStalled and sendStalled were told
    this.recvRate = this.sendRate = 0; // bytes/s
    this.stall = 0; // the part of the time for which a Write slept
    this.wait = 0; // the mean sleep in Read, in ms
    this.opRate = 0;
    this.seenRecv = this.waited("recv", now);
    this.seenSend = this.waited("send", now);
    this.seenStalls = this.recvStalls;
    this.rates = this.stalls = this.waits = null; // histories, once there is something
    this.text = "";
  }

  // change takes the columns of a mask.
  change(values, now, dt) {
    const mask = values[1];
    let at = 2, bytesIn = 0, bytesOut = 0, ops = 0;
    for (let i = 0; i < CHANGING.length; i++) {
      if (!(mask & (1 << i))) continue;
      const v = values[at++], name = CHANGING[i];
      if (i < COUNTERS) { this[name] = v; continue; }
      this[name] += v;
      if (name === "recvBytes") bytesIn = v;
      else if (name === "sendBytes") bytesOut = v;
      else if (name === "recvOps" || name === "sendOps") ops += v;
    }
    this.at = now;
    this.recvRate = Math.max(0, bytesIn) / dt;
    this.sendRate = Math.max(0, bytesOut) / dt;
    this.opRate = ops / dt;
    if (mask & 3) this.text = "";
  }

  // waited returns the ms of all sleeps in one direction. One under way goes on between updates.
  waited(way, now) {
    const sleeps = this.asleep & (way === "recv" ? 1 : 2);
    return this[way + "Stalled"] / 1000 + (sleeps ? Math.max(0, now - this.at) : 0);
  }

  // finish ends an update.
  finish(now, dt, slot) {
    const recv = this.waited("recv", now), send = this.waited("send", now);
    this.stall = Math.min(1, Math.max(0, send - this.seenSend) / (dt * 1000));
    const sleeps = this.recvStalls - this.seenStalls;
    this.wait = sleeps > 0 ? Math.max(0, recv - this.seenRecv) / sleeps : 0;
    this.seenRecv = recv;
    this.seenSend = send;
    this.seenStalls = this.recvStalls;
    const rate = this.recvRate + this.sendRate;
    if (rate > 0 || this.stall > 0) {
      this.rates ??= new Float32Array(HISTORY);
      this.stalls ??= new Float32Array(HISTORY);
      this.waits ??= new Float32Array(HISTORY);
    }
    if (this.rates) {
      this.rates[slot] = rate;
      this.stalls[slot] = this.stall;
      this.waits[slot] = this.wait;
    }
  }

  peer() { return peerName(pairs.get(this.pair)); }
  recvFill() { return this.recvSize > 0 ? Math.min(1, this.recvQueue / this.recvSize) : 0; }
  sendFill() { return this.sendSize > 0 ? Math.min(1, this.sendQueue / this.sendSize) : 0; }
  idle() { return Math.max(0, clock - this.moved); }
  age() { return Math.max(0, clock - this.born); }

  // search is what the filter looks into.
  search() {
    return this.text ||= [this.state, this.network, this.local, this.remote, this.peer(), this.id].join(" ").toLowerCase();
  }
}

function peerName(p) {
  if (!p) return "";
  if (p.Role === "inside") return "this process";
  const exe = (p.PeerExe || "").split("/").pop();
  return (exe ? exe + " " : "") + p.Peer.PID + (p.PeerStopped ? " (stopped)" : "");
}

function receive(m, bytes) {
  const start = performance.now();
  const dt = m.App || !clock ? 1 : Math.max(0.001, (m.Time - clock) / 1000);
  clock = m.Time;
  if (m.App) {
    app = m.App;
    rows.clear();
    pairs.clear();
  }
  totals = m.Totals;
  const renamed = new Set();
  for (const p of m.Pairs || []) {
    if (Boolean(pairs.get(p.ID)?.PeerStopped) !== Boolean(p.PeerStopped)) renamed.add(p.ID);
    pairs.set(p.ID, p);
  }
  if (renamed.size) for (const r of rows.values()) if (renamed.has(r.pair)) r.text = "";
  for (const id of m.PairsGone || []) pairs.delete(id);
  if (m.Listeners) listeners = m.Listeners;
  if (m.Fallbacks) fallbacks = m.Fallbacks;

  const slot = ++tick % HISTORY;
  for (const n of m.Del || []) rows.delete(n);
  for (const r of rows.values()) r.recvRate = r.sendRate = r.opRate = 0;
  for (const v of m.Set || []) rows.get(v[0])?.change(v, clock, dt);
  let recv = 0, send = 0, stall = 0;
  for (const r of rows.values()) {
    r.finish(clock, dt, slot);
    recv += r.recvRate;
    send += r.sendRate;
    stall += r.stall;
  }
  for (const v of m.Add || []) {
    const r = new Row(v, clock);
    rows.set(r.n, r);
  }
  sums.recv[slot] = recv;
  sums.send[slot] = send;
  sums.stall[slot] = stall;
  select();
  cost.bytes = bytes;
  cost.total += bytes;
  cost.updates++;
  draw();
  cost.apply = performance.now() - start;
  $("cost").textContent = `snapshot ${(totals.Took / 1000).toFixed(1)} ms · update ${size(bytes)}, shown in ${cost.apply.toFixed(1)} ms`;
}

// ---- The stream

let source = null, retry = 0, timer = 0;

function connect() {
  clearTimeout(timer);
  source?.close();
  source = new EventSource("events");
  const on = (e) => {
    live("live", "live");
    retry = 0;
    receive(JSON.parse(e.data), e.data.length);
  };
  source.addEventListener("full", on);
  source.addEventListener("change", on);
  source.onerror = async () => {
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    live("lost", "lost, trying again");
    timer = setTimeout(connect, Math.min(30000, 1000 * 2 ** retry++));
    if (!refused) return;
    try {
      const answer = await fetch("events");
      if (!answer.ok) live("lost", (await answer.text()).trim());
      else answer.body.cancel();
    } catch { /* the server is gone */ }
  };
}

function live(state, text) {
  $("live").dataset.state = state;
  $("live").textContent = text;
}

function disconnect(text) {
  clearTimeout(timer);
  source?.close();
  source = null;
  live("wait", text);
}

function pause() {
  const paused = $("pause").getAttribute("aria-pressed") !== "true";
  $("pause").setAttribute("aria-pressed", paused);
  if (paused) disconnect("paused");
  else connect();
}

// A page that nobody looks at needs no updates.
let hidden = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  if (document.hidden) hidden = setTimeout(() => { if (source) disconnect("asleep"); }, 30000);
  else if ($("live").textContent === "asleep") connect();
});

// ---- Numbers as text

function size(n) {
  if (!(n >= 0)) return "?";
  if (n < 1000) return Math.round(n) + " B";
  const units = ["kB", "MB", "GB", "TB", "PB"];
  let i = -1;
  do { n /= 1000; i++; } while (n >= 999.5 && i < units.length - 1);
  return (n < 9.95 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}

function binary(n) {
  if (n < 0) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (n < 10 && i > 0 && n % 1 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}

const rate = (n) => (n > 0 ? size(n) + "/s" : "0");
const count = (n) => Math.round(n).toLocaleString("en");
const percent = (x) => (x > 0 && x < 0.01 ? "<1%" : Math.round(x * 100) + "%");

function time(ms) {
  if (ms < 1) return ms > 0 ? Math.round(ms * 1000) + " µs" : "0";
  if (ms < 1000) return (ms < 10 ? ms.toFixed(1) : Math.round(ms)) + " ms";
  const s = Math.floor(ms / 1000);
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + "m" + String(s % 60).padStart(2, "0");
  if (s < 86400) return Math.floor(s / 3600) + "h" + String(Math.floor(s / 60) % 60).padStart(2, "0");
  return Math.floor(s / 86400) + "d" + String(Math.floor(s / 3600) % 24).padStart(2, "0");
}

const short = (ms) => (ms < 1000 ? "0 s" : time(ms));

// ---- Sparklines

const dark = matchMedia("(prefers-color-scheme: dark)");
let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["text", "dim", "faint", "line", "track", "recv", "send", "stall", "bad", "good", "accent"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
}
dark.addEventListener("change", () => { readColours(); draw(); });

// canvas prepares one for drawing, and returns null if it can't be seen.
function canvas(c, w = c.clientWidth, h = c.clientHeight) {
  const scale = devicePixelRatio || 1;
  if (!w || !h) return null;
  const cw = Math.round(w * scale), ch = Math.round(h * scale);
  if (c.width !== cw || c.height !== ch) { c.width = cw; c.height = ch; }
  const g = c.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, w, h);
  return { g, w, h };
}

// spark draws a history, whose newest value is on the right. A history that is null has only zeros.
// top is the least value that the full height stands for.
function spark(c, history, colour, top = 0, w = undefined, h = undefined) {
  const on = canvas(c, w, h);
  if (!on) return;
  const { g } = on;
  w = on.w;
  h = on.h;
  let max = 0;
  if (history) for (const v of history) max = Math.max(max, v);
  const base = h - 1.5;
  if (max <= 0) {
    g.fillStyle = colours.line;
    g.fillRect(0, base, w, 1);
    return;
  }
  max = Math.max(max, top);
  const from = Math.max(0, HISTORY - tick); // before that there was no update
  g.beginPath();
  for (let i = from; i < HISTORY; i++) {
    const v = history[(tick + 1 + i) % HISTORY];
    const x = (i / (HISTORY - 1)) * w, y = base - (v / max) * (h - 4);
    if (i === from) g.moveTo(x, y);
    else g.lineTo(x, y);
  }
  g.strokeStyle = colour;
  g.lineWidth = 1.25;
  g.lineJoin = "round";
  g.stroke();
  g.lineTo(w, h);
  g.lineTo((from / (HISTORY - 1)) * w, h);
  g.closePath();
  g.globalAlpha = 0.14;
  g.fillStyle = colour;
  g.fill();
  g.globalAlpha = 1;
}

// ---- The table of sessions

// A column is [id, heading, key to sort by, whether the largest comes first].
const COLUMNS = [
  ["state", "State", (r) => r.state, false],
  ["local", "Local", (r) => r.local, false],
  ["remote", "Remote", (r) => r.remote, false],
  ["peer", "Peer", (r) => r.peer(), false],
  ["in", "Received", (r) => r.recvRate, true],
  ["out", "Sent", (r) => r.sendRate, true],
  ["rate", "Throughput", (r) => r.recvRate + r.sendRate, true],
  ["fifo", "Fifo fill", (r) => Math.max(r.recvFill(), r.sendFill()), true],
  ["stall", "Write stalls", (r) => r.stall, true],
  ["idle", "Idle", (r) => r.idle(), true],
  ["age", "Age", (r) => r.age(), true],
  ["worker", "W", (r) => r.worker, false],
  ["slot", "Slot", (r) => r.segment * 65536 + r.slot, false],
];
const TITLES = {
  in: "Bytes read here, a second", out: "Bytes written here, a second",
  rate: "Both ways, the last minute", fifo: "Bytes that wait to be read here (above) and by the peer (below); the mark is the most so far",
  stall: "The part of the time for which a Write slept because the fifo was full", idle: "Since bytes have moved last",
  worker: "Worker", slot: "Pair: segment, slot",
};

let sortBy = "rate", sortDown = true, wanted = [], wantedState = "", selected = 0;
let shown = []; // the rows that the filter lets pass, sorted

function buildHead() {
  for (const [id, title] of COLUMNS) {
    $("head").append(el("div", { role: "columnheader", class: "c-" + id + (["in", "out", "idle", "age", "worker"].includes(id) ? " num" : ""), "data-column": id },
      el("button", { type: "button", title: TITLES[id] || title, onclick: () => sort(id) }, title)));
    $("sort").append(el("option", { value: id }, title));
  }
  $("sort").addEventListener("change", () => { sortBy = ""; sort($("sort").value); });
  showSort();
}

function sort(id) {
  const column = COLUMNS.find((c) => c[0] === id);
  sortDown = sortBy === id ? !sortDown : column[3];
  sortBy = id;
  showSort();
  select();
  $("grid").scrollTop = 0;
  drawRows();
}

function showSort() {
  $("sort").value = sortBy;
  for (const h of $("head").children) {
    h.setAttribute("aria-sort", h.dataset.column !== sortBy ? "none" : sortDown ? "descending" : "ascending");
  }
}

const KEYS = {
  state: (r, v) => r.state.toLowerCase().startsWith(v),
  pid: (r, v) => String(pairs.get(r.pair)?.Peer.PID) === v,
  uid: (r, v) => String(pairs.get(r.pair)?.Peer.UID) === v,
  pair: (r, v) => r.pair === v,
  worker: (r, v) => String(r.worker) === v,
  net: (r, v) => r.network.startsWith(v),
  local: (r, v) => r.local.toLowerCase().includes(v),
  remote: (r, v) => r.remote.toLowerCase().includes(v),
};

// filter sets what rows are wanted: all words of the text must fit.
function filter(text) {
  wanted = text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const colon = word.indexOf(":");
    const key = KEYS[word.slice(0, colon)];
    if (colon > 0 && key) return (r) => key(r, word.slice(colon + 1));
    return (r) => r.search().includes(word);
  });
}

// select chooses and sorts the rows to show.
function select() {
  const key = COLUMNS.find((c) => c[0] === sortBy)[2];
  const all = [];
  for (const r of rows.values()) {
    if (wantedState && r.state !== wantedState) continue;
    if (!wanted.every((fits) => fits(r))) continue;
    r.key = key(r);
    all.push(r);
  }
  const sign = sortDown ? -1 : 1;
  all.sort((a, b) => (a.key < b.key ? -sign : a.key > b.key ? sign : a.n - b.n));
  shown = all;
}

// A View is the elements of one row that can be seen; it is used for one row after the other.
class View {
  constructor() {
    const cell = (name, ...children) => el("div", { role: "gridcell", class: name }, ...children);
    this.dot = el("i", { class: "dot" });
    this.state = el("span");
    this.local = cell("c-local addr");
    this.remote = cell("c-remote addr");
    this.peer = cell("c-peer");
    this.in = cell("c-in rate num");
    this.out = cell("c-out rate num");
    this.rate = el("canvas");
    this.recv = el("i", { class: "recv" });
    this.send = el("i", { class: "send" });
    this.fifo = cell("c-fifo fifo", this.recv, this.send);
    this.fifo.addEventListener("mouseenter", () => {
      const r = this.row;
      this.fifo.title = `${binary(r.recvQueue)} of ${binary(r.recvSize)} wait to be read here, ${binary(r.recvHigh)} at most\n` +
        `${binary(r.sendQueue)} of ${binary(r.sendSize)} wait to be read by the peer, ${binary(r.sendHigh)} at most`;
    });
    this.stalls = el("canvas");
    this.stall = el("span");
    this.stallCell = cell("c-stall stall", this.stalls, this.stall);
    this.idle = cell("c-idle num");
    this.age = cell("c-age num");
    this.worker = cell("c-worker num dim");
    this.slot = cell("c-slot dim");
    this.line2 = cell("line2");
    this.el = el("div", { role: "row", class: "row" },
      cell("c-state state", this.dot, this.state), this.local, this.remote, this.peer, this.in, this.out,
      cell("c-rate", this.rate), this.fifo, this.stallCell,
      this.idle, this.age, this.worker, this.slot, this.line2);
    this.el.addEventListener("click", () => open(this.row.n));
    this.row = null;
    this.drawn = -1;
    this.texts = new Map();
  }

  // address shows one. That of a dialing end on network ct is long, and its end tells most: the middle is
  // left out.
  address(e, s) {
    if (this.texts.get(e) === s) return;
    this.text(e, s);
    e.textContent = s.replace(/^([0-9a-f]{6})[0-9a-f]{10}:(\d+)$/, "$1…:$2");
  }

  // text sets an element's text, if it is another one.
  text(e, s) {
    if (this.texts.get(e) === s) return;
    this.texts.set(e, s);
    e.textContent = s;
    if (e === this.local || e === this.remote || e === this.peer) e.title = s;
  }

  show(r, index) {
    const y = `translateY(${index * rowHeight}px)`;
    if (this.y !== y) this.el.style.transform = this.y = y;
    const chosen = r.n === selected;
    if (this.chosen !== chosen) this.el.setAttribute("aria-selected", this.chosen = chosen);
    if (this.row === r && this.drawn === tick) return;
    this.row = r;
    this.drawn = tick;
    if (this.index !== index) this.el.setAttribute("aria-rowindex", (this.index = index) + 2);
    mark(this.dot, "state", r.state);
    this.text(this.state, r.state);
    this.address(this.local, r.local || "–");
    this.address(this.remote, r.remote);
    this.text(this.peer, r.peer());
    this.text(this.in, rate(r.recvRate));
    this.text(this.out, rate(r.sendRate));
    mark(this.in, "zero", r.recvRate === 0);
    mark(this.out, "zero", r.sendRate === 0);
    bar(this.recv, r.recvFill(), r.recvHigh / r.recvSize);
    bar(this.send, r.sendFill(), r.sendHigh / r.sendSize);
    this.text(this.stall, r.stall > 0 ? percent(r.stall) : "–");
    mark(this.stallCell, "hot", r.stall >= 0.1);
    this.text(this.idle, short(r.idle()));
    this.text(this.age, short(r.age()));
    this.text(this.worker, r.worker < 0 ? "–" : String(r.worker));
    this.text(this.slot, `${r.pair}: ${r.segment}, ${r.slot}`);
    const moving = r.recvRate + r.sendRate > 0;
    this.text(this.line2, (r.state === "ESTABLISHED" ? "" : r.state + " · ") + (r.stall > 0 ? `stalls ${percent(r.stall)} · ` : "") +
      (moving ? `↓ ${rate(r.recvRate)} ↑ ${rate(r.sendRate)}` : `idle ${short(r.idle())}`) + ` · ${r.peer() || "?"}`);
    spark(this.rate, r.rates, colours.accent, 0, ...sparkSizes.rate);
    spark(this.stalls, r.stalls, colours.stall, 1, ...sparkSizes.stall);
  }
}

// mark sets an element's data attribute, if it is another one: each change costs the browser something.
function mark(e, name, value) {
  const key = "mark_" + name;
  if (e[key] === value) return;
  e[key] = value;
  e.dataset[name] = value;
}

function bar(e, fill, high) {
  fill = fill.toFixed(3);
  high = Math.min(1, high || 0).toFixed(3);
  if (e.fill !== fill) e.style.setProperty("--fill", e.fill = fill);
  if (e.high !== high) e.style.setProperty("--high", e.high = high);
  mark(e, "full", fill > 0.9);
}

const views = [];
let rowHeight = 32;

// The sizes of the rows' sparklines, once they are measured: to ask each of them would have the browser
// lay out the page anew for each.
let sparkSizes = null;

// measure has the sizes of rows measured anew.
function measure() { sparkSizes = null; }

function drawRows() {
  const grid = $("grid"), body = $("body");
  if ($("sessions").hidden) return;
  if (!sparkSizes) rowHeight = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"), 10);
  const height = shown.length * rowHeight;
  if (body.style.height !== height + "px") body.style.height = height + "px";
  const head = $("head").offsetHeight;
  const first = Math.max(0, Math.floor(grid.scrollTop / rowHeight) - 4);
  const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight - head) / rowHeight) + 4);
  const need = Math.max(0, last - first);
  while (views.length < need) {
    const v = new View();
    views.push(v);
    body.append(v.el);
  }
  if (need && !sparkSizes) {
    const { el, rate, stalls } = views[0];
    el.hidden = false;
    sparkSizes = { rate: [rate.clientWidth, rate.clientHeight], stall: [stalls.clientWidth, stalls.clientHeight] };
  }
  // Row i always has the view i modulo their number, so to scroll by a row changes one of them.
  views.forEach((v) => { v.used = false; });
  for (let i = first; i < last; i++) {
    const v = views[i % views.length];
    v.used = true;
    v.el.hidden = false;
    v.show(shown[i], i);
  }
  for (const v of views) if (!v.used) v.el.hidden = true;
  grid.setAttribute("aria-rowcount", shown.length + 1);
  const none = $("none");
  none.hidden = shown.length > 0;
  if (!none.hidden) none.textContent = rows.size ? "No session fits the filter." : "No session goes through shared memory now.";
  $("count").textContent = shown.length === rows.size ? `${count(rows.size)} sessions` : `${count(shown.length)} of ${count(rows.size)}`;
  if (totals?.Omitted) $("count").textContent += `, ${count(totals.Omitted)} more are not listed`;
}

function drawStates() {
  const by = new Map();
  for (const r of rows.values()) by.set(r.state, (by.get(r.state) || 0) + 1);
  if (wantedState && !by.has(wantedState)) by.set(wantedState, 0);
  const list = [["", rows.size], ...[...by].sort((a, b) => b[1] - a[1])];
  const text = JSON.stringify([list, wantedState]);
  if (drawStates.last === text) return;
  drawStates.last = text;
  const focus = document.activeElement?.dataset?.wants;
  $("states").replaceChildren(...list.map(([state, n]) => el("button",
    { type: "button", "aria-pressed": wantedState === state, "data-wants": state || "*", onclick: () => { wantedState = state; select(); drawStates(); $("grid").scrollTop = 0; drawRows(); } },
    ...(state ? [el("i", { class: "dot", "data-state": state })] : []), state || "All", el("b", {}, count(n)))));
  if (focus) $("states").querySelector(`[data-wants="${CSS.escape(focus)}"]`)?.focus();
}

// ---- One session

function open(n) {
  selected = n;
  $("detail").hidden = false;
  drawDetail();
  drawRows();
}

function closeDetail() {
  selected = 0;
  $("detail").hidden = true;
  $("detail").replaceChildren();
  drawDetail.of = 0;
  drawRows();
}

function drawDetail() {
  const box = $("detail");
  if (box.hidden) return;
  const r = rows.get(selected);
  if (!r) {
    if (drawDetail.of) box.querySelector("h2").append(el("span", { class: "dim" }, "gone"));
    drawDetail.of = 0;
    return;
  }
  if (drawDetail.of !== selected) {
    drawDetail.of = selected;
    const chart = (id, title) => [el("h3", {}, title, el("b", { id: "d-" + id })), el("canvas", { id: "c-" + id })];
    box.replaceChildren(
      el("button", { id: "close", type: "button", "aria-label": "Close", onclick: closeDetail }, "×"),
      el("h2", {}, el("i", { class: "dot" }), el("span")),
      ...chart("rate", "Throughput, both ways"), ...chart("wait", "Wait for data, mean of the sleeps in Read"), ...chart("stall", "Wait for space, part of the time"),
      el("dl"), el("table"), el("h3", {}, "What happened last"), el("table", { id: "past" }));
  }
  drawPast(r);
  const p = pairs.get(r.pair);
  box.querySelector("h2 .dot").dataset.state = r.state;
  box.querySelector("h2 span").textContent = `${r.local || "–"} → ${r.remote}`;
  $("d-rate").textContent = rate(r.recvRate + r.sendRate);
  $("d-wait").textContent = r.wait > 0 ? time(r.wait) : "–";
  $("d-stall").textContent = percent(r.stall);
  spark($("c-rate"), r.rates, colours.accent);
  spark($("c-wait"), r.waits, colours.recv);
  spark($("c-stall"), r.stalls, colours.stall, 1);
  const facts = {
    State: r.state, Network: r.network, ID: r.id,
    Peer: p ? `${p.PeerExe || "?"}, pid ${p.Peer.PID}, uid ${p.Peer.UID}${p.PeerStopped ? ", stopped" : ""}` : "?",
    Pair: `${r.pair}${p ? ` (${p.Role}${p.Name ? " " + p.Name : ""})` : ""}`,
    Memory: `segment ${r.segment}, slot ${r.slot}`, Worker: r.worker < 0 ? "none: inside one application" : String(r.worker),
    Age: short(r.age()), Idle: short(r.idle()), Calls: `${count(r.opRate)} a second`,
  };
  box.querySelector("dl").replaceChildren(...Object.entries(facts).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
  const line = (title, f) => el("tr", {}, el("td", {}, title), el("td", { class: "num" }, f("recv")), el("td", { class: "num" }, f("send")));
  box.querySelector("table").replaceChildren(
    el("tr", {}, el("th"), el("th", { class: "num" }, "received"), el("th", { class: "num" }, "sent")),
    line("Bytes", (w) => size(r[w + "Bytes"])), line("Calls", (w) => count(r[w + "Ops"])),
    line("In the fifo now", (w) => binary(r[w + "Queue"])), line("At most so far", (w) => binary(r[w + "High"])), line("Fifo", (w) => binary(r[w + "Size"])),
    line("Sleeps", (w) => count(r[w + "Stalls"]) + (r.asleep & (w === "recv" ? 1 : 2) ? ", now" : "")), line("Slept for", (w) => time(r.waited(w, clock))),
    line("Polls that paid", (w) => count(r[w + "Polls"])), line("Wake-ups sent", (w) => count(r[w + "Wakes"])), line("Wake-ups elided", (w) => count(r[w + "Elided"])));
}

// What happened, in words.
const EVENTS = {
  "dialed": "dialed", "accepted": "accepted", "stall-data": "for data", "stall-space": "for space", "read-closed": "closed for reading",
  "write-closed": "closed for writing", "closed": "closed", "fin-sent": "sent fin", "reset-sent": "sent reset", "fin-seen": "saw the peer’s fin",
  "reset-seen": "saw the peer’s reset", "severed": "reset from outside", "peer-broke": "the peer broke the protocol", "peer-gone": "the peer’s process is gone",
};
const STALLS = { came: ", which came", deadline: " until the deadline", closed: " until closed here", ended: " until the stream ended", nothing: ", woken for nothing" };

// drawPast asks once an update what happened last at a session, and shows it, the latest first.
async function drawPast(r) {
  const due = `${r.n} ${tick}`;
  if (drawPast.asking || drawPast.of === due) return;
  drawPast.asking = true;
  drawPast.of = due;
  let ends = null;
  try {
    const answer = await fetch(`past?id=${encodeURIComponent(r.id)}`);
    if (answer.ok) ends = await answer.json();
  } catch { // the server is gone, which the stream says
  } finally { drawPast.asking = false; }
  const events = ends?.find((e) => e.Local === r.local && e.Remote === r.remote)?.Events;
  if (!events || selected !== r.n || $("detail").hidden) return;
  $("past").replaceChildren(...events.reverse().map((v) => {
    const stall = v.Kind.startsWith("stall-");
    let text = EVENTS[v.Kind] || v.Kind;
    if (stall) text = v.Ended ? `waited ${text}${STALLS[v.Ended] || ""}` : `waits ${text}`;
    return el("tr", { title: stall ? `wake-ups sent: ${v.Wakes}, polls that paid: ${v.Polls}` : "" },
      el("td", {}, `${time(Math.max(0, clock - Date.parse(v.At)))} ago`), el("td", {}, text), el("td", { class: "num" }, stall ? time(v.For / 1e6) : ""));
  }));
}

// ---- Totals

const TILES = [
  ["Sessions", () => count(totals.Sessions), () => `${count(totals.Segments)} segments`],
  ["Received", () => rate(sums.recv[tick % HISTORY]), () => "read here", "recv", () => sums.recv],
  ["Sent", () => rate(sums.send[tick % HISTORY]), () => "written here", "send", () => sums.send],
  ["Stalled writers", () => sums.stall[tick % HISTORY].toFixed(1), () => "for space, on average", "stall", () => sums.stall],
  ["Memory of fifos", () => binary(totals.Memory), () => binary(totals.Bytes) + " mapped"],
  ["Kernel’s way", () => count(fallbacks.reduce((n, f) => n + f.Count, 0)), () => fallbacks.length ? fallbacks[0].Reason : "never taken"],
  ["Reset, refused", () => `${count(totals.Reset)}, ${count(totals.Refused)}`, () => `${count(totals.Cancelled)} Dials cancelled`],
  ["Peers cut off", () => count(totals.CutOff), () => "they broke the protocol", null, null, () => totals.CutOff > 0],
];

function drawTiles() {
  const box = $("tiles");
  if (!box.children.length) {
    for (const [title, , , colour] of TILES) {
      box.append(el("div", { class: "tile" }, el("h2", {}, title), el("span", { class: "value" }), el("span", { class: "note" }), ...(colour ? [el("canvas")] : [])));
    }
  }
  TILES.forEach(([, value, note, colour, history, alarm], i) => {
    const e = box.children[i];
    e.querySelector(".value").textContent = value();
    e.querySelector(".note").textContent = note();
    e.dataset.alarm = Boolean(alarm?.());
    if (colour) spark(e.querySelector("canvas"), history(), colours[colour]);
  });
  $("app").textContent = `${app.Program} · pid ${app.PID} · uid ${app.UID} · ${app.Exe}`;
  $("app").title = `application ${app.App}`;
  document.title = `${app.Program} ${app.PID} · ctnet`;
  const peers = new Set([...pairs.values()].filter((p) => p.Role !== "inside").map((p) => p.PeerApp));
  const workers = new Set([...pairs.values()].filter((p) => p.Worker >= 0).map((p) => p.Worker));
  const marks = { sessions: rows.size, peers: peers.size, memory: totals.Segments, workers: workers.size, listeners: listeners.length, kernel: fallbacks.length };
  for (const [tab, n] of Object.entries(marks)) $("tab-" + tab).querySelector("b").textContent = count(n);
}

// ---- Who talks to whom

// byPair adds up the sessions of each pair.
function byPair() {
  const all = new Map();
  for (const r of rows.values()) {
    let s = all.get(r.pair);
    if (!s) all.set(r.pair, s = { sessions: 0, recv: 0, send: 0, stall: 0, rows: [] });
    s.sessions++;
    s.recv += r.recvRate;
    s.send += r.sendRate;
    s.stall += r.stall;
    s.rows.push(r);
  }
  return all;
}

const NONE = { sessions: 0, recv: 0, send: 0, stall: 0, rows: [] };
const MAX_NODES = 24; // peers on one side; the others share a node

function drawPeers() {
  const sums = byPair();
  const sides = { listened: new Map(), dialed: new Map() };
  for (const p of pairs.values()) {
    if (p.Role === "inside") continue;
    const s = sums.get(p.ID) || NONE;
    const side = sides[p.Role];
    let n = side.get(p.PeerApp);
    if (!n) side.set(p.PeerApp, n = { name: (p.PeerExe || "").split("/").pop() || "?", pid: p.Peer.PID, uid: p.Peer.UID, stopped: false, names: new Set(), sessions: 0, recv: 0, send: 0, stall: 0 });
    n.sessions += s.sessions;
    n.recv += s.recv;
    n.send += s.send;
    n.stall += s.stall;
    n.stopped ||= Boolean(p.PeerStopped);
    if (p.Name) n.names.add(p.Name);
  }
  const nodes = (side) => {
    const all = [...side.values()].sort((a, b) => a.pid - b.pid);
    if (all.length <= MAX_NODES) return all;
    const busiest = [...all].sort((a, b) => b.recv + b.send - a.recv - a.send || b.sessions - a.sessions);
    const rest = { name: `${all.length - MAX_NODES + 1} more`, pid: 0, uid: "", names: new Set(), sessions: 0, recv: 0, send: 0, stall: 0 };
    for (const n of busiest.slice(MAX_NODES - 1)) for (const k of ["sessions", "recv", "send", "stall"]) rest[k] += n[k];
    return [...busiest.slice(0, MAX_NODES - 1).sort((a, b) => a.pid - b.pid), rest];
  };
  const left = nodes(sides.listened), right = nodes(sides.dialed);
  const inside = [...pairs.values()].filter((p) => p.Role === "inside").reduce((n, p) => n + (sums.get(p.ID) || NONE).sessions / 2, 0);

  const box = $("peers");
  const width = Math.max(300, box.clientWidth - 32), narrow = width < 720;
  const NODE = 54, GAP = 14, PAD = 16;
  const nodeWidth = narrow ? width * 0.48 : Math.min(240, width * 0.26);
  const g = el("svg:svg", { role: "img", "aria-label": "Who talks to whom" });
  const own = { w: narrow ? width * 0.36 : Math.min(260, width * 0.28) };
  const lines = [app.Program, `pid ${app.PID} · uid ${app.UID}`, ...listeners.slice(0, 8).map((l) => `${l.Network}:${l.Address}`)];
  if (listeners.length > 8) lines.push(`and ${count(listeners.length - 8)} more listeners`);
  if (inside >= 1) lines.push(`${count(inside)} connections inside`);
  own.h = 20 + lines.length * 17;

  // On a narrow page all peers are on the right, and the own box is on the left.
  const stack = narrow ? [[...left, ...right], []] : [right, left];
  const tall = Math.max(1, stack[0].length, stack[1].length) * (NODE + GAP) - GAP;
  const height = Math.max(tall, own.h) + 2 * PAD;
  own.x = narrow ? PAD / 2 : (width - own.w) / 2;
  own.y = (height - own.h) / 2;
  const most = Math.max(1, ...left.concat(right).map((n) => Math.max(n.recv, n.send)));
  const thick = (v) => 1.25 + 6 * Math.sqrt(v / most);

  const place = (list, onLeft) => list.forEach((n, i) => {
    const y = (height - (list.length * (NODE + GAP) - GAP)) / 2 + i * (NODE + GAP);
    const x = onLeft ? PAD : width - (narrow ? PAD / 2 : PAD) - nodeWidth;
    const from = onLeft ? x + nodeWidth : own.x + own.w, to = onLeft ? own.x : x;
    const ownY = own.y + 14 + (own.h - 28) * ((i + 0.5) / list.length);
    const mid = y + NODE / 2;
    for (const [way, value, shift] of [["recv", n.recv, -4], ["send", n.send, 4]]) {
      const [a, b] = onLeft ? [mid + shift, ownY + shift / 2] : [ownY + shift / 2, mid + shift];
      const bend = (to - from) / 2;
      g.append(el("svg:path", { class: value > 0 ? way : "quiet", "stroke-width": thick(value).toFixed(2), d: `M${from} ${a}C${from + bend} ${a} ${to - bend} ${b} ${to} ${b}` }));
    }
    const chars = Math.floor((nodeWidth - 20) / 6.4);
    const cut = (s) => (s.length > chars ? s.slice(0, chars - 1) + "…" : s);
    const traffic = n.stopped ? "stopped" : n.recv + n.send > 0 ? `↓ ${rate(n.recv)} ↑ ${rate(n.send)}` : "quiet";
    const node = el("svg:g", { class: "peer", tabindex: 0, role: "button", transform: `translate(${x} ${y})` },
      el("svg:title", {}, [n.name, `pid ${n.pid}, uid ${n.uid}`, ...n.names].join("\n")),
      el("svg:rect", { class: "node", width: nodeWidth, height: NODE, rx: 7 }),
      el("svg:text", { class: "name", x: 10, y: 17 }, cut(n.pid ? `${n.name} ${n.pid}` : n.name)),
      el("svg:text", { class: "small", x: 10, y: 32 }, cut(`${count(n.sessions)} sessions${n.names.size ? " · " + [...n.names].join(", ") : ""}`)),
      el("svg:text", { class: "small", x: 10, y: 47 }, cut(traffic)));
    if (n.pid) {
      const go = () => { $("filter").value = `pid:${n.pid}`; filter($("filter").value); select(); show("sessions"); };
      node.addEventListener("click", go);
      node.addEventListener("keydown", (e) => { if (e.key === "Enter") go(); });
    }
    g.append(node);
  });
  place(stack[0], false);
  place(stack[1], true);
  g.append(el("svg:g", { transform: `translate(${own.x} ${own.y})` },
    el("svg:rect", { class: "node own", width: own.w, height: own.h, rx: 8 }),
    ...lines.map((s, i) => {
      const chars = Math.floor((own.w - 24) / 6.2);
      return el("svg:text", { class: i === 0 ? "name" : "small", x: 12, y: 22 + i * 17 }, s.length > chars ? s.slice(0, chars - 1) + "…" : s);
    })));
  g.setAttribute("viewBox", `0 0 ${width} ${height}`);
  g.setAttribute("height", height);
  box.replaceChildren(
    el("p", { class: "legend" },
      el("span", {}, narrow ? "Applications with which this one shares memory." : "Left: applications that have dialed this one. Right: those that it has dialed."),
      el("span", {}, el("i", { class: "recvline" }), "received"), el("span", {}, el("i", { class: "sendline" }), "sent")),
    left.length + right.length || inside ? g : el("p", { class: "empty" }, "This application is connected to no other one."));
}

// ---- Segments

const MAX_CARDS = 60, MAX_SEGMENTS = 512;

function drawMemory() {
  const box = $("memory"), sums = byPair();
  const list = [...pairs.values()].sort((a, b) => b.Conns - a.Conns || (a.ID < b.ID ? -1 : 1));
  if (!box.children.length) {
    box.append(
      el("p", { class: "legend" }, "A square is a slot, the memory of one connection; a block of them is a segment.",
        ...[["free", "free"], ["used", "used"], ["filled", "fifo over half full"], ["ending", "closing or half-open"], ["broken", "reset"]].map(([c, t]) => el("span", {}, el("i", { class: c }), t))),
      el("div", { class: "cards" }), el("p", { class: "empty" }));
  }
  const cards = box.querySelector(".cards");
  while (cards.children.length > Math.min(list.length, MAX_CARDS)) cards.lastChild.remove();
  list.slice(0, MAX_CARDS).forEach((p, i) => {
    let card = cards.children[i];
    if (!card) {
      card = el("div", { class: "card" }, el("h3"), el("p", { class: "facts" }), el("canvas", { "aria-label": "Slots" }));
      card.lastChild.addEventListener("click", (e) => { const r = slotAt(card.lastChild, e); if (r) open(r.n); });
      card.lastChild.addEventListener("mousemove", (e) => {
        const r = slotAt(card.lastChild, e);
        card.lastChild.title = r ? `segment ${r.segment}, slot ${r.slot}: ${r.local} → ${r.remote}` : "";
      });
      cards.append(card);
    }
    const s = sums.get(p.ID) || NONE;
    const used = p.Role === "inside" ? s.sessions / 2 : p.Conns;
    card.querySelector("h3").replaceChildren(el("span", { class: "tag" }, p.Role), p.Role === "inside" ? "inside this application" : `${peerName(p)}`, ...(p.Name ? [el("span", { class: "mono dim" }, p.Name)] : []));
    const fact = (n, text) => el("span", {}, el("b", {}, n), " " + text);
    card.querySelector(".facts").replaceChildren(
      fact(count(p.Segments), p.Segments === 1 ? "segment" : "segments"), fact(count(used), "slots used"), fact(count(p.FreeSlots), "free"),
      fact(binary(p.Mapped), "mapped"), fact(p.Resident < 0 ? "not counted" : binary(p.Resident), "resident"),
      fact(binary(p.RecvBuffer) + " / " + binary(p.SendBuffer), "fifos"), ...(p.Worker >= 0 ? [fact(String(p.Worker), "worker")] : []));
    card.classList.toggle("wide", p.Segments > 4);
    drawSlots(card.lastChild, p, s, used);
  });
  box.lastChild.hidden = list.length > 0 && list.length <= MAX_CARDS && !totals.PairsOmitted;
  box.lastChild.textContent = list.length ? `${count(list.length - MAX_CARDS + totals.PairsOmitted)} more pairs are not drawn.` : "No memory is shared.";
}

// slots returns how many a segment of the pair has, as far as can be seen: a power of two.
function slotsOf(p, s, used) {
  let most = Math.ceil((used + p.FreeSlots) / Math.max(1, p.Segments));
  for (const r of s.rows) most = Math.max(most, r.slot + 1);
  let n = 1;
  while (n < most) n *= 2;
  return n;
}

function drawSlots(c, p, s, used) {
  const slots = slotsOf(p, s, used);
  let last = p.Segments - 1;
  for (const r of s.rows) last = Math.max(last, r.segment);
  const segments = Math.min(last + 1, MAX_SEGMENTS);
  const cell = innerWidth < 640 ? 9 : 8, gap = 10;
  const space = c.parentElement.clientWidth - 28;
  let across = 1;
  while (across * across < slots * 4 && across < slots) across *= 2; // four times as wide as high
  while (across > 1 && across * cell > space) across /= 2;
  const down = Math.ceil(slots / across);
  const w = across * cell + gap, h = down * cell + gap;
  const perLine = Math.max(1, Math.floor((space + gap) / w));
  const lines = Math.ceil(segments / perLine);
  c.style.width = Math.min(perLine, Math.max(1, segments)) * w + "px";
  c.style.height = Math.max(1, lines) * h + "px";
  const on = canvas(c);
  const at = new Map();
  c.map = { slots, across, cell, w, h, perLine, at };
  if (!on) return;
  const { g } = on;
  g.fillStyle = colours.track;
  for (let k = 0; k < segments; k++) {
    const x = (k % perLine) * w, y = Math.floor(k / perLine) * h;
    for (let i = 0; i < slots; i++) g.fillRect(x + (i % across) * cell, y + Math.floor(i / across) * cell, cell - 1.5, cell - 1.5);
  }
  for (const r of s.rows) {
    if (r.segment >= segments) continue;
    at.set(r.segment * 65536 + r.slot, r);
    const x = (r.segment % perLine) * w, y = Math.floor(r.segment / perLine) * h;
    g.fillStyle = r.state === "RESET" ? colours.bad : r.state !== "ESTABLISHED" ? colours.send
      : Math.max(r.recvFill(), r.sendFill()) > 0.5 ? colours.stall : colours.good;
    g.fillRect(x + (r.slot % across) * cell, y + Math.floor(r.slot / across) * cell, cell - 1.5, cell - 1.5);
  }
}

function slotAt(c, e) {
  const m = c.map;
  if (!m) return null;
  const box = c.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
  const segment = Math.floor(y / m.h) * m.perLine + Math.floor(x / m.w);
  const across = Math.floor((x % m.w) / m.cell), down = Math.floor((y % m.h) / m.cell);
  return across < m.across ? m.at.get(segment * 65536 + down * m.across + across) : null;
}

// ---- Tables

// drawTable fills a view with a table. A heading that begins with # is of numbers.
function drawTable(id, headings, lines, none, ...before) {
  const num = (i) => (headings[i].startsWith("#") ? "num" : "");
  $(id).replaceChildren(...before, lines.length ? el("div", { class: "scroll" }, el("table", {},
    el("tr", {}, ...headings.map((h, i) => el("th", { class: num(i) }, h.replace("#", "")))),
    ...lines.map((line) => el("tr", {}, ...line.map((v, i) => (v instanceof Element && v.tagName === "TD" ? v : el("td", { class: num(i) }, v)))))))
    : el("p", { class: "empty" }, none));
}

function drawWorkers() {
  const all = new Map();
  const of = (n) => all.get(n) || all.set(n, { pairs: 0, sessions: 0, recv: 0, send: 0, wakes: 0, elided: 0, polls: 0, stalls: 0 }).get(n);
  for (const p of pairs.values()) of(p.Worker).pairs++;
  for (const r of rows.values()) {
    const w = of(r.worker);
    w.sessions++;
    w.recv += r.recvRate;
    w.send += r.sendRate;
    w.wakes += r.recvWakes + r.sendWakes;
    w.elided += r.recvElided + r.sendElided;
    w.polls += r.recvPolls + r.sendPolls;
    w.stalls += r.recvStalls + r.sendStalls;
  }
  const share = (a, b) => (a + b > 0 ? percent(a / (a + b)) : "–");
  drawTable("workers", ["Worker", "#Pairs", "#Sessions", "#Received", "#Sent", "#Wake-ups sent", "#Elided", "#Sleeps", "#Polls that paid"],
    [...all].sort((a, b) => a[0] - b[0]).map(([n, w]) => [n < 0 ? "none: inside this application" : String(n), count(w.pairs), count(w.sessions), rate(w.recv), rate(w.send),
      count(w.wakes), share(w.elided, w.wakes), count(w.stalls), share(w.polls, w.stalls)]),
    "No worker runs: this application is connected to no other one.",
    el("p", { class: "legend" }, "A worker delivers the events of some pairs. Counts are of the sessions that are open now."));
}

function drawListeners() {
  drawTable("listeners", ["Network", "Address", "#Waiting", "#Backlog"], listeners.map((l) => {
    const fill = el("i");
    fill.style.transform = `scaleX(${Math.min(1, l.Waiting / Math.max(1, l.Backlog))})`;
    return [l.Network, el("td", { class: "mono" }, l.Address), el("td", { class: "num" }, count(l.Waiting), el("span", { class: "meter" }, fill)), count(l.Backlog)];
  }), "This application listens nowhere.",
  ...(totals.ListenersOmitted ? [el("p", { class: "legend" }, `${count(totals.ListenersOmitted)} more are not listed.`)] : []));
}

function drawKernel() {
  drawTable("kernel", ["Call", "Network", "Address", "Reason", "#Times", "#Last", "Error"],
    fallbacks.map((f) => [f.Op, f.Network, el("td", { class: "mono" }, f.Address || "all others"), f.Reason + (f.Reason === "not-trusted" ? ` (uid ${f.UID})` : ""), count(f.Count), short(Math.max(0, clock - Date.parse(f.Last))) + " ago", el("td", { class: "wide" }, f.Error)]),
    "No connection or listener has taken the kernel’s way.",
    el("p", { class: "legend" }, "Connections and listeners that use the kernel’s socket, and why."),
    ...(totals.CutOff ? [el("p", { class: "legend" }, `${count(totals.CutOff)} pairs were cut off: ${count(totals.Violations.Fifo)} broke fifos, ${count(totals.Violations.Message)} sent wrong messages, ${count(totals.Violations.Doorbell)} rang without end.`)] : []));
}

// ---- Views

const VIEWS = {
  sessions: () => { drawStates(); drawRows(); }, peers: drawPeers, memory: drawMemory,
  workers: drawWorkers, listeners: drawListeners, kernel: drawKernel,
};
let view = "sessions";

function show(name) {
  view = VIEWS[name] ? name : "sessions";
  for (const id of Object.keys(VIEWS)) {
    $(id).hidden = id !== view;
    $("tab-" + id).setAttribute("aria-selected", id === view);
    $("tab-" + id).tabIndex = id === view ? 0 : -1;
  }
  if (location.hash.slice(1) !== view) history.replaceState(null, "", "#" + view);
  measure();
  draw();
}

function draw() {
  if (!totals) return;
  for (const v of views) v.drawn = -1; // the size or the colours may have changed
  drawTiles();
  VIEWS[view]();
  drawDetail();
}

// soon calls f before the next frame, once.
function soon(f) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; f(); });
  };
}

buildHead();
readColours();
for (const id of Object.keys(VIEWS)) $("tab-" + id).addEventListener("click", () => show(id));
document.querySelector("nav").addEventListener("keydown", (e) => {
  const ids = Object.keys(VIEWS), step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
  if (!step) return;
  show(ids[(ids.indexOf(view) + step + ids.length) % ids.length]);
  $("tab-" + view).focus();
});
addEventListener("hashchange", () => show(location.hash.slice(1)));
addEventListener("resize", soon(() => { measure(); draw(); }));
$("grid").addEventListener("scroll", soon(drawRows), { passive: true });
$("filter").addEventListener("input", soon(() => {
  filter($("filter").value);
  select();
  $("grid").scrollTop = 0;
  drawRows();
}));
$("pause").addEventListener("click", pause);
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") closeDetail();
  if (e.key === "/" && !/INPUT|SELECT/.test(document.activeElement.tagName)) {
    e.preventDefault();
    show("sessions");
    $("filter").focus();
  }
});
$("grid").addEventListener("keydown", (e) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
  if (!step || !shown.length) return;
  e.preventDefault();
  const at = shown.findIndex((r) => r.n === selected);
  const next = Math.min(shown.length - 1, Math.max(0, at + step));
  const top = next * rowHeight, grid = $("grid"), space = grid.clientHeight - $("head").offsetHeight - rowHeight;
  if (top < grid.scrollTop) grid.scrollTop = top;
  if (top > grid.scrollTop + space) grid.scrollTop = top - space;
  open(shown[next].n);
});
show(location.hash.slice(1));
connect();
