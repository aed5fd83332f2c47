"use strict";
// Reads a page again and again and changes only what is different. htmx does the reading and the
// changing. The line at the bottom says as of when the page is, and why it is not newer:
//
//   paused                  somebody has pressed the button
//   text is selected        a change could undo the selection; so does a pressed mouse button
//   the node does not answer, or answers with an error: the page stays as it is
//
// A hidden tab reads nothing. After an update of the node, the whole page is loaded again, unless
// somebody has typed into it. Ages are measured by a clock that nobody sets.
(() => {
  const TICK_MS = 500;
  const OLD_MS = 10000; // a page of this age is called old, whatever the reason
  const page = () => document.getElementById("page");
  const line = document.getElementById("line");
  const freshness = document.getElementById("freshness");
  const why = document.getElementById("why");
  const button = document.getElementById("pause");
  // With the colours of the system, the first change is to the others.
  document.addEventListener("click", (event) => {
    const colours = event.target.closest?.("button[name=theme]");
    if (!colours || document.documentElement.dataset.theme) return;
    colours.value = matchMedia("(prefers-color-scheme: dark)").matches ? "light" : "dark";
  });
  if (!page() || !page().dataset.every || !window.htmx) return;

  const release = page().dataset.release;
  let paused = false;
  let asked = false; // a request has no answer yet
  let pressed = false;
  let trouble = "";
  let triedMs = performance.now();
  let answeredMs = triedMs;

  function age(ms) {
    const s = Math.floor(ms / 1000);
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min";
    return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  }

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function show() {
    const ageMs = performance.now() - answeredMs;
    const everyMs = 1000 * Number(page().dataset.every || 0);
    const isOld = everyMs > 0 && ageMs >= OLD_MS + everyMs;
    const held = selecting() ? "Not refreshed while text is selected." : "";
    const lost = trouble || (isOld && asked ? "The node does not answer." : "");
    set(why, paused ? "Not refreshed." : lost || (isOld ? held : ""));
    set(freshness, "As of " + page().dataset.now + (isOld || trouble ? ", " + age(ageMs) + " ago" : ""));
    line.className = lost && !paused ? "lost" : paused ? "held" : "";
    document.documentElement.toggleAttribute("data-lost", Boolean(lost && !paused));
    set(button, paused ? "Refresh again" : "Stop refreshing");
    button.setAttribute("aria-pressed", String(paused));
  }

  function selecting() {
    const selection = getSelection();
    return !selection.isCollapsed && page().contains(selection.anchorNode);
  }

  function typed() {
    return [...document.querySelectorAll("#page input, #page textarea")].some(
      (field) => field.type !== "hidden" && field.value !== field.defaultValue);
  }

  function refresh() {
    asked = true;
    triedMs = performance.now();
    htmx.trigger(page(), "refresh");
  }

  // While the page is paused: an element may say what is new.
  function look() {
    triedMs = performance.now();
    for (const element of document.querySelectorAll("[data-while-paused]")) htmx.trigger(element, "look");
  }

  function tick() {
    const everyMs = 1000 * Number(page().dataset.every || 0);
    const isDue = everyMs && performance.now() - triedMs >= everyMs;
    if (isDue && !asked && !paused && !pressed && !document.hidden && !selecting()) refresh();
    if (isDue && paused && !document.hidden) look();
    show();
  }

  function ofPage(event) {
    return event.detail.ctx && event.detail.ctx.sourceElement === page();
  }

  function refused(ctx) {
    if (ctx.hx && ctx.hx.redirect) return ""; // to the page where one signs in
    const status = ctx.response.status;
    if (!ctx.response.raw.ok) return "The node answers with status " + status + ".";
    // A proxy may answer with a page of its own.
    return /^\s*<div id="page"/.test(ctx.text) ? "" : "Something else answers in place of the node.";
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    triedMs = -Infinity;
    tick();
  });
  addEventListener("pointerdown", () => { pressed = true; }, true);
  for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => { pressed = false; }, true);
  document.addEventListener("visibilitychange", tick);

  document.addEventListener("htmx:after:request", (event) => {
    if (!ofPage(event)) return;
    trouble = refused(event.detail.ctx);
    if (trouble || paused) event.preventDefault(); // the page stays as it is
    else answeredMs = performance.now();
  });
  document.addEventListener("htmx:error", (event) => {
    if (ofPage(event)) trouble = "The node does not answer.";
  });
  document.addEventListener("htmx:finally:request", (event) => {
    if (!ofPage(event)) return;
    asked = false;
    const isNew = page().dataset.release !== release;
    if (isNew && !typed() && sessionStorage.getItem("release") !== page().dataset.release) {
      sessionStorage.setItem("release", page().dataset.release); // once, not again and again
      location.reload();
    }
    show();
  });

  setInterval(tick, TICK_MS);
  show();
})();
