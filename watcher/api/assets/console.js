// Makes the console quicker; everything works without it.
"use strict";

const live = document.getElementById("live");
const offline = document.getElementById("offline");
let shown = live && live.innerHTML;
let clockAheadMs = live && Number(live.dataset.now) - performance.now(); // the server's clock, by a count of our own
let isLeaving = false; // a form was sent, and its answer is waited for

function prepare(root) {
  for (const button of root.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
  for (const button of root.querySelectorAll("[data-once]")) {
    button.form.addEventListener("submit", () => {
      button.textContent = button.dataset.once;
      button.disabled = true; // after the form's data were taken
      isLeaving = true;
    });
  }
}

// The part that changes is taken from the page as the server renders it now; not while somebody fills in a form there.
async function refresh() {
  if (isLeaving) return;
  if (live.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return;
  try {
    const response = await fetch(live.dataset.page, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!response.ok || response.redirected) throw new Error(response.status);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    put(page.getElementById("live"), page.title);
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  }
}

function put(fresh, title) {
  clockAheadMs = Number(fresh.dataset.now) - performance.now();
  if (fresh.innerHTML === shown || isLeaving) return;
  shown = fresh.innerHTML;
  const opened = [...live.querySelectorAll("details")].map((one) => one.open);
  const focused = live.contains(document.activeElement) && document.activeElement.outerHTML;
  live.innerHTML = shown;
  const details = [...live.querySelectorAll("details")];
  if (details.length === opened.length) details.forEach((one, index) => (one.open = opened[index]));
  if (focused) [...live.querySelectorAll("a, button, summary")].find((one) => one.outerHTML === focused)?.focus();
  document.title = title;
  prepare(live);
  tick();
}

function tick() {
  const time = live.querySelector("[data-countdown]");
  if (!time) return;
  const seconds = Math.max(0, Math.ceil((Date.parse(time.dateTime) - clockAheadMs - performance.now()) / 1000));
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  time.textContent = `${parts.map((part) => String(part).padStart(2, "0")).join(":")} left`;
}

prepare(document);
if (live) {
  const stream = new EventSource(live.dataset.stream);
  stream.onmessage = refresh;
  setInterval(refresh, 10000); // deliveries change without the invoice
  setInterval(tick, 250);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}
// Back to a page that was kept as it was left: its buttons were pressed, and what it shows is old.
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
