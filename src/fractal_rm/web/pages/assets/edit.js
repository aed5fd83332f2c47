"use strict";
// Helps to edit a file in a text area: numbers of lines with marks of findings, the picture of the
// flow at the cursor, and a copy of the draft in this tab, so that no refusal and no sign-in loses
// it. Without this script, everything works by buttons.
(() => {
  const done = document.querySelector("[data-drop-draft-of]"); // the page that says that it is saved
  if (done) sessionStorage.removeItem("draft of " + new URL(done.dataset.dropDraftOf, location.href).pathname);
  const form = document.getElementById("edit");
  if (!form) return;
  const text = form.elements.text;
  const line = form.elements.line;
  const numbers = form.querySelector(".numbers");
  const state = document.getElementById("draft-state");
  const key = "draft of " + location.pathname;
  const saved = text.defaultValue;
  let sending = false;

  function marks() {
    const found = new Map();
    for (const each of form.querySelectorAll("#checked [data-line]")) {
      if (found.get(each.dataset.line) !== "error") found.set(each.dataset.line, each.dataset.level);
    }
    return found;
  }

  function draw() {
    for (const each of form.querySelectorAll(".without-script")) each.hidden = true;
    const lines = text.value.split("\n");
    text.rows = lines.length;
    text.cols = Math.min(400, lines.reduce((most, each) => Math.max(most, each.length), 0) + 2);
    const found = marks();
    const parts = [];
    let plain = "";
    for (let number = 1; number <= lines.length; number++) {
      const level = found.get(String(number));
      if (!level) { plain += number + "\n"; continue; }
      const mark = document.createElement("b");
      mark.className = level;
      mark.textContent = number;
      parts.push(plain, mark);
      plain = "\n";
    }
    numbers.replaceChildren(...parts, plain);
  }

  function lineOf(index) { return text.value.slice(0, index).split("\n").length; }

  function place() {
    const now = String(lineOf(text.selectionStart));
    if (line.value === now) return;
    line.value = now;
    text.dispatchEvent(new CustomEvent("place"));
  }

  function keep() {
    try {
      if (text.value === saved && !form.dataset.changed) sessionStorage.removeItem(key);
      else sessionStorage.setItem(key, text.value);
    } catch { /* the tab has no room for it: the page still has the text */ }
    state.textContent = text.value === saved && !form.dataset.changed ? "as on the disk" : "changed, not saved";
  }

  function goTo(number) {
    const before = text.value.split("\n").slice(0, number - 1).join("\n").length + (number > 1 ? 1 : 0);
    const end = text.value.indexOf("\n", before);
    text.focus({ preventScroll: true });
    text.setSelectionRange(before, end < 0 ? text.value.length : end);
    const box = form.querySelector(".editor");
    box.scrollTop = Math.max(0, (number - 6) * (text.clientHeight / text.rows));
    place();
  }

  // htmx hears the events of the text only when it has seen the page.
  function whenReady(act) {
    if (!text.hasAttribute("hx-post") || text.hasAttribute("data-htmx-powered")) act();
    else text.addEventListener("htmx:after:init", act, { once: true });
  }

  text.addEventListener("input", () => { line.value = lineOf(text.selectionStart); draw(); keep(); });
  document.addEventListener("selectionchange", () => { if (document.activeElement === text) place(); });
  form.addEventListener("change", (event) => {
    if (event.target.name !== "flow") return;
    line.value = "";
    text.dispatchEvent(new CustomEvent("place"));
  });
  form.addEventListener("click", (event) => {
    const link = event.target.closest("#checked [data-line]");
    if (link && link.dataset.line !== "0") { event.preventDefault(); goTo(Number(link.dataset.line)); }
  });
  form.addEventListener("submit", () => { sending = true; keep(); });
  addEventListener("beforeunload", (event) => {
    if (!sending && text.value !== saved) event.preventDefault();
  });
  document.addEventListener("htmx:after:swap", draw);
  document.querySelector("[data-drop-draft]")?.addEventListener("click", () => {
    sending = true;
    sessionStorage.removeItem(key);
  });

  const draft = sessionStorage.getItem(key);
  if (draft !== null && !form.dataset.changed && draft !== saved && !text.readOnly) {
    text.value = draft;
    state.textContent = "changed, not saved";
    const note = document.getElementById("draft-note");
    note.hidden = false;
    note.querySelector("button").addEventListener("click", () => {
      text.value = saved;
      note.remove();
      text.dispatchEvent(new Event("input"));
    });
    // What stands beside the text is about the file, until the text is checked.
    const said = document.createElement("p");
    said.className = "muted";
    said.textContent = text.hasAttribute("hx-post") ? "The text is being checked." : "Not checked yet: press Check.";
    const findings = form.querySelector("#checked section");
    findings.replaceChildren(findings.querySelector("h2"), said);
    whenReady(() => text.dispatchEvent(new CustomEvent("place")));
  }
  draw();
  const wanted = /^#L([1-9][0-9]{0,6})$/.exec(location.hash);
  if (wanted) whenReady(() => goTo(Number(wanted[1])));
})();
