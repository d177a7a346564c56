// What a reviewer said, on its way to the server: in order, kept in the browser until it is stored, sent again when the
// network or the server fails. Sending twice does no harm: the server knows an id it has.

const PREFIX = "l2i-review-op:";
const PAUSE = 2000; // milliseconds before another attempt

export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  throw Object.assign(new Error(told.error || `The server answered ${answer.status}.`), { status: answer.status });
}

export class Outbox {
  // events: waiting(count, error or null), refused(text)
  constructor(run, events) {
    this.prefix = `${PREFIX}${run}:`;
    this.events = events;
    this.waiting = [];
    this.number = 0;
    this.busy = null;
    for (const name of Object.keys(localStorage).filter((key) => key.startsWith(this.prefix)).sort()) {
      this.waiting.push({ ...JSON.parse(localStorage.getItem(name)), name, done() {} });
    }
    addEventListener("beforeunload", (event) => this.failing && event.preventDefault());
    if (this.waiting.length) this.flush();
  }

  get keys() {
    return this.waiting.map((op) => op.body.key).filter(Boolean);
  }

  // Resolves with the server's answer once it is stored, with null where it is refused.
  send(path, body) {
    const name = `${this.prefix}${Date.now()}-${String(this.number++).padStart(6, "0")}`;
    try {
      localStorage.setItem(name, JSON.stringify({ path, body }));
    } catch { /* full or forbidden storage: it is sent all the same */ }
    return new Promise((done) => {
      this.waiting.push({ path, body, name, done });
      this.flush();
    });
  }

  // Resolves when nothing is on its way any more.
  flush() {
    this.busy ??= this.work().finally(() => (this.busy = null));
    return this.busy;
  }

  async work() {
    while (this.waiting.length) {
      const op = this.waiting[0];
      try {
        const answer = await post(op.path, op.body);
        this.settle(op, answer);
      } catch (error) {
        if ([400, 404, 413].includes(error.status)) {
          this.settle(op, null);
          this.events.refused(error.message);
          continue;
        }
        if (error.status === 401) return location.reload(); // it is sent after the token was given again
        this.failing = true;
        this.events.waiting(this.waiting.length, error);
        await new Promise((resolve) => setTimeout(resolve, PAUSE));
      }
    }
  }

  settle(op, answer) {
    localStorage.removeItem(op.name);
    this.waiting.shift();
    this.failing = false;
    this.events.waiting(this.waiting.length, null);
    op.done(answer);
  }
}
