// Words and numbers around the pictures. Everything is set as text: captions and links come from strangers.

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US");
const spoken = (name) => name.replaceAll("_", " ");

function made(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

export function queues(state, current) {
  for (const button of document.querySelectorAll("[data-queue]")) {
    const queue = state.queues.find((one) => one.name === button.dataset.queue);
    button.setAttribute("aria-pressed", String(button.dataset.queue === current));
    if (queue) button.querySelector("small").textContent = `${number(queue.done)}/${number(queue.total)}`;
  }
  const select = byId("reasons");
  const reasons = state.queues.filter((queue) => queue.name.startsWith("reason:"));
  const options = reasons.map((queue) =>
    made("option", `${spoken(queue.name.slice(7))} ${number(queue.done)}/${number(queue.total)}`, {
      value: queue.name,
      selected: queue.name === current,
    }),
  );
  const first = made("option", reasons.length ? "By reason" : "No reason has pictures", { value: "", selected: !current.startsWith("reason:") });
  select.replaceChildren(first, ...options);
  select.disabled = !reasons.length;
  select.classList.toggle("chosen", current.startsWith("reason:"));
}

export function progress(queue, waiting) {
  if (!queue) return;
  const parts = [`${number(queue.done)} of ${number(queue.total)} judged`];
  if (queue.mine !== queue.done) parts.push(`${number(queue.mine)} by you`);
  if (queue.skipped) parts.push(`${number(queue.skipped)} skipped by you`);
  if (waiting > 1) parts.push(`${number(waiting)} on their way`);
  if (queue.explained) parts.push(queue.explained);
  byId("progress").textContent = parts.join(" · ");
  const bar = byId("bar");
  bar.firstElementChild.style.width = `${queue.total ? (100 * queue.done) / queue.total : 0}%`;
  bar.setAttribute("aria-valuenow", queue.done);
  bar.setAttribute("aria-valuemax", queue.total);
}

export function emptied(queue, state, choose) {
  const section = byId("empty");
  section.querySelector("h2").textContent =
    queue.done + queue.skipped < queue.total ? "Nothing at the moment" : queue.total ? "Done" : "Nothing here";
  section.querySelector("p").textContent = queue.empty || "Looking for samples…";
  const others = (state?.queues ?? []).filter((one) => one.name !== queue.name && one.done + one.skipped < one.total);
  section.querySelector(".elsewhere").replaceChildren(
    ...others.slice(0, 4).map((one) => {
      const title = { audit: "Random audit", uncertain: "Uncertain", second: "Second opinion" }[one.name] ?? spoken(one.name.slice(7));
      return made("button", `${title} (${number(one.total - one.done)} left)`, { onclick: () => choose(one.name) });
    }),
  );
}

// Marks what is chosen; what cannot be judged is off.
export function choices(said, item) {
  for (const button of document.querySelectorAll("#answers button")) {
    const { key, criterion } = button.dataset, task = button.closest(".why")?.dataset.task;
    const on = criterion ? said.criteria.has(criterion) : task ? said[task] === "bad" : false;
    if (task) button.setAttribute("aria-pressed", String(on));
    button.disabled = key !== "u" && (!item || (task === "inpainting" && !item.inpainted) || (key === "Enter" && !said.mask && !said.inpainting));
  }
}

// Says what will be saved.
export function saying(said, item) {
  const parts = [];
  for (const task of ["mask", "inpainting"]) {
    const names = [...said.criteria].filter((name) => document.querySelector(`[data-task=${task}] [data-criterion=${name}]`));
    const answer = said[task] || (task === "inpainting" && item && !item.inpainted ? "was never made" : "not judged");
    parts.push(`${task} ${answer}${names.length ? ` (${names.map(spoken).join(", ")})` : ""}`);
  }
  const text = parts.join(" · ");
  byId("saying").textContent = said.mask || said.inpainting ? text : "";
  return text;
}

export function facts(item, thresholds) {
  byId("caption").textContent = item?.caption ?? "";
  const rows = [];
  if (item) {
    for (const judge of ["mask", "inpainting"]) {
      const score = item.scores[judge], limit = thresholds?.[judge];
      const against = limit == null ? "" : ` (threshold ${limit.toFixed(3)})`;
      rows.push([`${judge} score`, score < 0 ? "not scored" : `${score.toFixed(3)}${against}, ${item.heads[judge]}`]);
    }
    rows.push(["verdict", item.detail ? `${spoken(item.verdict)}: ${item.detail}` : spoken(item.verdict)]);
    rows.push(["mask", `${(100 * item.mask_area).toFixed(1)} % of the image, ${item.mask_components} parts`]);
    rows.push(["source", item.url]);
    rows.push(["sample", `${item.key}, shard ${item.shard}`]);
  }
  byId("facts").replaceChildren(...rows.flatMap(([name, value]) => [made("dt", name), made("dd", value)]));
}

export function agreement(found) {
  const told = (value) => (value == null ? "–" : value.toFixed(2));
  const any = found.mask.n + found.inpainting.n;
  byId("kappa").textContent = any ? `κ mask ${told(found.mask.kappa)} · inpainting ${told(found.inpainting.kappa)}` : "κ –";
  const rows = Object.entries(found).flatMap(([task, { pairs }]) =>
    pairs.map((pair) => {
      const row = document.createElement("tr");
      const cells = [task, `${pair.a} · ${pair.b}`, number(pair.n), `${(100 * pair.agreement).toFixed(0)} %`, told(pair.kappa)];
      row.append(...cells.map((cell) => made("td", cell)));
      return row;
    }),
  );
  const none = document.createElement("tr");
  none.append(made("td", "Nobody has judged a sample that another has judged.", { colSpan: 5 }));
  byId("agreement").querySelector("tbody").replaceChildren(...(rows.length ? rows : [none]));
}

export function problems(state, failure) {
  const texts = [failure, ...(state?.problems ?? [])].filter(Boolean);
  const notice = byId("notice");
  notice.hidden = !texts.length;
  notice.textContent = failure || `${texts.length} ${texts.length === 1 ? "problem" : "problems"}`;
  notice.title = texts.join("\n");
}

export function help(latencies) {
  const sorted = [...latencies].sort((a, b) => a - b);
  byId("measured").textContent = `Next image on the screen after ${sorted[sorted.length >> 1].toFixed(0)} ms (median of ${sorted.length}).`;
}

let fading = 0;

export function toast(text) {
  const line = byId("toast");
  line.textContent = text;
  line.classList.add("on");
  clearTimeout(fading);
  fading = setTimeout(() => line.classList.remove("on"), 2600);
}
