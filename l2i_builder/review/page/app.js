// One sample after another: what the reviewer says of it goes into the outbox, and the next one, loaded ahead, is shown.

import { newId, Outbox, post } from "./outbox.js";
import { load, ready } from "./pictures.js";
import { flip, show, slide, swap, zoomOn } from "./view.js";
import { agreement, choices, emptied, facts, help, progress, problems, queues, saying, toast } from "./words.js";

const LOW = 6; // samples at hand below which more are asked for
const POLL = 15_000; // milliseconds between looks at what others do
const byId = (id) => document.getElementById(id);
const stored = (name, value) => (value === undefined ? localStorage.getItem(`l2i-review-${name}`) : localStorage.setItem(`l2i-review-${name}`, value));

const own = { mask: ["incomplete", "background_included", "too_small"], inpainting: ["object_left", "artefact", "incoherent"] };
const nothing = () => ({ mask: "", inpainting: "", criteria: new Set() });

let reviewer = stored("name") ?? "";
let state = null; // of the server
let queue = stored("queue") ?? "audit";
let items = []; // at hand; the first one is shown
let said = nothing(); // of the sample shown, not saved yet
let count = null; // progress of the queue
let heard = 0; // how far the labels were when the progress shown was counted
let asking = null; // the request for more, while there is one
let outbox = null;
let latencies = []; // milliseconds from key to picture

// --- what is shown ---------------------------------------------------------------------------------------------

const shown = () => items[0];

function draw(since) {
  const item = shown();
  const made = item && ready(item);
  show(made ?? null, item);
  byId("empty").hidden = Boolean(item) || Boolean(asking);
  document.body.classList.toggle("idle", !item);
  facts(item, state?.thresholds);
  document.documentElement.dataset.shown = made ? item.key : "";
  answersChanged();
  if (!item) return;
  for (const ahead of items.slice(0, LOW)) load(ahead).catch(() => {});
  if (made) return since && measured(since);
  load(item).then(
    () => shown() === item && draw(since),
    (error) => shown() === item && failed(item, error),
  );
}

// A sample that is not stored any more makes room for the next; one that cannot be read now can be skipped.
function failed(item, error) {
  document.documentElement.dataset.failed = item.key;
  if (![404, 410].includes(error.status)) return toast(`${error.message} Skip it (s), or wait.`);
  toast(error.message);
  items.shift();
  draw();
  if (items.length < LOW) ask();
}

// Time from the key to the frame after the one in which the picture is drawn.
function measured(since) {
  requestAnimationFrame(() => setTimeout(() => {
    const end = performance.now();
    performance.measure("next image", { start: since, end });
    latencies = [...latencies.slice(-199), end - since];
    help(latencies);
  }));
}

function answersChanged() {
  const item = shown();
  choices(said, item);
  saying(said, item);
}

// --- more samples ------------------------------------------------------------------------------------------------

async function ask(opened = false) {
  if (asking && !opened) return asking;
  const name = queue;
  const have = [...new Set([...items.map((item) => item.key), ...outbox.keys])].slice(0, 40);
  const request = post("/api/next", { reviewer, queue: name, have, opened }).then(
    (answer) => {
      if (name !== queue) return;
      const held = new Set([...items.map((item) => item.key), ...outbox.keys]);
      const before = items.length;
      items.push(...answer.items.filter((item) => !held.has(item.key)).map((item) => ({ ...item, queue: name })));
      told(answer.progress, answer.at);
      asking = null;
      if (!before) draw();
      else for (const ahead of items.slice(0, LOW)) load(ahead).catch(() => {});
    },
    (error) => {
      asking = null;
      if (error.status === 401) return location.reload();
      if (error.status === 404 && name !== "audit") return choose("audit");
      problems(state, `The server cannot be reached: ${error.message}`);
    },
  );
  asking = request;
  return request;
}

// Answers may arrive in another order than they were given in: what was counted before the last one heard is passed over.
function told(answer, at) {
  if (!answer || answer.name !== queue || at < heard) return;
  heard = at;
  count = answer;
  if (state) state.queues = state.queues.map((one) => (one.name === answer.name ? answer : one));
  progress(count, outbox?.waiting.length ?? 0);
  emptied(count, state, choose);
  if (state) queues(state, queue);
}

async function choose(name) {
  if (!name || (name === queue && shown())) return;
  queue = name;
  stored("queue", name);
  items = [];
  said = nothing();
  document.documentElement.dataset.shown = "";
  byId("empty").hidden = true;
  await outbox.flush();
  queues(state, queue);
  await ask(true);
  draw();
}

async function look() {
  const answer = await fetch(`/api/state?reviewer=${encodeURIComponent(reviewer)}`).catch(() => null);
  if (answer?.status === 401) return location.reload();
  if (!answer?.ok) return problems(state, "The server cannot be reached; it is tried again.");
  const news = await answer.json();
  if (news.at < heard) return;
  state = news;
  byId("run").textContent = state.run.name;
  byId("run").title = `Run ${state.run.digest}: ${state.shards.opened} of ${state.shards.finished} finished shards are open`;
  document.title = `Review · ${state.run.name}`;
  problems(state, "");
  queues(state, queue);
  agreement(state.agreement);
  told(state.queues.find((one) => one.name === queue), state.at);
}

// --- saying something --------------------------------------------------------------------------------------------

function judge(answer, since, words) {
  const item = items.shift();
  const body = { id: newId(), reviewer, queue: item.queue, key: item.key, mask: "", inpainting: "", criteria: [], skipped: false, ...answer };
  said = nothing();
  outbox.send("/api/judge", body).then((done) => {
    if (!done) return;
    told(done.progress, done.at);
    if (done.agreement) agreement(done.agreement);
  });
  toast(words);
  draw(since);
  if (items.length < LOW) ask();
}

function save(since) {
  const { mask, inpainting, criteria } = said;
  if (!mask && !inpainting) return toast("Say something first: g, m or i.");
  const words = saying(said, shown());
  judge({ mask, inpainting, criteria: [...criteria] }, since, words);
}

function good(since) {
  said = { mask: "good", inpainting: shown().inpainted ? "good" : "", criteria: new Set() };
  save(since);
}

// m, i: bad; once more saves. Only i pressed means that the mask is good.
function bad(task, since) {
  if (task === "inpainting" && !shown().inpainted) return toast("This sample was never inpainted; judge its mask.");
  if (said[task] === "bad") return save(since);
  said[task] = "bad";
  if (task === "inpainting" && !said.mask) said.mask = "good";
  return answersChanged();
}

// Shift+m, Shift+i: good, on its own.
function fine(task) {
  if (task === "inpainting" && !shown().inpainted) return;
  said[task] = said[task] === "good" ? "" : "good";
  for (const name of own[task]) said.criteria.delete(name);
  answersChanged();
}

function criterion(name) {
  const task = own.mask.includes(name) ? "mask" : "inpainting";
  if (said[task] !== "bad") bad(task);
  if (said[task] !== "bad") return;
  if (!said.criteria.delete(name)) said.criteria.add(name);
  answersChanged();
}

async function undo() {
  const answer = await outbox.send("/api/undo", { id: newId(), reviewer });
  if (!answer) return;
  toast(answer.text);
  look();
  if (!answer.item) return;
  items = [{ ...answer.item, queue: answer.queue || queue }, ...items.filter((item) => item.key !== answer.item.key)];
  said = { ...answer.was, criteria: new Set(answer.was.criteria) };
  draw();
}

// --- keys, buttons, dialogs ----------------------------------------------------------------------------------------

const always = {
  u: undo,
  q: () => choose(state.queues[(state.queues.findIndex((one) => one.name === queue) + 1) % state.queues.length].name),
  t: () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  "?": () => byId("help").showModal(),
  d: () => {
    byId("facts").hidden = !byId("facts").hidden;
  },
};
const withSample = {
  g: good,
  m: (since) => bad("mask", since),
  i: (since) => bad("inpainting", since),
  M: () => fine("mask"),
  I: () => fine("inpainting"),
  s: (since) => judge({ skipped: true }, since, "skipped"),
  Enter: save,
  Escape: () => {
    said = nothing();
    answersChanged();
  },
  ArrowLeft: () => slide(-10),
  ArrowRight: () => slide(10),
  " ": flip,
  o: swap,
  z: zoomOn,
  ...Object.fromEntries([...own.mask, ...own.inpainting].map((name, at) => [String(at + 1), () => criterion(name)])),
};

function press(key, since) {
  if (always[key]) return always[key](since);
  if (withSample[key] && shown() && ready(shown())) return withSample[key](since);
  if (key === "s" && shown()) return withSample.s(since); // one that cannot be loaded can be skipped
}

// Letters by what is printed on the key, also under caps lock and on keyboards of other scripts.
function keyOf({ key, code, shiftKey }) {
  const letter = /^[a-z]$/i.test(key) ? key : /^[^\x00-\x7f]$/.test(key) && code.startsWith("Key") ? code.at(-1) : "";
  return letter ? (shiftKey ? letter.toUpperCase() : letter.toLowerCase()) : key;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return;
  const field = event.target.closest?.("select, input, button");
  if (field?.matches("select") || (field?.matches("button") && ["Enter", " "].includes(event.key))) return;
  if (field?.matches("input") && event.key.startsWith("Arrow")) return;
  const key = keyOf(event);
  if (always[key] || withSample[key]) event.preventDefault();
  press(key, event.timeStamp);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.closest("dialog")) return;
  if (event.detail) button.blur(); // so that Enter and space stay keys of the page
  if (button.dataset.key) press(button.dataset.key, event.timeStamp);
  if (button.dataset.queue) choose(button.dataset.queue);
});
byId("reasons").addEventListener("change", (event) => (choose(event.target.value), event.target.blur()));
byId("slider").addEventListener("change", (event) => event.target.blur());
for (const [id, key] of [["swap", "o"], ["blink", " "], ["zoom", "z"], ["ask", "?"]]) byId(id).addEventListener("click", () => press(key));
byId("kappa").addEventListener("click", () => byId("agreement").showModal());
byId("who").addEventListener("click", () => name(true));

function theme(name) {
  document.documentElement.dataset.theme = name;
  stored("theme", name);
}

function name(change = false) {
  return new Promise((done) => {
    if (reviewer && !change) return done();
    const dialog = byId("name"), field = byId("reviewer");
    field.value = reviewer;
    dialog.addEventListener("cancel", (event) => reviewer || event.preventDefault());
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const answer = await fetch(`/api/state?reviewer=${encodeURIComponent(field.value)}`);
      if (!answer.ok) return (dialog.querySelector(".error").textContent = (await answer.json()).error);
      const old = reviewer;
      stored("name", field.value.trim());
      dialog.close();
      if (old) return location.reload(); // another person: nothing of the old one stays at hand
      reviewer = field.value.trim();
      done();
    };
    dialog.showModal();
  });
}

theme(stored("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
await name();
byId("who").textContent = reviewer;
for (await look(); !state; await look()) await new Promise((resolve) => setTimeout(resolve, 2000));
outbox = new Outbox(state.run.digest, {
  waiting: (number, error) => (progress(count, number), problems(state, error ? `${number} not saved yet; trying again. ${error.message}` : "")),
  refused: (text) => toast(`Not saved: ${text}`),
});
await outbox.flush();
if (!state.queues.some((one) => one.name === queue)) queue = "audit";
await ask(true);
draw();
addEventListener("pagehide", () => {
  const headers = { "Content-Type": "application/json" };
  fetch("/api/release", { method: "POST", headers, body: JSON.stringify({ reviewer }), keepalive: true });
});
setInterval(async () => {
  await look();
  if (!items.length) ask();
}, POLL);
document.documentElement.dataset.ready = "yes";
