// Makes the console quicker; everything works without it.
"use strict";

const live = document.getElementById("live");

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
    });
  }
}

// The part that changes is taken from the page as the server renders it now; not while somebody fills in a form there.
async function refresh() {
  if (live.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) return;
  const response = await fetch(location.pathname, { cache: "no-store" });
  if (!response.ok || response.redirected) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.getElementById("live");
  if (!fresh || fresh.innerHTML === live.innerHTML) return;
  const opened = [...live.querySelectorAll("details")].map((one) => one.open);
  live.innerHTML = fresh.innerHTML;
  const details = [...live.querySelectorAll("details")];
  if (details.length === opened.length) details.forEach((one, index) => (one.open = opened[index]));
  document.title = page.title;
  prepare(live);
}

prepare(document);
if (live) {
  const stream = new EventSource(live.dataset.stream);
  stream.onmessage = () => refresh().catch(() => {});
  setInterval(() => refresh().catch(() => {}), 10000); // deliveries change without the invoice
  document.addEventListener("visibilitychange", () => document.hidden || refresh().catch(() => {}));
}
