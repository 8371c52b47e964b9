"use strict";
// Reloads the page when the run's files have changed: lambda-grpo report --watch adds this to it. The reader stays at the
// same place, with the same filters and series. While the reader is busy, a note in the corner offers the new data.

(() => {
  const POLL_MS = 2000;
  const REST_MS = 2000; // without input, before the page is reloaded
  const TEXT_FIELDS = "input:not([type]), input[type=text], input[type=search], input[type=number], textarea";
  const PLACE = "lambda-grpo place"; // key of the reader's place in the tab's storage, from one load to the next
  const shown = document.currentScript.dataset.version;
  const note = document.createElement("button");
  let lastInput = -Infinity;

  // -- the reader's place ---------------------------------------------------------------------------------------------

  const fields = () => [...document.querySelectorAll("main input, main select")];
  const toggles = () => [...document.querySelectorAll("main button[data-toggle]")];

  function reload() {
    const place = {
      values: fields().map((field) => field.value),
      off: toggles().filter((one) => one.getAttribute("aria-pressed") === "false").map((one) => one.dataset.toggle),
      scroll: scrollY,
    };
    sessionStorage.setItem(PLACE, JSON.stringify(place));
    location.reload();
  }

  function restore(place) {
    const found = fields();
    if (found.length === place.values.length) {
      found.forEach((field, i) => {
        if (field.value === place.values[i]) return;
        field.value = place.values[i];
        field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input"));
      });
    }
    for (const button of toggles()) {
      if (place.off.includes(button.dataset.toggle) && button.getAttribute("aria-pressed") === "true") button.click();
    }
    scrollTo({ top: place.scroll, behavior: "instant" });
  }

  function whenReady(act) {
    const viewer = document.getElementById("viewer"); // the samples, which are unpacked after the page has loaded
    if (viewer && !viewer.dataset.ready) setTimeout(whenReady, 20, act);
    else act();
  }

  // -- the server -----------------------------------------------------------------------------------------------------

  function say(text) {
    note.textContent = text;
    note.hidden = text === "";
    if (!note.isConnected) document.body.append(note);
  }

  function isBusy() {
    return performance.now() - lastInput < REST_MS || !getSelection().isCollapsed
      || Boolean(document.activeElement?.matches(TEXT_FIELDS));
  }

  async function refresh() {
    if (document.hidden) return;
    let response;
    try {
      response = await fetch("/", { method: "HEAD", headers: { "If-None-Match": shown }, cache: "no-store" });
    } catch {
      say("No longer refreshed: lambda-grpo report --watch has ended");
      return;
    }
    const isNew = response.status !== 304 && response.headers.get("ETag") !== shown;
    if (isNew && !document.hidden && !isBusy()) reload();
    else say(isNew ? "New data: reload" : "");
  }

  async function poll() {
    await refresh();
    setTimeout(poll, POLL_MS);
  }

  note.style.cssText = "position: fixed; right: 1rem; bottom: 1rem; padding: .4rem .8rem; border: 0; border-radius: 4px; "
    + "font: 13px system-ui, sans-serif; color: #fff; background: #0550ae; cursor: pointer; z-index: 9";
  note.addEventListener("click", reload);
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel", "touchmove"]) {
    addEventListener(kind, () => { lastInput = performance.now(); }, { passive: true, capture: true });
  }
  document.addEventListener("visibilitychange", refresh);
  addEventListener("load", () => {
    const place = sessionStorage.getItem(PLACE);
    sessionStorage.removeItem(PLACE);
    if (place) whenReady(() => restore(JSON.parse(place)));
    setTimeout(poll, POLL_MS);
  });
})();
