"use strict";
// Reads a page again and again and changes only what is different, unless it is paused. htmx does
// the reading and the changing. Says since when a page is stale.
(() => {
  const page = () => document.getElementById("page");
  const freshness = document.getElementById("freshness");
  const button = document.getElementById("pause");
  if (!page() || !page().dataset.every) return;

  let paused = false;
  let lastMs = Date.now();
  let busy = false;

  function show() {
    button.hidden = false;
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
  }

  function refresh() {
    busy = true;
    lastMs = Date.now();
    htmx.trigger(page(), "refresh");
  }

  function failed() {
    busy = false;
    freshness.className = "stale";
    freshness.textContent = "The node does not answer: this page is as of " + page().dataset.now;
  }

  button.addEventListener("click", () => {
    paused = !paused;
    freshness.className = paused ? "stale" : "";
    freshness.textContent = (paused ? "Paused: this page is as of " : "As of ") + page().dataset.now;
    show();
    if (!paused) refresh();
  });

  document.addEventListener("htmx:after:request", (event) => {
    if (event.detail.ctx.sourceElement !== page()) return;
    const response = event.detail.ctx.response;
    if (response && response.raw && response.raw.ok) busy = false;
    else failed();
  });
  document.addEventListener("htmx:after:swap", () => {
    if (paused) return;
    freshness.className = "";
    freshness.textContent = "As of " + page().dataset.now;
  });
  document.addEventListener("htmx:error", failed);

  setInterval(() => {
    const everyMs = 1000 * Number(page().dataset.every || 0);
    const waitMs = busy ? 15000 : everyMs;
    if (everyMs && !paused && !document.hidden && Date.now() - lastMs >= waitMs) refresh();
  }, 500);
  show();
})();
