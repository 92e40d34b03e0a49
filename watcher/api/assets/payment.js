// Keeps the payment page true without a reload. The server renders the state; here it is only fetched and put in place:
// when the stream says that something changed, when the tab wakes up, and by polling while the stream is not alive.
"use strict";

const POLL_MS = 2000; // while the stream is not known to be alive
const QUIET_MS = 12000; // the stream says "alive" every 5 seconds
const main = document.getElementById("payment");
const news = document.getElementById("news");
const offline = document.getElementById("offline");
const path = main.dataset.live;

let shown = main.innerHTML.trim();
let serverMs = null; // the server's clock at `heardAt` of ours; only differences of ours are used
let heardAt = 0;
let stream = null;
let streamHeardAt = -Infinity;
let asking = false;
let askAgain = false;

async function refresh() {
  if (asking) {
    askAgain = true;
    return;
  }
  asking = true;
  try {
    const response = await fetch(path + "/state", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok) throw new Error(response.status);
    put(await response.text());
    serverMs = Number(response.headers.get("X-Server-Time-Ms"));
    heardAt = performance.now();
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  }
  asking = false;
  tick();
  if (askAgain) {
    askAgain = false;
    refresh();
  }
}

function put(html) {
  const text = html.trim();
  if (text === shown) return;
  shown = text;
  const focused = document.activeElement && document.activeElement.dataset.copy;
  main.innerHTML = text;
  const headline = main.querySelector("h1").textContent;
  if (headline !== document.title) news.textContent = document.title = headline; // said by screen readers
  prepare();
  if (focused) main.querySelector(`[data-copy="${focused}"]`)?.focus();
}

function prepare() {
  if (!navigator.clipboard) return; // plain http: nothing can be copied by a script
  for (const button of main.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
}

function tick() {
  const time = main.querySelector("[data-countdown]");
  if (!time || serverMs === null) return;
  const leftMs = Date.parse(time.dateTime) - (serverMs + performance.now() - heardAt);
  const seconds = Math.max(0, Math.ceil(leftMs / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  const text = parts.map((part) => String(part).padStart(2, "0")).join(":");
  time.textContent = `${text} left`;
  if (leftMs < -1000 && !asking && performance.now() - heardAt > 1000) refresh();
}

function listen() {
  if (stream) stream.close();
  stream = new EventSource(path + "/stream");
  streamHeardAt = -Infinity;
  stream.onmessage = () => {
    streamHeardAt = performance.now();
    refresh();
  };
  stream.addEventListener("alive", () => {
    streamHeardAt = performance.now();
  });
}

function watch() {
  if (performance.now() - streamHeardAt < QUIET_MS && stream.readyState === EventSource.OPEN) return;
  refresh();
  if (stream.readyState === EventSource.CLOSED || performance.now() - streamHeardAt > QUIET_MS) {
    if (stream.readyState !== EventSource.CONNECTING) listen();
  }
}

function wake() {
  if (document.visibilityState !== "visible") return;
  refresh();
  listen();
}

prepare();
listen();
refresh();
setInterval(tick, 250);
setInterval(watch, POLL_MS);
document.addEventListener("visibilitychange", wake);
window.addEventListener("online", wake);
window.addEventListener("offline", refresh); // which says so
window.addEventListener("pageshow", (event) => event.persisted && wake());
