// Keeps the figures fresh: what is open, scrolled or has the focus stays so, and nothing changes
// while something is marked to be copied.
"use strict";

const EVERY_MS = 5000;

const figures = document.getElementById("figures");
const away = document.getElementById("away");
let shown = null;

const isPaused = (part) => part.querySelector("[data-paused]").dataset.paused;

function isMarking() {
  const marked = getSelection();
  return !marked.isCollapsed && figures.contains(marked.anchorNode);
}

function replace(fresh) {
  const focused = figures.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...figures.querySelectorAll(".scroll")].map((each) => [each.id, each.scrollLeft]);
  for (const open of figures.querySelectorAll("details[open]")) {
    const same = fresh.querySelector(`#${open.id}`);
    if (same) same.open = true;
  }
  figures.replaceChildren(...fresh.childNodes);
  for (const [id, left] of scrolled) {
    const same = document.getElementById(id);
    if (same) same.scrollLeft = left;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

async function refresh() {
  if (document.hidden || isMarking()) return;
  const address = document.body.dataset.figures;
  const answer = await fetch(address, { cache: "no-store" }).catch(() => null); // no connection
  if (answer?.status === 401) return location.reload();
  away.hidden = Boolean(answer?.ok);
  if (!away.hidden) return;
  const html = await answer.text();
  if (html === shown) return;
  const fresh = new DOMParser().parseFromString(html, "text/html").body;
  // Else the button on top would say something that is not so any more.
  if (isPaused(fresh) !== isPaused(figures)) return location.reload();
  replace(fresh);
  shown = html;
}

setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
